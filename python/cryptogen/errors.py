"""Every error that `cryptogen` raises on purpose. They carry what was expected and what was found,
never a secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class CryptogenError(Exception):
    """Base of all errors of this package."""


class InternalError(CryptogenError):
    """A bug of this package: no caller, no peer and no file can bring it about. The text says how
    to report it."""

    def __init__(self, what: str) -> None:
        self.what = what  # sizes and names, nothing secret
        super().__init__(
            f"internal error: {what}. This is a bug of cryptogen, not a mistake of yours or the peer's: please report "
            "this line, which holds nothing secret, to the maintainers (CONTRIBUTING.md)"
        )


class InputError(CryptogenError):
    """A caller's value (tokens, sampling options, messages) is outside what the operation
    accepts."""


class UnknownProtocol(InputError):
    """No protocol of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(f"unknown protocol {name!r}, expected one of {', '.join(self.known)}")


class ContextOverflow(InputError):
    """More tokens than the model has positions for."""

    def __init__(self, positions: int, context: int, what: str = "") -> None:
        self.positions, self.context = positions, context
        super().__init__(f"{what and what + ': '}{positions} positions needed, the model's context has {context}")


class NumericFailure(CryptogenError):
    """Logits that no text can give under the numeric plan: a truncation failed or a value wrapped.
    No row of the pass is sampled; both parties have finished it, so the connection goes on, but the
    text has to be started anew."""

    def __init__(self, largest: float, bound: float) -> None:
        self.largest, self.bound = largest, bound  # of |logit|
        super().__init__(
            f"the largest |logit| is {largest:.6g}, at most {bound:.6g} expected under this plan: "
            "a truncation failed or a value wrapped; the row was not sampled"
        )


class RangeExceeded(CryptogenError):
    """The next token's row has range events and the caller wanted to stop there
    (`on_range="stop"`). The token is not given; the text has to be started anew."""

    def __init__(self, events: int, token: int) -> None:
        self.events, self.token = events, token  # token: its number in the answer, from 1
        super().__init__(f"token {token}: {events} range events, 0 expected (docs/guide/ranges.md); it was not given")


class TokenizerError(CryptogenError):
    """A tokenizer file or its metadata cannot be read, or a token id is unknown to it."""


class ChatTemplateError(CryptogenError):
    """A model's chat template is malformed, takes too long, or refuses these messages; or there is
    none where one is needed."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"chat template: {problem}")


class WeightsError(CryptogenError):
    """Base of everything that can go wrong between a path and a `Checkpoint`."""


class UnsupportedModel(WeightsError):
    """The checkpoint is sound but asks for something that is not computed here; running it anyway
    would be wrong."""

    def __init__(self, option: str, value: object, supported: Iterable[object]) -> None:
        self.option, self.value, self.supported = option, value, tuple(supported)
        names = ", ".join(repr(s) for s in self.supported)
        super().__init__(f"unsupported model: {option} = {value!r}; supported: {names}")


class InvalidConfig(WeightsError):
    """A configuration value is missing, has the wrong type, or contradicts another one."""

    def __init__(self, option: str, expected: str, actual: object) -> None:
        self.option, self.expected, self.actual = option, expected, actual
        super().__init__(f"invalid configuration: {option} is {actual!r}, expected {expected}")


class MissingFile(WeightsError):
    """No file where one is needed."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(f"{path}: no such file ({what})")


class MalformedFile(WeightsError):
    """A file is there but its content is not what its format promises."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}")


class WrongFileSize(MalformedFile):
    """A file is shorter (truncated) or longer than its header says."""

    def __init__(self, path: Path, expected: int, actual: int) -> None:
        self.expected, self.actual = expected, actual
        kind = "truncated" if actual < expected else "too long"
        super().__init__(path, f"{kind}: {expected} bytes expected, {actual} found")


class MissingTensor(WeightsError):
    """A tensor that the architecture needs is absent."""

    def __init__(self, name: str, source: object) -> None:
        self.name, self.source = name, source
        super().__init__(f"{source}: tensor {name!r} is missing")


class UnexpectedTensor(WeightsError):
    """A tensor that the architecture does not have: ignoring it would compute another model."""

    def __init__(self, names: Iterable[str], source: object) -> None:
        self.names, self.source = tuple(sorted(names)), source
        shown = ", ".join(self.names[:5]) + (", …" if len(self.names) > 5 else "")
        super().__init__(f"{source}: {len(self.names)} tensor(s) unknown to this architecture: {shown}")


class TensorMismatch(WeightsError):
    """A tensor has another shape, dtype or kind of values than the configuration says."""

    def __init__(self, name: str, field: str, expected: object, actual: object) -> None:
        self.name, self.field, self.expected, self.actual = name, field, expected, actual
        super().__init__(f"tensor {name!r}: {field} is {actual}, expected {expected}")


class MissingPackage(WeightsError):
    """A model package is neither installed nor downloaded, or the download failed."""


class SessionError(CryptogenError):
    """Base of everything that goes wrong between the two parties. The Rust core raises these by
    name."""


class Forked(SessionError):
    """A connection, or its material, was used in a process that was forked from the one that had
    opened it. The child needs a `Client` or `Server` of its own; the parent's goes on unharmed."""


class ConnectionFailed(SessionError):
    """No connection could be made: nobody listens there, or the name is unknown, or TLS failed, or
    an address, a client id, a certificate or a key that was given cannot be used."""


class ConnectionLost(SessionError):
    """The peer went away in the middle. Material already released is spent; the rest stays in the
    store."""


class PeerTimeout(SessionError):
    """The peer sent nothing for longer than the idle limit."""


class AddressInUse(SessionError):
    """Another process already listens on this address."""


class WrongFingerprint(SessionError):
    """The server's certificate is not the one that the client pinned."""


class WrongAccessToken(SessionError):
    """The server does not accept the client's access token."""


class VersionMismatch(SessionError):
    """The parties speak different versions of the protocol, or use different lattice parameters."""


class AgreementMismatch(SessionError):
    """The parties do not hold the same model, plan or tables."""


class PeerFailed(SessionError):
    """The peer reports that it failed; only its phase and kind of failure are known here."""


class ProtocolViolation(SessionError):
    """The peer's fault: it sent something that the protocol does not allow, a malformed, oversized
    or unexpected message."""


class MaterialError(CryptogenError):
    """Base of what can go wrong with single-use material and its store."""


class MaterialShort(MaterialError):
    """Less material is left than the step needs; `prepare` makes more."""


class MaterialMismatch(MaterialError):
    """The parties' stores disagree on what is left; `resync` drops what only one of them has."""


class MaterialSpent(MaterialError):
    """Single-use material was to be used a second time. It was not, and nothing was sent for it."""


class StoreLocked(MaterialError):
    """Another process or thread uses this store."""


class StoreError(MaterialError):
    """A file of ours, of the store or beside it, cannot be read or written, or is damaged. The text
    names it."""


class DiskFull(StoreError):
    """No space left for material, or for a file of ours. Nothing is reused. While material is
    bought, the other party may have spent `linears` of the batch already, of up to 256 rows: the
    next session says `MaterialMismatch` then, and `resync` drops them."""


class CacheRejected(CryptogenError):
    """A saved encrypted cache is of another model, key, layout or version, or damaged."""


class PlanError(CryptogenError):
    """A plan document that cannot be used: which field, what was expected, what came; of which
    file, if it is one."""

    def __init__(self, field: str, expected: object, actual: object, file: object = None) -> None:
        where = "plan" if file is None else f"plan {file}"
        super().__init__(f"{where}: {field}: expected {expected}, got {actual!r}")
        self.field, self.expected, self.actual = field, expected, actual


class PlanRejected(CryptogenError):
    """The numeric plan is malformed, or it or the model asks for more than the protocol can
    represent."""


class PlanUnfaithful(CryptogenError):
    """A plan with which the protocol's answers would not be the model's on some kinds of text:
    `faults`, by text."""

    def __init__(self, faults: Mapping[str, Sequence[str]]) -> None:
        self.faults = faults
        named = [f"{name}: {', '.join(found)}" for name, found in faults.items()]
        kinds = "one kind of text" if len(named) == 1 else f"{len(named)} kinds of text"
        super().__init__("\n".join([f"the integers do not follow the model on {kinds}", *named]))


class MissingPlan(CryptogenError):
    """No numeric plan for a model: `cryptogen calibrate` makes one."""


class Refused(CryptogenError):
    """A client asks for more than this server gives."""


class Busy(Refused):
    """All places of a server are taken."""


class ReplayError(CryptogenError):
    """A replayed value is not one of the two legal outcomes, or there are too few or too many
    values."""


class Disagreed(CryptogenError):
    """The private run chose a token that the clear model clearly does not prefer."""


class PeerUnavailable(CryptogenError):
    """Another system that a benchmark compares with cannot be installed or does not run here."""


class NotBuilt(CryptogenError):
    """A part that this installation does not have."""

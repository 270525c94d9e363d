"""The Rust core. Private: use `cryptogen.Server`, `cryptogen.Client` and the backends. Handles
refuse copy and pickle.

Every method that talks releases the GIL, can be interrupted by Ctrl-C, and raises the classes of
`cryptogen.errors`. The two endpoints' steps are counterparts: the peer must call the same step at
the same time.
"""

from collections.abc import Callable
from typing import Generic, NoReturn, Protocol, TypeVar, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "KERNELS", "PARAMETERS", "STORE_FORMAT", "VERSION",
    "CheckedPlan", "ClientConnection", "ClientEndpoint", "ClientTensor", "Identity",
    "Listener", "Prefix", "ServerConnection", "ServerEndpoint", "ServerModel", "ServerModelBuilder", "ServerTensor",
]  # fmt: skip
VERSION: str
KERNELS: str  # portable, avx2 or avx512: the widest that run here, or that $CRYPTOGEN_KERNELS allows
PARAMETERS: str  # names of the lattice parameter sets
STORE_FORMAT: int  # version of a store's files

_Progress = Callable[[str, int, int], None]  # (phase, done, total); an exception stops the work

class _Need(Protocol):  # records of each pool: `session.material.Need`, `messages.Prepare`
    @property
    def linears(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def logits(self) -> int: ...
    @property
    def exponentials(self) -> int: ...

@final
class CheckedPlan:
    """A checked plan with its tables (`numerics.plan.NumericPlan.to_json()`,
    `numerics.plan.tables`)."""

    def __new__(cls, json: str, tables: list[NDArray[np.int64]]) -> CheckedPlan: ...
    @staticmethod
    def exponentials_needed(first: int, rows: int) -> int: ...  # in pairs of rows
    def why(self, protocol: str, rows: int) -> list[str]: ...  # layouts in ciphertexts and their reasons
    @property
    def row_bytes(self) -> int: ...
    @property
    def exponential_bytes(self) -> tuple[int, float]: ...  # of a pair of rows: in a store, on the wire

@final
class ServerModelBuilder:
    """Takes the integer weights of a plan, rows after rows, and keeps the only copy. What the plan
    does not have, rows too many, and what is missing in the end raise `InputError`."""

    def __new__(cls, plan: CheckedPlan) -> ServerModelBuilder: ...
    # "embed" [n, d], "pos" [n, d]
    def table(self, name: str, rows: NDArray[np.int32]) -> None: ...
    def weight(self, site: str, rows: NDArray[np.int16]) -> None: ...  # [n, d_in]
    def bias(self, site: str, bias: NDArray[np.int64]) -> None: ...  # [d_out]
    def finish(self) -> ServerModel: ...  # once

@final
class ServerModel:
    """The server's integer weights."""

    # files read, written; warnings
    def load_encoded(self, plan: CheckedPlan, folder: str) -> tuple[int, int, list[str]]: ...

@final
class Prefix:
    """Keys, rotated, and values of the rows that a session begins with, [rows, kv_dim] of each
    layer; the server's alone."""

    def __new__(cls, plan: CheckedPlan, keys: list[NDArray[np.int64]], values: list[NDArray[np.int64]]) -> Prefix: ...
    @property
    def rows(self) -> int: ...

@final
class Identity:
    """TLS certificate and key: self-signed and kept in a directory, or PEM files."""

    @staticmethod
    def load_or_create(directory: str) -> Identity: ...
    @staticmethod
    def from_pem(certificates: str, key: str) -> Identity: ...
    @property
    def fingerprint(self) -> str: ...  # SHA-256 of the certificate, hex

@final
class Listener:
    def __new__(cls, address: str, identity: Identity) -> Listener: ...
    @property
    def address(self) -> str: ...
    def accept(self, timeout: float) -> ServerConnection | None: ...  # None after `timeout` seconds

class _Connection:
    def agree(self, model: str, plan: str, tables: str) -> None: ...
    def send_control(self, json: str) -> None: ...
    def recv_control(self) -> str: ...
    def send_failure(self, kind: str, text: str) -> None: ...
    def set_idle_timeout(self, seconds: float) -> None: ...

@final
class ServerConnection(_Connection):
    def welcome(self, access_token: str | None) -> str: ...  # returns the client id
    def open(
        self,
        plan: CheckedPlan,
        store: str,
        peer: str,
        model: str,
        plan_digest: str,
        resync: bool,
        protocol: str,
    ) -> ServerEndpoint: ...

@final
class ClientConnection(_Connection):
    @staticmethod
    def connect(address: str, fingerprint: str | None, ca_file: str | None) -> ClientConnection: ...
    def hello(self, client_id: str, access_token: str | None) -> None: ...
    def open(
        self,
        plan: CheckedPlan,
        store: str,
        peer: str,
        model: str,
        plan_digest: str,
        resync: bool,
        protocol: str,
    ) -> ClientEndpoint: ...

class _Tensor:
    """A party's share of activations; opaque."""

    @property
    def rows(self) -> int: ...

@final
class ServerTensor(_Tensor): ...

@final
class ClientTensor(_Tensor): ...

_T = TypeVar("_T", bound=_Tensor)

class _Endpoint(Generic[_T]):
    def __copy__(self) -> NoReturn: ...
    def send_control(self, json: str) -> None: ...
    def recv_control(self) -> str: ...
    def send_failure(self, kind: str, text: str) -> None: ...
    def set_idle_timeout(self, seconds: float) -> None: ...
    def stats(self) -> str: ...  # JSON per phase: bytes, messages, round trips
    def stock(self) -> dict[str, int]: ...  # linears, rows, logits, exponentials left in the store
    def extend(self, rows: int) -> None: ...  # give the next rows a position and their attention material
    def take_logits(self, n: int) -> None: ...
    def crop(self, rows: int) -> None: ...  # keep so many rows; what was prepared ahead is dropped with the others
    def reset(self) -> None: ...  # a new session: empty cache
    @property
    def length(self) -> int: ...  # rows in the cache
    @property
    def ready_rows(self) -> int: ...  # rows that have a position and material but no token yet
    @property
    def ready_logits(self) -> int: ...
    def norm(self, h: _T, into: str) -> _T: ...  # into: the linear site that follows
    def attention(self, qkv: _T, layer: int) -> _T: ...
    def activation(self, u: _T, layer: int) -> _T: ...
    def add(self, h: _T, y: _T) -> _T: ...
    def last(self, h: _T) -> _T: ...
    def insecure_trace(self) -> NDArray[np.uint64]: ...  # test builds only

@final
class ServerEndpoint(_Endpoint[ServerTensor]):
    def counters(self) -> str: ...  # JSON: `counts` of operations so far, `state` as it is now
    def save_cache(self, path: str, model: str) -> None: ...  # `model`: names model and plan
    def load_cache(self, path: str, model: str) -> int: ...  # a new session; its rows
    def send_shape(self) -> None: ...  # after `load_cache`
    def prepare(self, model: ServerModel, need: _Need, progress: _Progress | None = None) -> None: ...
    def put_prefix(self, prefix: Prefix) -> None: ...  # an empty session begins with these rows
    def embed(self, model: ServerModel, rows: int, sampled: int) -> ServerTensor: ...
    def linear(self, model: ServerModel, x: ServerTensor, site: str) -> ServerTensor: ...
    def logits(self, model: ServerModel, x: ServerTensor) -> None: ...

@final
class ClientEndpoint(_Endpoint[ClientTensor]):
    def resume_cache(self) -> int: ...  # counterpart of `send_shape`: a new session; its rows
    def prepare(self, need: _Need, progress: _Progress | None = None) -> None: ...
    def put_prefix(self, rows: int) -> None: ...  # its counterpart
    def embed(self, tokens: list[int], sampled: int) -> ClientTensor: ...
    def linear(self, x: ClientTensor, site: str) -> ClientTensor: ...
    # [rows, vocab], scale 2^coarse_logit_bits; range events of each row
    def logits(self, x: ClientTensor) -> tuple[NDArray[np.int64], NDArray[np.uint64]]: ...

"""Canonical float weights → integers (`docs/protocols/arithmetic.md`, A5)."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import PlanError
from cryptogen.weights.canonical import LOG2_E, Canonical, blocks, row_peaks
from cryptogen.weights.tensors import Made

from .pieces import F
from .plan import MAX_WEIGHT_BITS, ModelShape, NumericPlan

WEIGHT_LIMIT = 1 << 15  # |W| stays below
TABLE_LIMIT = 1 << 31  # entries of the embedding and of positions


class Part(NamedTuple):
    """Some rows of one of the server's integer arrays, or all of a bias. Those of an array come one
    behind the other, and an array is complete before the next one begins."""

    name: str  # embed, pos, or a site
    kind: str  # table: int32; weight: int16, each row at the plan's scale; bias: int64
    shape: tuple[int, ...]  # of the whole array
    numbers: NDArray[Any]


@dataclass(frozen=True)
class IntegerModel:
    """What the server computes with. Matrices [d_out, d_in] int16, each row at the plan's scale."""

    embed: NDArray[np.int32]  # [vocab, d], scale F + shift
    pos: NDArray[np.int32] | None  # [context, d]
    matrices: Mapping[str, NDArray[np.int16]]
    biases: Mapping[str, NDArray[np.int64]]  # [d_out], 2^F times the rows' scales; absent where there is none

    def parts(self) -> Iterator[Part]:
        """The same as `integer_parts` gives, each array in one part."""
        for name, table in (("embed", self.embed), ("pos", self.pos)):
            if table is not None:
                yield Part(name, "table", table.shape, table)
        for site, matrix in self.matrices.items():
            yield Part(site, "weight", matrix.shape, matrix)
            if site in self.biases:
                yield Part(site, "bias", self.biases[site].shape, self.biases[site])

    def digest(self) -> str:
        """See `ModelDigest`."""
        digest = ModelDigest()
        for _ in digest.of(self.parts()):
            pass
        return digest.hex()


@dataclass
class ModelDigest:
    """SHA-256 over names, shapes and contents of an integer model, which goes by in parts."""

    _sha: Any = field(default_factory=hashlib.sha256)
    _array: tuple[str, str] | None = None

    def of(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Hands parts on and takes note of them."""
        for part in parts:
            if self._array != (part.name, part.kind):
                self._array = (part.name, part.kind)
                self._sha.update(f"{part.name} {part.kind} {part.numbers.dtype.str}{part.shape}".encode())
            self._sha.update(np.ascontiguousarray(part.numbers).data)
            yield part

    def hex(self) -> str:
        """Of what has gone by."""
        digest: str = self._sha.hexdigest()
        return digest


def row_factors(shape: ModelShape, site: str) -> NDArray[np.float64]:
    """What a matrix's rows are multiplied by before they are rounded, [d_out]: queries by log2(e),
    because the parties' exponentials are powers of two (A5.5)."""
    _, d_out = shape.sites()[site]
    factors = np.ones(d_out)
    if site.endswith(".qkv"):
        factors[: shape.q_dim] = LOG2_E
    return factors


def weight_bits(matrix: Iterable[NDArray[np.float32]], factors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of each row, times its factor, the largest `f_w ≤ 15` with `|round(W·2^f_w)| < 2^15`, for a
    matrix that comes some rows at a time. Raises PlanError if 0 is too much."""
    largest = row_peaks(matrix).astype(np.float64) * factors
    scales = 2.0 ** np.arange(MAX_WEIGHT_BITS + 1)
    bits: NDArray[np.int64] = (np.rint(largest[:, None] * scales) < WEIGHT_LIMIT).sum(axis=1) - 1
    if bits.min() < 0:
        raise PlanError("weights", f"entries below {WEIGHT_LIMIT}", float(largest.max()))
    return bits


def quantise(model: Canonical, plan: NumericPlan) -> IntegerModel:
    """Rounds every weight to the scales of the plan.

    Raises PlanError if they do not fit the model.
    """
    of = _joined(integer_parts(model, plan))
    return IntegerModel(of["table"]["embed"], of["table"].get("pos"), of["weight"], of["bias"])


def on_demand(model: Canonical, plan: NumericPlan, tokens: Sequence[int]) -> IntegerModel:
    """The same for one pass over a text, with little in memory if little of `model` is: a matrix is
    made when it is asked for, each time anew, and not kept; the embedding has the rows of these
    tokens alone, one behind the other."""
    sites, wanted, at = plan.model.sites(), np.asarray(tokens), 0
    embed = np.empty((len(tokens), plan.model.d), dtype=np.int32)
    for part in _table(model, "embed", plan):
        here = (wanted >= at) & (wanted < at + len(part.numbers))
        embed[here] = part.numbers[wanted[here] - at]
        at += len(part.numbers)
    pos = _joined(_table(model, "pos", plan))["table"]["pos"] if "pos" in model.tables else None
    matrices = Made(sites, lambda site: _joined(_matrix(model, site, plan))["weight"][site])
    biases = {site: part.numbers for site in sites for part in _bias(model, site, plan)}
    return IntegerModel(embed, pos, matrices, biases)


def _joined(parts: Iterable[Part]) -> dict[str, dict[str, NDArray[Any]]]:
    """Whole arrays, by kind and name."""
    arrays: dict[str, dict[str, NDArray[Any]]] = {"table": {}, "weight": {}, "bias": {}}
    filled = 0
    for part in parts:
        of_kind = arrays[part.kind]
        if part.name not in of_kind:
            of_kind[part.name], filled = np.empty(part.shape, part.numbers.dtype), 0
        of_kind[part.name][filled : filled + len(part.numbers)] = part.numbers
        filled += len(part.numbers)
    return arrays


def integer_parts(model: Canonical, plan: NumericPlan) -> Iterator[Part]:
    """The same some rows at a time, the largest arrays first: while they are read as floats, little
    else is in memory."""
    for name in ("embed", "pos"):
        if name in model.tables:
            yield from _table(model, name, plan)
    for site in ("head", *(site for site in plan.model.sites() if site != "head")):
        yield from _matrix(model, site, plan)
        yield from _bias(model, site, plan)


def _scales(plan: NumericPlan, site: str) -> NDArray[np.float64]:
    """The scale of each of a matrix's rows, [d_out]."""
    bits = [plan.logit_bits - F] if site == "head" else plan.linears[site].out_shift
    return row_factors(plan.model, site) * 2.0 ** np.array(bits)


def _table(model: Canonical, name: str, plan: NumericPlan) -> Iterator[Part]:
    bits, shape = F + plan.embed.shift, (plan.model.vocab if name == "embed" else plan.model.context, plan.model.d)
    for at, rows in _rows(model.tables, name, shape):
        rounded = np.rint(rows.astype(np.float64) * 2.0**bits)
        _below(TABLE_LIMIT, f"{name}: row {at} or a later one", rounded)
        yield Part(name, "table", shape, rounded.astype(np.int32))


def _bias(model: Canonical, site: str, plan: NumericPlan) -> Iterator[Part]:
    if (bias := model.bias[site]) is not None:
        rounded = np.rint(bias.astype(np.float64) * 2.0**F * _scales(plan, site)).astype(np.int64)
        yield Part(site, "bias", rounded.shape, rounded)


def _matrix(model: Canonical, site: str, plan: NumericPlan) -> Iterator[Part]:
    (d_in, d_out), scales = plan.model.sites()[site], _scales(plan, site)
    shape = (d_out, d_in)
    for at, rows in _rows(model.weight, site, shape):
        rounded = np.rint(rows.astype(np.float64) * scales[at : at + len(rows), None])
        _below(WEIGHT_LIMIT, f"{site}: weight", rounded)
        yield Part(site, "weight", shape, rounded.astype(np.int16))


def _rows(
    matrices: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, int]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blocks of rows and where each begins. PlanError unless they make up a matrix of this
    shape."""
    at = 0
    for rows in blocks(matrices, name):
        if rows.shape[1] != shape[1] or at + len(rows) > shape[0]:
            raise PlanError(name, shape, (at + len(rows), rows.shape[1]))
        yield at, rows
        at += len(rows)
    if at != shape[0]:
        raise PlanError(name, shape, (at, shape[1]))


def _below(limit: int, what: str, rounded: NDArray[np.float64]) -> None:
    largest = float(max(rounded.max(initial=0.0), -rounded.min(initial=0.0)))
    if largest >= limit:
        raise PlanError(what, f"below 2^{limit.bit_length() - 1} at the scale of its row", largest)

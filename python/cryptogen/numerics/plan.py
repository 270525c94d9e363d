"""The numeric plan: every public constant of the integer arithmetic
(`docs/protocols/plan-schema.md`).

Made by `calibrate`, stored as JSON beside the model, agreed on by digest when a session opens.
Nothing in it is secret.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryptogen.errors import PlanError
from cryptogen.models.config import ModelConfig

from .anchors import ANCHORS
from .document import read
from .exponential import (
    FAILURE_BITS,
    LEAST_PRIMES,
    MANTISSA_BITS,
    MAX_ANCHOR_BITS,
    MODULUS_BITS,
    PRIMES,
    RESULT_BITS,
)
from .functions import check_function
from .pieces import MAX_ENTRY, NET_H, NET_INSIDE, NET_K, NET_SHIFT, F, IntTable, make

VERSION = 5
MAX_SHIFT = 32  # p mod 2^k = 1 holds up to here
MAX_WEIGHT_BITS = 15  # f_w of a matrix's rows
LOGIT_ROOM = 62  # log2 of what the head's bound is scaled up to at most: half of what the field holds (A8)
MAX_LOGIT_SHIFT = 40  # the leading 24 bits of a number modulo p are in units of about 2^40
MAX_WINDOWS = 64  # of one layer's activations
MAX_ENTRIES = 1 << 26  # of all tables together: 512 MB


@dataclass(frozen=True)
class ModelShape:
    layers: int
    d: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    gated: bool
    parallel: bool
    vocab: int
    context: int

    @staticmethod
    def of(config: ModelConfig) -> "ModelShape":
        """What of a model's configuration the protocol needs to know."""
        return ModelShape(**{f.name: getattr(config, f.name) for f in dataclasses.fields(ModelShape)})

    @property
    def q_dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    def sites(self) -> dict[str, tuple[int, int]]:
        """Linear sites in execution order with `(d_in, d_out)`."""
        sites = {}
        for i in range(self.layers):
            sites[f"layers.{i}.qkv"] = (self.d, self.q_dim + 2 * self.kv_dim)
            sites[f"layers.{i}.o"] = (self.q_dim, self.d)
            sites[f"layers.{i}.up"] = (self.d, (2 if self.gated else 1) * self.ff)
            sites[f"layers.{i}.down"] = (self.ff, self.d)
        return sites | {"head": (self.d, self.vocab)}

    def norm_sites(self) -> list[str]:
        """Norm sites in the order of `NumericPlan.norms`."""
        return [f"layers.{i}.{n}" for i in range(self.layers) for n in ("attn_norm", "mlp_norm")] + ["final_norm"]


@dataclass(frozen=True)
class Embed:
    shift: int


@dataclass(frozen=True)
class Rope:
    bits: int
    cos: int  # table ids, [context · head_dim/2] entries, position-major
    sin: int


@dataclass(frozen=True)
class Range:
    mu: int
    h: int
    k: int
    a: int
    b: int
    g: int  # guard
    z: int | None

    @property
    def end(self) -> int:
        """log2 of where the window ends."""
        return self.mu + self.h + self.k


@dataclass(frozen=True)
class Scalar:
    hi: Range
    lo: Range | None
    out_shift: int

    @property
    def net_lift(self) -> int:
        """How far an argument is shifted to the left in front of the net (A4)."""
        return max(NET_SHIFT + NET_H + NET_INSIDE - self.hi.end, 0)

    @property
    def net_h(self) -> int:
        """Shift of the net's index: the window is `2^NET_INSIDE` of its segments."""
        return self.hi.end + self.net_lift - NET_SHIFT - NET_INSIDE


@dataclass(frozen=True)
class Norm:
    pre_shift: int
    scalar: Scalar


@dataclass(frozen=True)
class Linear:
    d_in: int
    d_out: int
    in_shift: tuple[int, ...]
    out_shift: tuple[int, ...]  # f_w: one for all rows, or one for each


@dataclass(frozen=True)
class Head:
    """Exponentials of a head's scores are computed modulo the first `primes` primes, right from
    `bottom` bits below the anchor on; `shift` bits of them are cut off (A9)."""

    anchor: str  # which scores of a row the others are taken relative to
    primes: int
    bottom: int
    shift: int
    o_shift: int
    scalar: Scalar

    @property
    def bits(self) -> int:
        """log2 of the exponential of a score at the anchor."""
        return 2 * MANTISSA_BITS + self.bottom - self.shift


@dataclass(frozen=True)
class Attention:
    heads: tuple[Head, ...]


@dataclass(frozen=True)
class Window:
    """`[−2^(h+k−1), 2^(h+k−1))` of an activation's input. Without guard if no input can lie
    outside."""

    h: int
    a: int
    b: int
    c: int | None  # of a plain activation
    g: int | None


@dataclass(frozen=True)
class Activation:
    k: int
    windows: tuple[Window, ...]
    of: tuple[int, ...]  # number of each neuron's window

    @property
    def guarded(self) -> bool:
        return self.windows[0].g is not None


@dataclass(frozen=True)
class NumericPlan:
    version: int
    model_digest: str
    model: ModelShape
    f: int
    logit_bits: int
    logit_bound: int  # more than any logit can be, scale 2^logit_bits
    embed: Embed
    rope: tuple[Rope | None, ...]  # of each layer
    norms: tuple[Norm, ...]
    linears: dict[str, Linear]
    attention: tuple[Attention, ...]
    activations: tuple[Activation, ...]
    tables: int
    functions: tuple[dict[str, Any], ...]
    statistics: dict[str, Any]

    @property
    def logit_shift(self) -> int:
        """By how many bits logits are shifted up before their leading 24 bits are taken (A8)."""
        log = (self.logit_bound - 1).bit_length()
        return min(max(LOGIT_ROOM - log, 0), MAX_LOGIT_SHIFT)

    @property
    def coarse_logit_bits(self) -> int:
        """Scale of the logits that the client learns: the leading 24 bits of those of
        `logit_bits`."""
        return self.logit_bits + self.logit_shift - MAX_LOGIT_SHIFT

    @property
    def coarse_logit_bound(self) -> int:
        """The largest of these that any logits within the head's bound can give."""
        return -(-self.logit_bound >> (MAX_LOGIT_SHIFT - self.logit_shift)) + 1

    def to_json(self) -> str:
        """Canonical compact JSON (sorted keys): what is stored, sent and hashed."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(text: str) -> "NumericPlan":
        """Parses and checks a document. Raises PlanError on anything but a sound plan of this
        version."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError("document", "JSON", str(error)) from None
        if not isinstance(value, dict):
            raise PlanError("document", "an object", type(value).__name__)
        if value.get("version") != VERSION:
            raise PlanError("version", VERSION, value.get("version"))
        plan: NumericPlan = read(NumericPlan, value, "")
        check(plan)
        return plan

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> "NumericPlan":
        """Raises PlanError (content) or OSError (file)."""
        if Path(path).is_dir():
            raise PlanError("document", "a file", f"the folder {path}")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PlanError("document", "UTF-8 text", f"{error.reason} at byte {error.start}", path) from None
        try:
            return NumericPlan.from_json(text)
        except PlanError as error:
            raise PlanError(error.field, error.expected, error.actual, path) from None

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def tables(plan: NumericPlan) -> list[IntTable]:
    """All public integer tables, numbered as the plan numbers them. Deterministic; computed alike
    by both parties.

    Raises PlanError for an entry of 46 bits or more.
    """
    numbered: dict[int, IntTable] = {}
    for i, function in enumerate(plan.functions):
        for number, table in zip(function["tables"], make(function), strict=True):
            if (largest := float(np.abs(table).max())) >= MAX_ENTRY:
                raise PlanError(f"functions[{i}]: entry", "below 2^46", largest)
            numbered[number] = table
    return [numbered[i] for i in range(plan.tables)]


def tables_digest(made: list[IntTable]) -> str:
    """SHA-256 over every table: its length, then its entries, all little-endian 64-bit."""
    digest = hashlib.sha256()
    for table in made:
        digest.update(len(table).to_bytes(8, "little") + np.ascontiguousarray(table, dtype="<i8").tobytes())
    return digest.hexdigest()


def check(plan: NumericPlan) -> None:
    """Everything the arithmetic relies on. Raises PlanError."""
    m = plan.model
    _equal("f", F, plan.f)
    _within("logit_bits", plan.logit_bits, F, F + MAX_WEIGHT_BITS)
    for name in ("layers", "d", "heads", "kv_heads", "head_dim", "ff", "vocab", "context"):
        _within(f"model.{name}", getattr(m, name), 1, 1 << 20)
    _equal("model.heads mod kv_heads", 0, m.heads % m.kv_heads)
    _equal("rope", m.layers, len(plan.rope))
    _equal("norms", 2 * m.layers + 1, len(plan.norms))
    _equal("attention", m.layers, len(plan.attention))
    _equal("activations", m.layers, len(plan.activations))
    _equal("linears", sorted(m.sites()), sorted(plan.linears))
    for site, (d_in, d_out) in m.sites().items():
        linear = plan.linears[site]
        _equal(f"{site}.d_in", d_in, linear.d_in)
        _equal(f"{site}.d_out", d_out, linear.d_out)
        _equal(f"{site}.in_shift", d_in, len(linear.in_shift))
        if len(linear.out_shift) not in (1, d_out):
            raise PlanError(f"{site}.out_shift", f"1 or {d_out} shifts", len(linear.out_shift))
        for shift in linear.out_shift:
            _within(f"{site}.out_shift", shift, int(site.endswith(".up")), MAX_WEIGHT_BITS)
    for layer, attention in enumerate(plan.attention):
        _equal(f"attention[{layer}].heads", m.heads, len(attention.heads))
        for g, head in enumerate(attention.heads):
            _check_head(f"attention[{layer}].heads[{g}]", head)
        kinds = {(h.scalar.hi.k, h.scalar.lo.k if h.scalar.lo else None) for h in attention.heads}
        _equal(f"attention[{layer}]: scalar classes", 1, len(kinds))
    for layer, activation in enumerate(plan.activations):
        where = f"activations[{layer}]"
        _within(f"{where}: windows", len(activation.windows), 1, MAX_WINDOWS)
        _equal(f"{where}: neurons", m.ff, len(activation.of))
        _within(f"{where}: window", min(activation.of), 0, len(activation.windows) - 1)
        _within(f"{where}: window", max(activation.of), 0, len(activation.windows) - 1)
        _equal(f"{where}: windows with a guard", 1, len({w.g is None for w in activation.windows}))
        _equal(f"{where}: windows with a table C", {not m.gated}, {w.c is not None for w in activation.windows})
    _within("logit_bound", plan.logit_bound, 0, (1 << 64) - 1)
    for where, shift in _shifts(plan):
        _within(where, shift, 0, MAX_SHIFT)
    for where, shift in _positive_shifts(plan):
        _within(where, shift, 1, MAX_SHIFT)
    for where, scalar in _scalars(plan):
        _within(f"{where}.scalar.hi: end", scalar.hi.end, 0, MAX_SHIFT + NET_SHIFT - NET_K + NET_INSIDE)
    for where, h, k, ids in _lookups(plan):
        _within(f"{where}: k", k, 4, 16)
        _within(f"{where}: h + k", h + k, 5, MAX_SHIFT)  # an index modulo 2^k does not depend on how shares wrap
        for number in ids:
            _within(f"{where}: table", number, 0, plan.tables - 1)
    entries = [check_function(f"functions[{i}]", function) for i, function in enumerate(plan.functions)]
    _within("entries of all tables", sum(entries), 0, MAX_ENTRIES)
    sizes = {n: e // len(f["tables"]) for f, e in zip(plan.functions, entries, strict=True) for n in f["tables"]}
    numbers = sorted(n for f in plan.functions for n in f["tables"])
    _equal("tables", len(numbers), plan.tables)
    _equal("tables made by functions", list(range(len(numbers))), numbers)
    for where, _, k, ids in _lookups(plan):
        for number in ids:
            _equal(f"{where}: length of table {number}", 1 << k, sizes[number])
    for i, rope in enumerate(plan.rope):
        for number in (rope.cos, rope.sin) if rope else ():
            _within(f"rope[{i}]: table", number, 0, plan.tables - 1)
            _equal(f"rope[{i}]: length of table {number}", m.context * (m.head_dim // 2), sizes[number])


def _check_head(where: str, head: Head) -> None:
    if head.anchor not in ANCHORS:
        raise PlanError(f"{where}.anchor", tuple(ANCHORS), head.anchor)
    _within(f"{where}.primes", head.primes, LEAST_PRIMES, len(PRIMES))
    modulus = MODULUS_BITS[head.primes]
    _within(f"{where}.bottom", head.bottom, 1, modulus - 2 * MANTISSA_BITS - FAILURE_BITS)
    _within(f"{where}.shift", head.shift, 1, modulus - RESULT_BITS)
    _within(f"{where}: bits at the anchor", head.bits, 1, MAX_ANCHOR_BITS)


def _shifts(plan: NumericPlan) -> Iterator[tuple[str, int]]:
    yield "embed.shift", plan.embed.shift
    yield from ((f"rope[{i}].bits", rope.bits) for i, rope in enumerate(plan.rope) if rope)
    for site, linear in plan.linears.items():
        yield from ((f"{site}: shift", s) for s in (*linear.in_shift, *linear.out_shift))
    for i, norm in enumerate(plan.norms):
        yield f"norms[{i}].pre_shift", norm.pre_shift
    for i, attention in enumerate(plan.attention):
        yield from ((f"attention[{i}].o_shift", head.o_shift) for head in attention.heads)
    for where, scalar in _scalars(plan):
        yield from _scalar_shifts(where, scalar)
    for i, activation in enumerate(plan.activations):
        yield from ((f"activations[{i}].h", window.h) for window in activation.windows)


def _positive_shifts(plan: NumericPlan) -> Iterator[tuple[str, int]]:
    """Segments of an index (A2); truncations of scalars, which are lifted: without one, that could
    fail (A6); and of their results, where 1 less than nothing becomes 0 (A4)."""
    yield from ((where, s) for where, s in _shifts(plan) if where.endswith((".h", ".mu", ".scalar.out_shift")))


def _scalars(plan: NumericPlan) -> Iterator[tuple[str, Scalar]]:
    yield from ((f"norms[{i}]", norm.scalar) for i, norm in enumerate(plan.norms))
    for i, attention in enumerate(plan.attention):
        yield from ((f"attention[{i}]", head.scalar) for head in attention.heads)


def _scalar_shifts(where: str, scalar: Scalar) -> Iterator[tuple[str, int]]:
    yield f"{where}.scalar.out_shift", scalar.out_shift
    for r in (scalar.hi, scalar.lo):
        if r:
            yield f"{where}.scalar.mu", r.mu
            yield f"{where}.scalar.h", r.h


def _lookups(plan: NumericPlan) -> Iterator[tuple[str, int, int, list[int]]]:
    """Where, h, k, ids of tables."""
    for where, scalar in _scalars(plan):
        yield from _scalar_lookups(where, scalar)
    for i, activation in enumerate(plan.activations):
        for window in activation.windows:
            ids = [n for n in (window.a, window.b, window.c, window.g) if n is not None]
            yield f"activations[{i}]", window.h, activation.k, ids


def _scalar_lookups(where: str, scalar: Scalar) -> Iterator[tuple[str, int, int, list[int]]]:
    _equal(f"{where}: selector given", scalar.lo is not None, scalar.hi.z is not None)
    for r in (scalar.hi, scalar.lo):
        if r:
            yield where, r.h, r.k, [n for n in (r.a, r.b, r.g, r.z) if n is not None]


def _equal(field: str, expected: object, got: object) -> None:
    if expected != got:
        raise PlanError(field, expected, got)


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise PlanError(field, f"{low}..{high}", value)

"""From a model and public text to a plan: every window, shift and bound of
`docs/protocols/arithmetic.md`.

What a bound follows from is used where it is affordable: inputs of activations from the norms of
the weights' rows (a normalised row has length √d), the least σ from its anchor. The rest is
measured: the float model runs over the caller's text and the stress text, and windows are loose by
a factor, because other texts reach further.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import PlanError
from cryptogen.models.config import ModelConfig
from cryptogen.numerics.exponential import (
    FAILURE_BITS,
    LEAST_PRIMES,
    MANTISSA_BITS,
    MODULUS_BITS,
    PRIMES,
    RESULT_BITS,
)
from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import (
    VERSION,
    Activation,
    Attention,
    Embed,
    Head,
    Linear,
    ModelShape,
    Norm,
    NumericPlan,
    Rope,
    Window,
    check,
)
from cryptogen.numerics.quantise import row_factors, weight_bits
from cryptogen.weights.canonical import Canonical, blocks

from .observe import Anchored, Extent, Observation, Scores, observe
from .ranges import SIGMA_K, Ranges, TableSet, ranges, reciprocal, rsqrt
from .statistics import statistics

EMBED_SHIFT = 8
ROPE_BITS = 14
# Index bits: of linear pieces; of quadratic ones as long as no window is wider than ±2^NARROW, and
# beyond.
GATED_K, PLAIN_K, NARROW = 9, (7, 8), 5
ACT_BITS = 6  # scale of A; the product that enters `down` is at 2F + 6
# log2 of half an activation's window: that of the narrowest, and of the widest that is taken
# without need
FINEST, COARSEST = 3, {"silu": 6, "gelu": 5, "gelu_new": 5, "relu": 5}
SQUARES_BITS = 42  # of the largest sum of squares: more, and its truncation fails too often
NORMED_BITS = 38  # of what enters a matrix behind a norm: shares of more than that wrap too often
# log2 of e' of a score at the anchor; fewer where a column of Σ e'·v might pass WEIGHTED_BITS: its
# truncation fails once in 2^16 there, and a row so lost is lost to all that attend to it (white
# space and words in turn have many such rows). Eight still are right to thousandths of the least σ.
SIGMA_BITS, LEAST_SIGMA_BITS, WEIGHTED_BITS = 12, 8, 48
SIGMA_SPREAD = (8, 6)  # σ's window ends so many bits short of 2k above its least; the second costs some precision
RARE, GAP_BITS = 1000, 4  # rows are of two kinds if fewer than one in so many is in between; how far apart at least
PRODUCT_CEILING = 22  # in_shift of `o`: more, and its truncation fails too often
ROUNDED = 1 + 2.0**-6  # what rounding may add to a bound that follows from the weights


@dataclass(frozen=True)
class Margins:
    """How far beyond the calibrated text the windows reach."""

    score_top: float = 8.0  # nats above the largest score that σ's window allows for, where there are index bits
    sigma_top: float = 3.0  # bits of σ above one score there
    score_bottom: float = 10.0  # nats below the smallest score, at least
    score_spread: float = 0.25  # of a head's calibrated spread below the smallest score, where six primes hold that
    sigma: float = 4.0  # bits of σ above the largest, of which one is guard
    gap_low: float = 0.5  # bits of mean square above ordinary rows where the gap between rows of two kinds begins
    gap_high: float = 1.0  # bits below those of the other kind where it ends
    activation: float = 2.0  # half a window over a neuron's largest input, where it does not hold by construction


def calibrate(
    model: Canonical,
    windows: Iterable[Sequence[int]],
    margins: Margins | None = None,
    model_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> NumericPlan:
    """Runs the float model on token windows (each from position 0, two tokens or more) and chooses
    every constant.

    Raises PlanError if there is nothing to calibrate on or a range cannot be represented. Cost: one
    float forward pass per window; a single short window is enough for a model with random weights.
    """
    return plan_of(model, observe(model, windows, progress), margins, model_digest)


def plan_of(model: Canonical, seen: Observation, margins: Margins | None = None, model_digest: str = "") -> NumericPlan:
    """The plan from what has been observed. Raises PlanError as `calibrate` does."""
    if seen.tokens < 2:
        raise PlanError("calibration text", "two tokens or more", seen.tokens)
    margins, tables, limits, c = margins or Margins(), TableSet(), Limits(model), model.config
    norms, products = [], {}
    for site in c.norm_sites():
        norm, products[site] = _norm(seen, site, margins, tables)
        norms.append(norm)
    attention = _attention(seen, margins, tables)
    activations = [_activation(seen, i, margins, limits, tables) for i in range(c.layers)]
    shape = ModelShape.of(c)
    bits = {site: weight_bits(blocks(model.weight, site), row_factors(shape, site)) for site in c.linear_shapes()}
    plan = NumericPlan(
        version=VERSION,
        model_digest=model_digest,
        model=shape,
        f=F,
        logit_bits=(logit_bits := F + int(bits["head"].min())),
        logit_bound=_scaled(float(limits.logits.max()), logit_bits),
        embed=Embed(EMBED_SHIFT),
        rope=_rope(c, tables),
        norms=tuple(norms),
        linears=_linears(c, bits, products, [shifts for _, shifts in attention]),
        attention=tuple(a for a, _ in attention),
        activations=tuple(activations),
        tables=tables.count,
        functions=tuple(tables.functions),
        statistics={},
    )
    check(plan)
    return dataclasses.replace(plan, statistics=statistics(plan, seen))


class Limits:
    """What follows from the weights for any text, in real numbers. A normalised row has length √d
    (Cauchy–Schwarz)."""

    def __init__(self, model: Canonical) -> None:
        c = self._config = model.config
        self._model = model
        self.gate = [self._outputs(f"layers.{i}.up")[: c.ff] for i in range(c.layers)]  # [ff]
        self.logits = self._outputs("head")  # [vocab]

    def _outputs(self, site: str) -> NDArray[np.float64]:
        """Largest |output| of each row of a matrix behind a norm, [d_out]."""
        bias = self._model.bias[site]
        rows = blocks(self._model.weight, site)
        squares = np.concatenate([np.square(some, dtype=np.float64).sum(axis=1) for some in rows])
        length: NDArray[np.float64] = np.sqrt(squares * self._config.d)
        return length if bias is None else length + np.abs(bias)


def _scaled(largest: float, bits: int) -> int:
    """A bound that holds by construction, as an integer at scale `2^bits`."""
    return math.ceil(ROUNDED * max(largest, 2.0**-F) * 2.0**bits)


def _rope(c: ModelConfig, tables: TableSet) -> tuple[Rope | None, ...]:
    if not c.rope:
        return (None,) * c.layers
    ids = [
        tables.add(1, kind=kind, bits=ROPE_BITS, frequencies=list(c.rope), positions=c.context)[0]
        for kind in ("rope_cos", "rope_sin")
    ]
    return tuple(Rope(ROPE_BITS, ids[0], ids[1]) if c.rotates(i) else None for i in range(c.layers))


def _norm(seen: Observation, site: str, margins: Margins, tables: TableSet) -> tuple[Norm, int]:
    """pre_shift: enough to keep the sum of squares small, if that leaves the smallest row a root
    mean square of 8."""
    c, square = seen.config, seen.mean_square[site].all
    least = max(float(square.min()), 2.0 ** (-2 * F))
    largest = max(float(square.max()), least)
    g = math.ceil((math.log2(c.d * largest) + 2 * F - SQUARES_BITS) / 2)
    g = max(min(g, math.floor(math.log2(math.sqrt(least) * 2**F / 8))), 0)
    unit = c.d * 2.0 ** (2 * (F - g))
    gap = _gap(square, margins)
    most = math.floor(NORMED_BITS - F - math.log2(c.d) / 2)  # a normalised row has length √d
    between = None if gap is None else (gap[0] * unit, gap[1] * unit)
    scalar, r = rsqrt(tables, least * unit, largest * unit, unit, c.norm_eps, most, between)
    return Norm(g, scalar), r


def _gap(square: NDArray[np.float64], margins: Margins) -> tuple[float, float] | None:
    """Mean squares between ordinary rows and those that later rows attend to for want of a better
    (attention sinks, Xiao et al. 2024, whose streams are huge: Sun et al. 2024). Hardly a row is in
    between, and one that is has been brought there by a balance of large numbers in which small
    errors decide: it is flagged.

    None where calibrated rows are not of two kinds.
    """
    levels, n = np.sort(np.log2(square)), len(square)
    few = n // RARE  # rows that may lie between
    side = max(2 * few, 8)  # rows on either side at least
    if n < few + 2 * side:
        return None
    lower, upper = levels[side - 1 : n - few - side], levels[side + few : n - side + 1]
    at = int(np.argmax(upper - lower))
    low, high = float(lower[at]) + margins.gap_low, float(upper[at]) - margins.gap_high
    return (2.0**low, 2.0**high) if high - low >= GAP_BITS else None


def _activation(seen: Observation, layer: int, margins: Margins, limits: Limits, tables: TableSet) -> Activation:
    """A window for each neuron: for all that its input can ever be, unless that is coarse and far
    from needed."""
    c, limit = seen.config, limits.gate[layer] * ROUNDED
    needed = np.maximum(seen.neurons[layer] * margins.activation, 2.0 ** COARSEST[c.activation])
    halves = np.ceil(np.log2(np.maximum(np.minimum(limit, needed), 2.0**FINEST))).astype(int)  # [ff], log2
    opened = 2.0**halves < limit  # what does not hold by construction has a guard
    wanted = list(zip(halves.tolist(), (np.where(opened, 1, 2) if opened.any() else 0 * halves).tolist(), strict=True))
    windows, kinds = [], sorted(set(wanted))
    k = GATED_K if c.gated else PLAIN_K[int(halves.max()) > NARROW]
    for half, guard in kinds:
        h = half + 1 + F - k
        degree = 1 if c.gated else 2
        ids = tables.add(
            degree + 1 + (guard > 0), kind=c.activation, degree=degree, k=k, h=h, bits=ACT_BITS, guard=guard
        )
        windows.append(Window(h, ids[0], ids[1], None if c.gated else ids[2], ids[-1] if guard else None))
    return Activation(k, tuple(windows), tuple(kinds.index(kind) for kind in wanted))


def _attention(seen: Observation, margins: Margins, tables: TableSet) -> list[tuple[Attention, list[int]]]:
    """Every layer's heads and the in_shift of each head's columns of `o`. Of a layer's σ the fewest
    index bits with which all heads have their margin, if there are any."""
    c, layers = seen.config, []
    for i in range(c.layers):
        values = [seen.values[i][g // c.queries_per_kv_head] for g in range(c.heads)]
        for sigma_k in SIGMA_K:
            layer = [_Sketch.of(s, sigma_k, margins, v) for s, v in zip(seen.scores[i], values, strict=True)]
            if all(head.holds for head in layer):
                break
        for g, head in enumerate(layer):
            head.refuse(f"attention[{i}].heads[{g}]")
        two = any(s.ranges(False).fine for s in layer)  # the layer's heads agree on having a fine range
        pairs = [s.head(tables, two) for s in layer]
        layers.append((Attention(tuple(head for head, _ in pairs)), [shift for _, shift in pairs]))
    return layers


@dataclass(frozen=True)
class _Sketch:
    """The choices of one head before the layer decides whether 1/σ needs two ranges. In bits."""

    anchor: str
    sigma_k: int
    bits: int  # log2 of e' at the anchor
    primes: int
    bottom: int  # how far below the anchor exponentials are right
    low: float  # the smallest score, relative to the anchor
    reach: float  # log2 of the largest σ outside its guard over the smallest, which is a score at the anchor alone
    holds: bool  # whether the calibrated σ have their margin
    beyond: float  # part of the rows whose σ passes `reach`
    largest: float  # log2 of σ, relative to the anchor
    value: float  # log2 of the mean |v|

    @staticmethod
    def of(scores: Scores, sigma_k: int, margins: Margins, values: Extent) -> "_Sketch":
        """With the anchor that leaves the fewest rows' σ beyond its window, then has σ's margin,
        then needs the fewest primes, then leaves σ the least to do."""
        if not scores.pairs:  # only first rows were seen
            return _Sketch.anchored("own", Anchored(low=0.0, high=0.0), sigma_k, margins, values)
        tried = [_Sketch.anchored(name, x, sigma_k, margins, values) for name, x in scores.by_anchor.items()]
        return min(tried, key=lambda sketch: (sketch.beyond, not sketch.holds, sketch.primes, sketch.largest))

    @staticmethod
    def anchored(anchor: str, x: Anchored, sigma_k: int, margins: Margins, values: Extent) -> "_Sketch":
        """σ's window, then the scale of e', then the fewest primes that reach below all scores.

        What primes have to spare goes below: a score below the bottom is garbage, one above the
        calibrated top only likelier to be truncated wrongly.
        """
        nats = math.log(2)
        sums = x.log_sum.astype(np.float64) / nats
        low, high, largest = x.low / nats, x.high / nats, float(sums.max(initial=0.0))
        needed = largest + margins.sigma - 1  # the upper half is guard
        spreads = [2 * sigma_k - bits - 1 for bits in SIGMA_SPREAD]
        spread = next((s for s in spreads if s >= needed), spreads[-1])
        reach = min(max(high + margins.score_top / nats + margins.sigma_top, needed), spread)
        mean, most = (math.log2(max(value, 2.0**-8)) for value in (values.mean, values.largest))
        weighted = WEIGHTED_BITS - F - most - min(largest, reach)
        bits = max(math.floor(min(weighted, SIGMA_BITS)), LEAST_SIGMA_BITS)
        least = math.ceil(-low + margins.score_bottom / nats) + 1  # one for the carry of the fractions
        wished = max(least, math.ceil(-low + (high - low) * margins.score_spread) + 1)
        rooms = {
            n: MODULUS_BITS[n] - 2 * MANTISSA_BITS - max(RESULT_BITS - bits, math.ceil(high) + FAILURE_BITS)
            for n in range(LEAST_PRIMES, len(PRIMES) + 1)
        }
        primes = next((n for n, room in rooms.items() if room >= wished), len(PRIMES))
        beyond = float((sums > reach).mean()) if x.chunks else 0.0
        return _Sketch(
            anchor, sigma_k, bits, primes, rooms[primes], low - margins.score_bottom / nats, reach,
            needed <= spread, beyond, largest, mean,
        )  # fmt: skip

    def refuse(self, where: str) -> None:
        """PlanError if not even six primes reach below all scores, margin included."""
        nats = math.log(2)
        if self.bottom - 1 < -self.low:
            possible, needed = f"{(self.bottom - 1) * nats:.0f}", f"{-self.low * nats:.0f}"
            expected = f"at most {possible} nats below their anchor (shorter windows and --context spread them less)"
            raise PlanError(f"{where}: scores", expected, f"{needed} with margin")

    def ranges(self, two: bool) -> Ranges:
        return ranges(2.0**self.bits, 2.0 ** (self.bits + self.reach), self.sigma_k, two)

    def head(self, tables: TableSet, two: bool) -> tuple[Head, int]:
        """ρ = 2^r/σ has 4 bits at the largest σ; o' has 10 for the smallest; less where both cost
        too much."""
        found = self.ranges(two)
        o_bits = self.bits + F + self.value
        o_shift = min(max(math.floor(o_bits - 10), 0), 32)
        r = math.ceil(self.bits + self.reach) + 4
        excess = max(r - o_shift - PRODUCT_CEILING, 0)
        r -= min(excess // 2, 2)
        o_shift = min(max(o_shift, r - PRODUCT_CEILING), 32)
        shift = 2 * MANTISSA_BITS + self.bottom - self.bits
        return Head(self.anchor, self.primes, self.bottom, shift, o_shift, reciprocal(tables, found, r)), r - o_shift


def _linears(
    c: ModelConfig,
    bits: dict[str, NDArray[np.int64]],
    products: dict[str, int],
    attention: list[list[int]],
) -> dict[str, Linear]:
    """`bits`: f_w of each matrix's rows; `products`: r of each norm; `attention`: in_shift per
    layer and head.

    Rows of `o` and `down` keep scales of their own: the few that write the residual stream's huge
    channels would take bits from all others, and what they add up to is the stream. Elsewhere one
    scale does.
    """
    linears = {}
    for site, (d_out, d_in) in c.linear_shapes().items():
        layer, _, kind = site.rpartition(".")
        if kind == "o":
            shifts = [s for s in attention[int(layer.split(".")[1])] for _ in range(c.head_dim)]
        elif kind == "down":
            shifts = [ACT_BITS + F] * d_in
        else:
            norm = {"qkv": f"{layer}.attn_norm", "up": f"{layer}.mlp_norm", "head": "final_norm"}[kind]
            shifts = [products[norm]] * d_in
        out_shift = bits[site] if kind in ("o", "down") else bits[site].min(keepdims=True)
        linears[site] = Linear(d_in, d_out, tuple(shifts), (0,) if kind == "head" else tuple(out_shift.tolist()))
    return linears

"""From a model and public text to a plan: every window, shift and bound of `docs/protocols/arithmetic.md`.

Source of the rules: measurements of the float model over WikiText-2 with the fixed-point pipeline simulated; a window
is loose by a factor because other texts reach further than the calibrated ones.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryptogen.models.canonical import Canonical, canonicalise
from cryptogen.models.config import ModelConfig

from .document import PlanError
from .observe import Observation, Scores, observe
from .pieces import F
from .plan import VERSION, Activation, Attention, Embed, Head, Linear, ModelShape, Norm, Plan, Rope, check
from .quantise import weight_bits
from .ranges import SIGMA_K, TableSet, Window, bits_for, fine_window, reciprocal, rsqrt, window
from .statistics import statistics
from .validate import with_events

EMBED_SHIFT = 8
ROPE_BITS = 14
EXP_K, EXP_BITS, EXP_BITS_MAX = 8, 40, 45
ACT_K = 9
GELU_BITS, GATED_BITS = 10, 6  # scale of A; the product that enters `down` is at F + 10, gated 2F + 6
MAX_PRE_SHIFT = 6
SIGMA_FLOOR = 12  # bits of the smallest rows' σ
SIGMA_CEILING = 36  # of the largest
PRODUCT_CEILING = 24  # in_shift of `o`: more, and the client's check discards too many slots
SCORE_RANGE = 18.5, 20.0  # bits from a small row's σ to e^top, with and at the cost of precision in small rows
START = 16  # tokens of the short windows that show what first rows look like
LOOSE = 4  # bounds are this many times the largest calibrated value


@dataclass(frozen=True)
class Margins:
    """How far beyond the calibrated text the windows reach."""

    score_top: float = 3.0  # nats above the largest score
    score_bottom: float = 0.2  # of the spread, below the smallest score (at least 2 nats)
    sigma: int = 4  # bits above the largest σ; at least 3, or as far as e^top with two scores at the top
    activation: float = 1.3  # window width over the range of inputs


def calibrate(
    model: Canonical,
    windows: Iterable[Sequence[int]],
    margins: Margins | None = None,
    model_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Runs the float model on token windows (each from position 0, two tokens or more) and chooses every constant.

    Raises PlanError if there is nothing to calibrate on or a range cannot be represented. Cost: one float forward
    pass per window; a single short window is enough for a model with random weights.
    """
    seen = observe(model, windows, progress)
    if seen.tokens < 2:
        raise PlanError("calibration text", "two tokens or more", seen.tokens)
    margins, tables, c = margins or Margins(), TableSet(), model.config
    norms, products = [], {}
    for site in c.norm_sites():
        norm, products[site] = _norm(seen, site, tables)
        norms.append(norm)
    attention = [_attention(seen, i, margins, tables) for i in range(c.layers)]
    activations = [_activation(seen, i, margins, tables) for i in range(c.layers)]
    bits = {site: weight_bits(model.weight[site]) for site in c.linear_shapes()}
    plan = Plan(
        version=VERSION,
        model_digest=model_digest,
        model=shape_of(c),
        f=F,
        logit_bits=F + bits["head"],
        embed=Embed(EMBED_SHIFT, _bound(seen.embed.largest, F + EMBED_SHIFT)),
        rope=_rope(c, tables),
        norms=tuple(norms),
        linears=_linears(seen, bits, products, [shifts for _, shifts in attention]),
        attention=tuple(a for a, _ in attention),
        activations=tuple(activations),
        tables=tables.count,
        functions=tuple(tables.functions),
        statistics={},
    )
    check(plan)
    return dataclasses.replace(plan, statistics=statistics(plan, seen))


def shape_of(c: ModelConfig) -> ModelShape:
    return ModelShape(**{f.name: getattr(c, f.name) for f in dataclasses.fields(ModelShape)})


def _bound(largest: float, bits: int) -> int:
    return math.ceil(LOOSE * max(largest, 2.0**-F) * 2.0**bits)


def _rope(c: ModelConfig, tables: TableSet) -> Rope | None:
    if not c.rope:
        return None
    ids = [
        tables.add(1, kind=kind, bits=ROPE_BITS, theta=c.rope_theta, positions=c.context, pairs=c.head_dim // 2)[0]
        for kind in ("rope_cos", "rope_sin")
    ]
    return Rope(ROPE_BITS, ids[0], ids[1])


def _norm(seen: Observation, site: str, tables: TableSet) -> tuple[Norm, int]:
    """pre_shift: as much as leaves 8 units of root mean square to the smallest row, so that m is small."""
    c, square = seen.config, seen.mean_square[site].all
    least = max(float(square.min()), 2.0 ** (-2 * F))
    g = min(max(math.floor(math.log2(math.sqrt(least) * 2**F / 8)), 0), MAX_PRE_SHIFT)
    unit = c.d * 2.0 ** (2 * (F - g))
    scalar, r = rsqrt(tables, least * unit, max(float(square.max()), least) * unit, unit, c.norm_eps)
    return Norm(g, _bound(seen.h[site].largest, F), scalar), r


def _activation(seen: Observation, layer: int, margins: Margins, tables: TableSet) -> Activation:
    c = seen.config
    gate = seen.gate[layer]
    width = max(bits_for(margins.activation * (gate.high - gate.low)), 3) + F
    bits = GATED_BITS if c.gated else GELU_BITS
    h, offset = width - ACT_K, round((gate.low + gate.high) / 2 * 2**F) - (1 << (width - 1))  # the slack on both sides
    a, b = tables.add(2, kind=c.activation, k=ACT_K, h=h, offset=offset, bits=bits)
    return Activation(offset, 0, h, ACT_K, a, b)


def _attention(seen: Observation, layer: int, margins: Margins, tables: TableSet) -> tuple[Attention, list[int]]:
    """One layer's heads and the in_shift of each head's columns of `o`."""
    c = seen.config
    sketches = [_Sketch.of(s, margins, seen.values[layer][g // c.group].mean) for g, s in enumerate(seen.scores[layer])]
    two = any(fine_window(s.sigma, s.smallest) for s in sketches)
    pairs = [s.head(tables, two) for s in sketches]
    return Attention(EXP_K, tuple(head for head, _ in pairs)), [shift for _, shift in pairs]


@dataclass(frozen=True)
class _Sketch:
    """The choices of one head before the layer decides whether 1/σ needs two ranges."""

    top: int  # scores, scale F
    h: int
    bits: int  # of the exponential at the window's top
    e_shift: int
    sigma: Window
    smallest: float  # σ of a small row, integer
    value: float  # mean |v|

    @staticmethod
    def of(scores: Scores, margins: Margins, value: float) -> "_Sketch":
        """A score above the window wraps to its bottom, where e is nearly 0: rare extreme rows are given up so."""
        rows = scores.log_sum.all / math.log(2)  # log2 Σ_j e^{s_j}
        small = float(np.quantile(rows, 0.001))
        wished, needed = ((scores.peak + n) / math.log(2) for n in (margins.score_top, 1.0))
        peak = min(wished, max(small + SCORE_RANGE[0], min(needed, small + SCORE_RANGE[1])))
        top = math.ceil(peak * math.log(2) * 2**F)
        spread = scores.peak - scores.low
        reach = top / 2**F - scores.low + max(margins.score_bottom * spread, 2.0)
        h = max(bits_for(reach * (1 + 2.0**-EXP_K)), 3) + F - EXP_K
        # from here on relative to e^top: σ of a small row, and the end of σ's window
        small, large = small - peak, float(rows[rows <= max(peak, rows.min())].max()) - peak
        end = max(min(large + margins.sigma, 1.0), large + 3)
        # a slope rounded to an integer is wrong by up to 2^(h−1) at the end of its piece: 2^-7 of the smallest e
        bits = min(max(math.ceil(h + 6 - small), EXP_BITS), EXP_BITS_MAX)
        e_shift = max(math.floor(bits + small - SIGMA_FLOOR), math.ceil(bits + end - SIGMA_CEILING))
        e_shift = min(max(e_shift, 0), 32)
        sigma = window(2.0 ** (end + bits - e_shift), SIGMA_K, 0)
        return _Sketch(top, h, bits, e_shift, sigma, 2.0 ** (small + bits - e_shift), value)

    def head(self, tables: TableSet, two: bool) -> tuple[Head, int]:
        """ρ = 2^r/σ has 6 bits at the end of the window; o' has 10 for a small row; less where both cost too much."""
        fine = fine_window(self.sigma, self.smallest)
        if two and fine is None:  # the layer's heads agree on having a fine range
            fine = Window(max(self.sigma.bits - 4, self.sigma.k + 1), self.sigma.k)
        o_bits = math.log2(self.smallest) + F + math.log2(max(self.value, 2.0**-8))
        o_shift = min(max(math.floor(o_bits - 10), 0), 32)
        r = self.sigma.bits + 6
        excess = max(r - o_shift - PRODUCT_CEILING, 0)
        r -= min(excess // 2, 2)
        o_shift = min(max(o_shift, r - PRODUCT_CEILING), 32)
        a, b = tables.add(2, kind="exp", k=EXP_K, h=self.h, bits=self.bits)
        offset = self.top - (1 << (EXP_K + self.h))
        scalar = reciprocal(tables, self.sigma, fine, r)
        return Head(offset, self.top, self.h, a, b, self.e_shift, o_shift, scalar), r - o_shift


def _linears(
    seen: Observation, bits: dict[str, int], products: dict[str, int], attention: list[list[int]]
) -> dict[str, Linear]:
    """`products`: r of each norm; `attention`: in_shift per layer and head."""
    c, linears = seen.config, {}
    for site, (d_out, d_in) in c.linear_shapes().items():
        layer, _, kind = site.rpartition(".")
        i = int(layer.split(".")[1]) if layer else 0
        if kind == "o":
            shifts = [s for s in attention[i] for _ in range(c.head_dim)]
            largest = max(seen.values[i][g // c.group].largest * 2.0**s for g, s in enumerate(attention[i]))
            in_bound = _bound(largest, F)
        elif kind == "down":
            shift = GATED_BITS + F if c.gated else GELU_BITS
            shifts, in_bound = [shift] * d_in, _bound(seen.act[i].largest, F + shift)
        else:
            norm = {"qkv": f"{layer}.attn_norm", "up": f"{layer}.mlp_norm", "head": "final_norm"}[kind]
            shifts, in_bound = [products[norm]] * d_in, _bound(seen.x[norm].largest, F + products[norm])
        out_bound = _bound(seen.y[site].largest, F + bits[site])
        linears[site] = Linear(d_in, d_out, tuple(shifts), in_bound, 0 if kind == "head" else bits[site], out_bound)
    return linears


def calibrate_model(
    path: str | Path,
    text_file: str | Path,
    windows: Sequence[int] = tuple(range(8, 20)),
    size: int = 512,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Loads a model and calibrates it on windows `tokens[size·i : size·(i+1)]` of a text file.

    First rows see few others and are the most unlike the rest, so eight short windows inside each are run as well.
    Ends with a run of the integer oracle that counts out-of-window events.

    Raises WeightsError (model), OSError (text), PlanError (text too short or model without a tokenizer).
    """
    from cryptogen.weights import load

    checkpoint = load(path)
    if checkpoint.tokenizer is None:
        raise PlanError("model", "a tokenizer beside the weights", str(path))
    tokens = checkpoint.tokenizer.encode(Path(text_file).read_text(encoding="utf-8"))
    if len(tokens) < size * (max(windows) + 1):
        raise PlanError("calibration text", f"{size * (max(windows) + 1)} tokens", len(tokens))
    chosen = [tokens[size * i : size * (i + 1)] for i in windows]
    starts = [w[j : j + START] for w in chosen for j in range(0, size, max(size // 8, START)) if len(w[j:]) > 1]
    model = canonicalise(checkpoint)
    plan = calibrate(model, chosen + starts, model_digest=checkpoint.digest, progress=progress)
    return with_events(plan, model, chosen[0])

"""What a plan costs in probability, computed from calibration; `cryptogen inspect` prints it.

A local truncation of x is wrong with probability |x|/p (A1), or |x|/2^64 (A6, the same to nine
digits), and so is a share of x that is lifted to Z_{2^64}; that of an exponential V modulo Q with
probability V/Q (A9).
"""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from cryptogen.numerics.anchors import ANCHORS
from cryptogen.numerics.exponential import MODULI
from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import NumericPlan
from cryptogen.numerics.quantise import row_factors

from .observe import Observation, Scores

P = 2.0**64 - 2.0**32 + 1
LENGTHS = (128, 512)


def statistics(plan: NumericPlan, seen: Observation) -> dict[str, Any]:
    """JSON-ready record: calibrated tokens, log2 probabilities per token, ranges per layer."""
    failures = {str(length): failure_parts(plan, seen, length) for length in LENGTHS}
    return {
        "tokens": seen.tokens,
        "failure_log2": {length: log2(sum(parts.values())) for length, parts in failures.items()},
        "failure_parts_log2": {part: log2(value) for part, value in failures[str(LENGTHS[-1])].items()},
        "layers": [_ranges(seen, i) for i in range(plan.model.layers)],
    }


def log2(value: float) -> float:
    return round(math.log2(max(value, 2.0**-99)), 2)


def failure_parts(plan: NumericPlan, seen: Observation, length: int) -> dict[str, float]:
    """Expected number of wrong truncations per token, a row attending to `length` rows, by kind.

    Of what attention gives to `o` no more is counted than the values it is made of. The lifting of
    truncated shares is not here: it cannot fail (A1).
    """
    parts: dict[str, float] = defaultdict(float)
    c = plan.model
    parts["embedding"] = c.d * seen.embed.mean * 2.0 ** (F + plan.embed.shift)
    for site, linear in plan.linears.items():
        layer, _, kind = site.rpartition(".")
        i, scales = int(layer.split(".")[1]) if layer else 0, 2.0 ** (F + np.array(linear.in_shift))
        if kind == "o":
            heads = [seen.values[i][g // seen.config.queries_per_kv_head].mean for g in range(c.heads)]
            parts["into o"] += float(np.repeat(heads, c.head_dim) @ scales)
        elif kind == "down":
            parts["into down"] += seen.act[i].mean * scales.sum()
        outputs = seen.y[site] * row_factors(c, site) / max(seen.tokens, 1)
        if site != "head":  # of whose results the leading bits are sent
            parts["out of matrices"] += float((outputs * 2.0 ** (F + np.array(linear.out_shift))).sum())
        if kind == "qkv" and (rope := plan.rope[i]):
            rotated = float(outputs[: c.q_dim + c.kv_dim].sum())
            parts["rotation"] += math.sqrt(2) * rotated * 2.0 ** (F + rope.bits)
    for site, norm, entry in zip(c.norm_sites(), plan.norms, _entered(plan), strict=True):
        square = seen.mean_square[site].all
        if norm.pre_shift:
            parts["into squares"] += c.d * seen.h[site].mean * 2.0**F
        parts["normed"] += c.d * seen.x[site].mean * 2.0 ** (F + entry)
        parts["mean square"] += 2 * _mean(square) * c.d * 4.0 ** (F - norm.pre_shift)
        parts["1/rms"] += _mean(1 / np.sqrt(square + seen.config.norm_eps)) * 2.0 ** (entry + norm.scalar.out_shift)
    for i, attention in enumerate(plan.attention):
        parts["gate·up" if c.gated else "u²"] += c.ff * seen.argument[i].mean * 2.0 ** (2 * F)
        shifts = plan.linears[f"layers.{i}.o"].in_shift[:: c.head_dim]
        for g, (head, shift) in enumerate(zip(attention.heads, shifts, strict=True)):
            scores, value = seen.scores[i][g], seen.values[i][g // seen.config.queries_per_kv_head].mean
            exact = scores.by_anchor[head.anchor].log_sum / math.log(2) + head.bits
            sigma = 2.0 ** np.minimum(exact.astype(np.float64), head.scalar.hi.end)  # rows beyond are flagged
            r = shift + head.o_shift
            absolute = scores.absolute / math.log(2) / max(scores.pairs, 1)
            parts["score"] += 2 * length * absolute * 2.0 ** (2 * F + ANCHORS[head.anchor])
            parts["exponential"] += _mean(sigma) * 2.0**head.shift / MODULI[head.primes] * P
            parts["weighted values"] += _mean(sigma) * (c.head_dim * value * 2.0**F + 2)
            parts["1/sum"] += _mean(1 / sigma) * 2.0 ** (r + head.scalar.out_shift)
    return {part: value / P for part, value in parts.items()}


def _entered(plan: NumericPlan) -> list[int]:
    """in_shift of the matrix behind each norm."""
    sites = [f"layers.{i}.{n}" for i in range(plan.model.layers) for n in ("qkv", "up")] + ["head"]
    return [plan.linears[site].in_shift[0] for site in sites]


def _ranges(seen: Observation, i: int) -> dict[str, Any]:
    square = seen.mean_square[f"layers.{i}.mlp_norm"].all
    return {
        "h": round(seen.h[f"layers.{i}.mlp_norm"].largest, 2),
        "mean_square": [float(f"{square.min():.4g}"), float(f"{square.max():.4g}")],
        "heads": [_head(s) for s in seen.scores[i]],
        "gate": [round(seen.gate[i].low, 2), round(seen.gate[i].high, 2)],
        "act": round(seen.act[i].largest, 2),
    }


def _head(scores: Scores) -> dict[str, list[float]]:
    """Smallest and largest score and largest log σ, nats, relative to each anchor."""
    return {
        name: [round(float(value), 1) for value in (x.low, x.high, x.log_sum.max())]
        for name, x in scores.by_anchor.items()
        if x.chunks
    }


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0

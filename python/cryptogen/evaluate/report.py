"""A numeric plan as a table for people, with what calibration recorded in it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from cryptogen.errors import PlanError
from cryptogen.numerics.anchors import ANCHORS
from cryptogen.numerics.pieces import NET_K, F
from cryptogen.numerics.plan import NumericPlan, Scalar

CLASS_HEADING = "text class        rows  perplexity: ours / float    same token  flagged  largest error of the others"


def materials(plan: NumericPlan) -> dict[str, int]:
    """Tables used up by one token, `k=…, payloads=…` → number."""
    c, used = plan.model, Counter[str]()
    for norm in plan.norms:
        _count_scalar(used, norm.scalar, 1)
    for attention, activation in zip(plan.attention, plan.activations, strict=True):
        _count_scalar(used, attention.heads[0].scalar, c.heads)
        used[f"k={activation.k}, payloads=2" + ("" if c.gated else " (drawn)")] += c.ff
    return dict(used)


def heads_by_primes(plan: NumericPlan) -> dict[int, int]:
    """Heads of all layers by the primes of their exponentials: for each cached row, a token uses up
    as many products of a head."""
    found = Counter(head.primes for attention in plan.attention for head in attention.heads)
    return dict(sorted(found.items()))


def inspect_plan(plan: NumericPlan) -> str:
    """A table for people: sizes, scales, probabilities, material, ranges. Raises PlanError if its
    record is not one that calibration writes: nothing depends on it, so nothing has checked it."""
    try:
        return _described(plan)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise PlanError("statistics", "as `cryptogen calibrate` writes them", "something else") from None


def _described(plan: NumericPlan) -> str:
    c, s = plan.model, plan.statistics
    linear = sum(a * b for a, b in c.sites().values())
    lines = [
        f"{c.layers} layers, d {c.d}, {c.heads} heads ({c.kv_heads} kv), vocab {c.vocab}",
        f"{linear / 1e6:.1f} M weights in {len(c.sites())} matrices",
        f"plan {plan.digest()[:16]}…, {plan.tables} tables, calibrated on {s.get('tokens', 0)} tokens",
    ]
    for length, value in s.get("failure_log2", {}).items():
        lines.append(f"wrong truncation, per token of a {length}-row context: 2^{value}")
    lines += [f"    {part:<20} 2^{value}" for part, value in s.get("failure_parts_log2", {}).items()]
    lines += [f"tables per token, {kind}: {n}" for kind, n in materials(plan).items()]
    primes = heads_by_primes(plan)
    products = ", ".join(f"{heads} with {n} primes" for n, heads in primes.items())
    lines.append(f"products per token and cached row: {sum(n * h for n, h in primes.items())}; heads: {products}")
    open_layers = [str(i) for i, a in enumerate(plan.activations) if a.guarded]
    lines.append(f"activation windows hold for any text, except in layers: {', '.join(open_layers) or 'none'}")
    if classes := s.get("classes"):
        lines.append(CLASS_HEADING)
        lines += [class_line(name, figures) for name, figures in classes.items()]
    lines += accepted_lines(plan)
    lines.append("heads by anchor: " + "/".join(ANCHORS))
    lines.append("layer  residual        lowest scores (nats)  heads         activation input   activation windows")
    for i, row in enumerate(s.get("layers", [])):
        heads, a = plan.attention[i].heads, plan.activations[i]
        bottoms = [-(h.bottom - 1) * math.log(2) for h in heads]  # relative to their anchors
        anchors = "/".join(str(sum(h.anchor == name for h in heads)) for name in ANCHORS)
        gate = f"{row['gate'][0]:.1f} … {row['gate'][1]:.1f}"
        halves = [w.h + a.k - 1 - F for w in a.windows]
        lowest, window = f"{max(bottoms):.0f} … {min(bottoms):.0f}", f"±{2 ** min(halves)} … ±{2 ** max(halves)}"
        lines.append(f"{i:>5}  {row['h']:<14.1f}  {lowest:<20}  {anchors:<13}  {gate:<17}  {window}")
    return "\n".join(lines)


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1e7 else f"{perplexity:.1e}"


def class_line(name: str, figures: dict[str, Any]) -> str:
    """One class of the calibration's report, under `CLASS_HEADING`."""
    return (
        f"{name:<16} {figures['rows']:>5}  {_short(figures['perplexity']):>10} / {figures['perplexity_float']:<10.2f}"
        f" {figures['agreement']:>10.1%} {figures['flagged']:>8} {figures['largest_error']:>9.3f}"
    )


def accepted_lines(plan: NumericPlan) -> list[str]:
    """Classes of text on which the plan is not good enough, and was accepted all the same."""
    return [f"NOT GOOD on {name}: {', '.join(why)}" for name, why in plan.statistics.get("accepted", {}).items()]


def _count_scalar(used: Counter[str], scalar: Scalar, n: int) -> None:
    used[f"k={scalar.hi.k}, payloads={3 if scalar.lo else 1}"] += n
    if scalar.lo:
        used[f"k={scalar.lo.k}, payloads=1"] += n
    used[f"k={NET_K}, payloads=1"] += n

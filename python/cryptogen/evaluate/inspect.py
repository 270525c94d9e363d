"""What `cryptogen inspect` prints: the plan, what a token costs, how safe it is, who learns
what."""

from __future__ import annotations

from typing import Any

from cryptogen import _core
from cryptogen.numerics.plan import NumericPlan, tables
from cryptogen.protocols import PREPROCESSED
from cryptogen.session.messages import LARGEST_BLOCK

from .report import heads_by_primes, inspect_plan, materials

CONTEXTS = (64, 128, 512)


def facts(plan: NumericPlan, protocol: str = PREPROCESSED) -> dict[str, Any]:
    """For `--json`."""
    core = _core.CheckedPlan(plan.to_json(), tables(plan))
    s = plan.statistics
    contexts = [n for n in CONTEXTS if n <= plan.model.context]
    return {
        "plan": plan.digest(),
        "model": plan.model_digest,
        "parameters": _core.PARAMETERS,
        "row_bytes": core.row_bytes,
        "exponential_bytes": dict(zip(("store", "wire"), core.exponential_bytes, strict=True)),
        "exponentials": {str(n): core.exponentials_needed(n - 1, 1) for n in contexts},
        "heads_by_primes": {str(n): heads for n, heads in heads_by_primes(plan).items()},
        "tables_per_token": materials(plan),
        "failure_log2": s.get("failure_log2", {}),
        "round_trips": 8 * plan.model.layers + 3,
    } | layouts(core, protocol)


def layouts(core: _core.CheckedPlan, protocol: str) -> dict[str, Any]:
    """How rows lie in ciphertexts, and why: for one new row and for a pass of a prompt."""
    if protocol == PREPROCESSED:
        return {}
    return {"layouts": {str(rows): core.why(protocol, rows) for rows in (1, LARGEST_BLOCK)}}


def as_text(plan: NumericPlan, protocol: str = PREPROCESSED) -> str:
    """For people."""
    f = facts(plan, protocol)
    store, wire = f["exponential_bytes"].values()
    exponentials = ", ".join(
        f"{n * store / 1e6:.2f} MB ({n * wire / 1e6:.2f} MB of messages) at row {row}"
        for row, n in f["exponentials"].items()
    )
    return "\n".join(
        [
            inspect_plan(plan),
            "",
            "cost",
            f"  material per token on disk: {f['row_bytes'] / 1e6:.2f} MB; its exponentials: {exponentials}",
            f"  online: {f['round_trips']} round trips per pass",
            "security",
            f"  lattice parameters {f['parameters']} (≥ 128 bits, estimate in crates/he/params), statistical 40 bits,",
            "  semi-honest parties, no dealer",
            "leaks",
            "  both: architecture, plan (windows, shifts, bounds), number and timing of tokens",
            "  client: logits, hence what they tell about the weights; range events; SHA-256 of the integer weights",
            "  server: nothing of prompt or answer",
            *(
                f"{rows} row(s) in ciphertexts: {line}"
                for rows, lines in f.get("layouts", {}).items()
                for line in lines
            ),
        ]
    )

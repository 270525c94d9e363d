"""Outside every window the parties still compute what the oracle computes, bit for bit, and count
the same events.

Plans of tiny models are mutilated at random: windows moved and narrowed, other anchors, shifts,
tables and guards; weights grow until numbers wrap modulo p and modulo 2^64. Nothing here means
anything any more, which is the point.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cryptogen
from cryptogen.backends.exponential import Powers
from cryptogen.backends.field import Ints
from cryptogen.bench.shapes import quick_plan
from cryptogen.numerics.anchors import ANCHORS
from cryptogen.numerics.exponential import FAILURE_BITS, MANTISSA_BITS, MAX_ANCHOR_BITS, MODULUS_BITS, RESULT_BITS
from cryptogen.numerics.plan import MAX_WEIGHT_BITS, NumericPlan, tables
from cryptogen.numerics.quantise import IntegerModel, quantise
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED
from cryptogen.weights.canonical import canonicalise
from replaying import NO_CUT, Cut, Passes, ReplayShares, insecure_core, replayed
from tiny import random_tokens, tiny_gpt2, tiny_llama

core = pytest.fixture(scope="module")(insecure_core)
KINDS = ("norm", "sigma", "activation")


class Watched(ReplayShares):
    """Knows how large the arguments were, and how often shares had wrapped the other way."""

    def __init__(self, client: np.ndarray, server: np.ndarray) -> None:
        super().__init__(client, server)
        self.largest: dict[str, float] = {}
        self.surprises: Counter[str] = Counter()

    def _take(self, x: Ints, one: Ints, other: Ints, impossible: Any, what: str, between: bool = False) -> Ints:
        got = super()._take(x, one, other, impossible, what, between)
        self.largest[what] = max(self.largest.get(what, 0.0), float(np.abs(x.astype(np.float64)).max(initial=0.0)))
        expected = (got >= one) & (got <= other) if between else (got == one) | (got == other)
        self.surprises[what] += int((~expected).sum())
        return got

    def exponential(self, v: Powers) -> Ints:
        self.surprises["exponential"] += int(v.rare.sum())  # no integer below Q, or a large one
        return super().exponential(v)


class Mutilation:
    """A plan's document, changed field by field; `NumericPlan.from_json` checks what comes of
    it."""

    def __init__(self, plan: NumericPlan, rng: np.random.Generator, wild: bool) -> None:
        self.rng, self.wild, self.doc = rng, wild, json.loads(plan.to_json())
        d = self.doc
        self.doc["logit_bound"] = 2**34  # it decides the scale of logits, and which are absurd; all are compared
        guards = bool(rng.integers(4))  # or all activations' windows are taken to hold
        for function in d["functions"]:
            self.function(function, guards)
        for norm in d["norms"]:
            norm["pre_shift"] = self.shift(norm["pre_shift"], 0)
            self.scalar(norm["scalar"])
        for attention in d["attention"]:
            for head in attention["heads"]:
                self.head(head)
        for activation in d["activations"]:
            for window in activation["windows"]:
                window["h"] = self.shift(window["h"], 1, 32 - activation["k"])
                window["g"] = self.guard_of(window["a"])
            activation["of"] = rng.integers(0, len(activation["windows"]), len(activation["of"])).tolist()
        if wild:
            self.linears()

    def plan(self) -> NumericPlan:
        return NumericPlan.from_json(json.dumps(self.doc))

    def integer(self, low: int, high: int) -> int:
        """low…high, the ends more often than others."""
        return int(self.rng.choice([low, high, *[int(self.rng.integers(low, high, endpoint=True)) for _ in range(6)]]))

    def shift(self, was: int, least: int, most: int = 32) -> int:
        """Near what it was, or anything."""
        if self.wild and self.rng.integers(2):
            return self.integer(least, most)
        return min(max(was + self.integer(-3, 3), least), most)

    def function(self, f: dict[str, Any], guards: bool) -> None:
        """Other parameters, as far as no entry has 46 bits or more."""
        kind = f["kind"]
        if kind in ("reciprocal", "rsqrt"):
            f["low"] = self.integer(0, 1 << f["k"])
            f["fine"] = self.integer(0, 1)
            if f["below"] is not None:
                f["below"] = self.integer(0, (1 << f["k"]) - 1)
            if kind == "rsqrt":
                f["gap"] = sorted(self.integer(0, (1 << f["k"]) - 1) for _ in range(2))
        elif not kind.startswith("rope"):
            f["bits"] = self.integer(0, 12)
            if guards:
                f["guard"] = self.integer(1, 2)
                f["tables"].append(self.doc["tables"])
                self.doc["tables"] += 1

    def guard_of(self, a: int) -> int | None:
        ids = next(f["tables"] for f in self.doc["functions"] if f["tables"][0] == a)
        function = 2 if self.doc["model"]["gated"] else 3  # tables; behind them the guard
        return ids[function] if len(ids) > function else None

    def scalar(self, s: dict[str, Any]) -> None:
        s["out_shift"] = self.shift(s["out_shift"], 1)
        for r in (s["hi"], s["lo"]):
            if r:
                r["h"] = self.shift(r["h"], 1, 32 - r["k"])
                r["mu"] = self.shift(r["mu"], 1, min(32, 54 - r["h"] - r["k"]))  # the net reaches to 2^54

    def head(self, head: dict[str, Any]) -> None:
        """Bottoms may be anywhere, far above the scores, too."""
        head["anchor"], head["primes"] = str(self.rng.choice(list(ANCHORS))), self.integer(2, 6)
        modulus, bits = MODULUS_BITS[head["primes"]], self.integer(1, MAX_ANCHOR_BITS)
        cut = 2 * MANTISSA_BITS - bits  # of an exponential whose bottom is the anchor
        spare = max(RESULT_BITS + cut, 2 * MANTISSA_BITS + FAILURE_BITS)
        head["bottom"] = self.integer(max(1, 1 - cut), modulus - spare)
        head["shift"] = cut + head["bottom"]
        head["o_shift"] = self.shift(head["o_shift"], 0)
        self.scalar(head["scalar"])

    def linears(self) -> None:
        d = self.doc
        d["embed"]["shift"] = self.integer(0, 8)
        for site, linear in d["linears"].items():
            if site != "head":
                least, rows = int(site.endswith(".up")), int(self.rng.choice([1, linear["d_out"]]))
                shift = linear["out_shift"][0]
                linear["out_shift"] = [self.shift(shift, least, MAX_WEIGHT_BITS) for _ in range(rows)]
            if self.rng.integers(2):
                linear["in_shift"] = [self.shift(s, 0) for s in linear["in_shift"]]
        for rope in filter(None, d["rope"]):
            rope["bits"] = self.shift(rope["bits"], 0)


def louder(weights: IntegerModel, rng: np.random.Generator, wild: bool) -> IntegerModel:
    """Tokens of any size; wild: some matrices and biases as large as they can be."""

    def embedding(rows: NDArray[np.int32] | None, bits: int) -> NDArray[np.int32] | None:
        if rows is None:
            return None
        factor = 2.0 ** rng.uniform(-6, 12 if wild else 6, (len(rows), 1))
        return np.clip(np.rint(rows * factor), 1 - 2**bits, 2**bits - 1).astype(np.int32)

    matrices, biases = dict(weights.matrices), dict(weights.biases)
    for site, matrix in matrices.items():
        if wild and rng.integers(3) == 0:
            matrices[site] = rng.integers(1 - 2**15, 2**15, matrix.shape).astype(np.int16)
        if wild and rng.integers(4) == 0:
            biases[site] = rng.integers(-(2**62), 2**62, len(matrix))
    embed, pos = embedding(weights.embed, 27), embedding(weights.pos, 31)
    assert embed is not None
    return dataclasses.replace(weights, embed=embed, pos=pos, matrices=matrices, biases=biases)


def attempt(core: Any, folder: Path, make: Callable[..., Path], seed: int, wild: bool, protocol: str) -> Watched:
    """One mutilated plan, run and replayed."""
    rng = np.random.default_rng(seed)
    checkpoint = cryptogen.load(make(folder / "model", seed=seed))
    plan = quick_plan(checkpoint)
    weights = quantise(canonicalise(checkpoint), plan)
    plan = Mutilation(plan, rng, wild).plan()
    tables(plan)  # no entry is too large
    t = random_tokens(checkpoint.config, 7, seed)
    passes: Passes = [(t[:3], "none"), (t[3:5], "all"), (t[5:6], "last"), (t[6:], "last")]
    cut = Cut(before=3, rows=4) if protocol == PREPROCESSED and seed % 2 else NO_CUT
    weights = louder(weights, rng, wild)
    run = replayed(core, folder, checkpoint, plan, protocol, passes, cut, weights, Watched)
    assert isinstance(run.replay, Watched)
    run.replay.surprises.update({place.kind: n for place, n in run.oracle.events.items()})
    return run.replay


@pytest.fixture(autouse=True)
def all_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of sums of truncated numbers are not uniform: they wrap the other way up to 2^14 times
    as often."""
    monkeypatch.setattr("cryptogen.backends.rounding.LARGE", 1 << 24)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_parties_and_oracle_agree_on_moved_windows(core: Any, tmp_path: Path, make: Callable[..., Path]) -> None:
    found: Counter[str] = Counter()
    for seed in range(4):
        found += attempt(core, tmp_path / str(seed), make, seed, wild=False, protocol=PREPROCESSED).surprises
    assert all(found[kind] > 0 for kind in KINDS), found


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("protocol", [PREPROCESSED, ENCRYPTED_CACHE])
def test_parties_and_oracle_agree_where_everything_wraps(
    core: Any, tmp_path: Path, make: Callable[..., Path], protocol: str
) -> None:
    runs = [
        attempt(core, tmp_path / str(seed), make, seed, wild=True, protocol=protocol)
        for seed in range(10, 15 if protocol == PREPROCESSED else 12)
    ]
    for what in ("truncation", "index"):
        assert max(run.largest[what] for run in runs) > 2.0**60
    for what in ("truncation", "exponential"):
        assert any(run.surprises[what] for run in runs)
    assert all(max(run.largest.values()) > 2.0**40 for run in runs)
    assert all(sum(run.surprises[kind] for kind in KINDS) > 0 for run in runs)
    if make is tiny_llama:
        assert any(run.surprises["lifted share"] for run in runs)

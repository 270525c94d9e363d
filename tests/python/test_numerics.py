"""The plan document, the tables and the choices of calibration."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen.models.canonical import canonicalise
from cryptogen.models.functions import ACTIVATIONS
from cryptogen.numerics import Plan, PlanError, quantise, tables, tables_digest
from cryptogen.numerics.calibrate import calibrate
from cryptogen.numerics.pieces import F, fit, make
from cryptogen.numerics.quantise import weight_bits
from cryptogen.numerics.ranges import TableSet, Window, below, fine_window, rsqrt, window
from cryptogen.numerics.statistics import inspect_plan
from cryptogen.weights import load
from tiny import tiny_gpt2, tiny_llama


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    model = canonicalise(load(request.param(tmp_path_factory.mktemp("model") / "m")))
    return calibrate(model, [list(range(3, 67)), list(range(200, 264))])


def piece_error(a: Any, b: Any, fn: Any, offset: int, center: int, h: int, inside: range) -> float:
    """Largest error of pieces `inside`, each on its double interval."""
    worst = 0.0
    for j in inside:
        x = np.linspace(offset + j * 2**h, offset + (j + 2) * 2**h, 33)
        worst = max(worst, float(np.abs(a[j] * (x - center) + b[j] - fn(x)).max()))
    return worst


def test_a_stochastic_index_leaves_no_bias() -> None:
    scale = 2.0**44
    fn = lambda x: scale * np.exp(x / 2**F)  # noqa: E731
    h, k, j = 7, 8, 200
    a, b = fit(fn, -(1 << (h + k)), 0, h, k)
    u = (np.arange(1000) + 0.5) / 1000
    x = -(1 << (h + k)) + (j + 1 + u) * 2.0**h
    lower, upper = (a[i] * x + b[i] - fn(x) for i in (j, j + 1))  # met with probability 1 − u and u
    sagitta = scale * np.exp(x.mean() / 2**F) * (2.0**h / 2**F) ** 2 / 2
    expected = (1 - u) * lower + u * upper
    assert abs(expected.mean()) < 0.01 * sagitta
    assert np.abs(expected).max() < 0.2 * sagitta
    assert max(np.abs(lower).max(), np.abs(upper).max()) < 0.9 * sagitta


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_activation_tables(kind: str) -> None:
    offset, h, k = -(8 << F), 7, 9
    a, b = make({"kind": kind, "tables": [0, 1], "k": k, "h": h, "offset": offset, "bits": 10})
    fn = lambda x: 2.0 ** (F + 10) * ACTIVATIONS[kind](x / 2**F)  # noqa: E731
    assert piece_error(a, b, fn, offset, 0, h, range(2**k)) < 2.0 ** (F + 10) * 5e-4


def test_exponential_tables() -> None:
    h, k = 8, 8  # 16 nats wide
    a, b = make({"kind": "exp", "tables": [0, 1], "k": k, "h": h, "bits": 40})
    width = 1 << (h + k)
    for j in (100, 180, 250):
        x = np.linspace(-width + j * 2**h, -width + (j + 2) * 2**h, 33)
        assert np.abs((a[j] * x + b[j]) / (2.0**40 * np.exp(x / 2**F)) - 1).max() < 2e-3


def test_reciprocal_tables_and_selector() -> None:
    a, b, z = make({"kind": "reciprocal", "tables": [0, 1, 2], "k": 14, "h": 6, "bits": 36, "below": 14})
    assert z[:14].all() and z[-1] == 1 and not z[14:-1].any()
    assert not a[z == 1].any() and not b[z == 1].any()
    for j in (14, 100, 5000):
        x = np.linspace(j * 64, (j + 2) * 64, 17)
        assert np.abs((a[j] * x + b[j]) * x / 2.0**36 - 1).max() < 1 / (j + 1) ** 2 + 2.0**-10


def test_index_minus_one_is_the_start_of_the_window() -> None:
    a, b = make({"kind": "reciprocal", "tables": [0, 1], "k": 14, "h": 6, "bits": 36, "below": None})
    assert (a[-1], b[-1]) == (0, 2**30)


def test_ranges_of_a_scalar_meet() -> None:
    coarse = window(2.0**30, 14)
    fine = fine_window(coarse, 2.0**14)
    assert fine is not None and (below(coarse, fine) or 0) >= 1
    first = (below(coarse, fine) or 0) + 1  # pieces below `first` are met only by arguments under this
    assert first << (coarse.bits - coarse.k) < 1 << fine.bits
    assert fine_window(coarse, 2.0**29) is None


@pytest.mark.parametrize(("smallest", "largest"), [(2.0**13, 2.0**14), (2.0**14, 2.0**27), (3e5, 5e9)])
def test_rsqrt_is_right_over_its_range(smallest: float, largest: float) -> None:
    found = TableSet()
    unit = 64 * 2.0**12
    scalar, r = rsqrt(found, smallest, largest, unit, 1e-5)
    made = {n: t for f in found.functions for n, t in zip(f["tables"], make(f), strict=True)}
    for m in np.geomspace(smallest, largest, 50):
        span = scalar.hi
        j = int(m / 2.0**span.mu) >> span.h
        if span.z is not None and made[span.z][j]:
            assert scalar.lo is not None
            span = scalar.lo
            j = int(m / 2.0**span.mu) >> span.h
        y = made[span.a][j] * (m / 2.0**span.mu) + made[span.b][j]
        want = 2.0**r / math.sqrt(m / unit + 1e-5)
        assert y / 2.0**scalar.out_shift == pytest.approx(want, rel=0.006)


def test_functions_are_shared() -> None:
    found = TableSet()
    assert found.add(2, kind="exp", k=8, h=8, bits=40) == found.add(2, kind="exp", k=8, h=8, bits=40) == [0, 1]
    assert found.add(2, kind="exp", k=8, h=9, bits=40) == [2, 3]


def test_window_shapes() -> None:
    assert Window(20, 14).mu == 0 and Window(20, 14).h == 6
    assert Window(26, 14).mu == 6
    assert Window(16, 14).h == 2


def test_weight_bits() -> None:
    assert weight_bits(np.array([[1.99]], dtype=np.float32)) == 14
    assert weight_bits(np.array([[2.0]], dtype=np.float32)) == 13
    assert weight_bits(np.zeros((1, 1), dtype=np.float32)) == 14
    with pytest.raises(PlanError):
        weight_bits(np.array([[40000.0]], dtype=np.float32))


def test_plan_round_trip(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan and again.digest() == plan.digest()
    assert tables_digest(tables(again)) == tables_digest(tables(plan))
    assert len(tables(plan)) == plan.tables
    assert all(np.abs(t).max() < 1 << 46 for t in tables(plan))


def test_statistics_are_small_probabilities(plan: Plan) -> None:
    assert plan.statistics["failure_log2"]["512"] < -16
    assert plan.statistics["discard_log2"] < -8
    assert "tables per token" in inspect_plan(plan)


def change(plan: Plan, path: str, value: Any) -> str:
    document: Any = json.loads(plan.to_json())
    at = document
    *parents, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    for p in parents:
        at = at[p]
    at[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("f", 13),
        ("model/arch", "bert"),
        ("model/layers", 3),
        ("model/heads", True),
        ("model/d", 10**9),
        ("embed/shift", 33),
        ("embed/surprise", 1),
        ("norms/0/pre_shift", -1),
        ("norms/0/scalar/hi/h", 0),
        ("norms/0/scalar/hi/k", 40),
        ("norms/0/scalar/hi/a", 10**6),
        ("linears/head/d_in", 1),
        ("linears/head/in_shift", [1]),
        ("attention/0/heads", []),
        ("attention/0/k", 9),
        ("attention/0/heads/0/e_shift", 1.5),
        ("activations", []),
        ("tables", 1),
        ("functions/0/kind", "os.system"),
        ("functions/0/k", 62),
        ("functions/0/h", "6"),
        ("functions/0/tables", [0, 0, 0, 0]),
        ("functions/0/numerator", float("inf")),
        ("functions/0/positions", 1),
    ],
)
def test_bad_documents_are_refused(plan: Plan, path: str, value: Any) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(change(plan, path, value))


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "[" * 100_000, '{"version": 1}'])
def test_what_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_plan_of_another_model_does_not_quantise(tmp_path: Path) -> None:
    small = canonicalise(load(tiny_gpt2(tmp_path / "a")))
    wide = canonicalise(load(tiny_gpt2(tmp_path / "b", n_embd=128)))
    with pytest.raises(PlanError):
        quantise(wide, calibrate(small, [list(range(32))]))


def test_weights_beyond_the_plan_are_refused(tmp_path: Path) -> None:
    model = canonicalise(load(tiny_gpt2(tmp_path / "a")))
    plan = calibrate(model, [list(range(32))])
    loud = {site: w * 1000 for site, w in model.weight.items()}
    with pytest.raises(PlanError, match="below 2"):
        quantise(dataclasses.replace(model, weight=loud), plan)


def test_nothing_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="two tokens"):
        calibrate(canonicalise(load(tiny_gpt2(tmp_path / "a"))), [])

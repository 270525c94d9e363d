"""The plan document, the tables and the choices of calibration."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen.backends.float import FloatBackend
from cryptogen.calibration.choose import Limits, Margins, _gap, _Sketch, calibrate
from cryptogen.calibration.observe import ROWS, Anchored, Extent, Scores
from cryptogen.calibration.ranges import LEAST_INDEX, NORM_K, NORM_MARGIN, TableSet, Window, ranges, reciprocal, rsqrt
from cryptogen.errors import PlanError
from cryptogen.evaluate.report import inspect_plan
from cryptogen.models.decoder import forward
from cryptogen.models.functions import ACTIVATIONS
from cryptogen.numerics import NumericPlan, quantise, tables, tables_digest
from cryptogen.numerics.anchors import ANCHORS, anchor_rows
from cryptogen.numerics.exponential import MODULI, MODULUS_BITS, PRIMES, mantissas
from cryptogen.numerics.functions import check_function
from cryptogen.numerics.pieces import NET_K, NET_SHIFT, F, fit, fit_quadratic, make, net
from cryptogen.numerics.plan import Range, Scalar
from cryptogen.numerics.quantise import row_factors, weight_bits
from cryptogen.weights import load
from cryptogen.weights.canonical import Balance, canonicalise
from tiny import tiny_gpt2, tiny_llama


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NumericPlan:
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


def test_a_stochastic_index_of_parabolas_leaves_no_bias() -> None:
    """A cube by parabolas: on average over an interval nothing is left, and the noise is the least
    possible, √(M6 − M4²/M2) of the cube, Mn = 2/((n + 1)(n + 2))."""
    h, k, j, unit = 8, 6, 40, 2.0**18
    fn = lambda x: unit * (x / 2**8) ** 3  # noqa: E731
    a, b, c = fit_quadratic(fn, -(1 << (h + k - 1)), h, k)
    u = (np.arange(1000) + 0.5) / 1000
    x = -(1 << (h + k - 1)) + (j + 1 + u) * 2.0**h
    lower, upper = (a[i] * x**2 + b[i] * x + c[i] - fn(x) for i in (j, j + 1))  # met with probability 1 − u and u
    assert abs(((1 - u) * lower + u * upper).mean()) < 0.001 * unit
    noise = math.sqrt(((1 - u) * lower**2 + u * upper**2).mean()) / unit
    assert noise == pytest.approx(math.sqrt(2 / 56 - 6 * (2 / 30) ** 2), rel=0.01)


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_activation_tables(kind: str) -> None:
    h, k = 7, 9  # ±8
    a, b = make({"kind": kind, "degree": 1, "tables": [0, 1], "k": k, "h": h, "bits": 10, "guard": 0})
    offset = -(1 << (h + k - 1))
    fn = lambda x: 2.0 ** (F + 10) * ACTIVATIONS[kind](x / 2**F)  # noqa: E731
    one, bend = 2.0 ** (F + 10), 2 ** (k - 1) - 1  # the piece that has 0 in its middle
    smooth = [j for j in range(2**k) if kind != "relu" or j != bend]
    assert piece_error(a, b, fn, offset, 0, h, smooth) < one * (1e-9 if kind == "relu" else 5e-4)
    assert piece_error(a, b, fn, offset, 0, h, [bend]) < one * 0.42 * 2.0 ** (h - F)


def test_relu_by_parabolas_is_exact_but_for_its_bend() -> None:
    h, k, bits = 9, 7, 6  # ±8
    a, b, c = make({"kind": "relu", "degree": 2, "tables": [0, 1, 2], "k": k, "h": h, "bits": bits, "guard": 0})
    bend, one = 2 ** (k - 1) - 1, 2.0 ** (2 * F + bits)
    for j in range(2**k):
        x = (np.arange(0, 2 ** (h + 1), 7) + j * 2**h - (1 << (h + k - 1))).astype(np.float64)
        error = np.abs(a[j] * x**2 + b[j] * x + c[j] - 2.0 ** (F + bits) * np.maximum(x, 0)).max()
        assert error == 0 if j != bend else error < one * 0.15 * 2.0 ** (h - F)


# log2 of half a window: k, largest error, noise and bias of inputs that are normal with deviation 1
QUADRATIC_BOUNDS = {
    3: (7, 2.5e-4, 2.5e-5, 2e-8),
    4: (7, 1.6e-3, 1.6e-4, 1e-7),
    5: (7, 1e-2, 1.3e-3, 6e-6),
    6: (8, 1e-2, 1.3e-3, 6e-6),
    7: (8, 8e-2, 9e-3, 2e-4),
}


@pytest.mark.parametrize("kind", ["gelu", "gelu_new"])
@pytest.mark.parametrize("half", QUADRATIC_BOUNDS)
def test_quadratic_pieces(kind: str, half: int) -> None:
    """Against the function, in its own units, and next to linear pieces: four times as many in
    windows of up to ±32, twice as many beyond."""
    k, worst, most_noise, most_bias = QUADRATIC_BOUNDS[half]
    act = ACTIVATIONS[kind]
    function = {"kind": kind, "degree": 2, "tables": [0, 1, 2], "bits": 6, "guard": 0}
    pieces = make({**function, "k": k, "h": half + 1 + F - k})
    assert max(int(np.abs(table).max()) for table in pieces) < 2**38
    reach = (1 << min(half, 4)) - 1 << F  # but for the outermost pieces
    x = np.arange(-reach, reach, 3, dtype=np.float64)

    def errors(tables: list[Any], k: int, scale: float) -> tuple[float, float, float]:
        h, start = half + 1 + F - k, -(1 << (half + F))
        upper, u = np.floor((x - start) / 2**h).astype(int), (x - start) % 2**h / 2**h
        powers = [x**n for n in range(len(tables) - 1, -1, -1)]
        each = [
            sum(t[j] * p for t, p in zip(tables, powers, strict=True)) / scale - act(x / 2**F)
            for j in (upper, upper - 1)
        ]
        density = np.exp(-((x / 2**F) ** 2) / 2)
        density /= density.sum()
        noise = (density * (u * each[0] ** 2 + (1 - u) * each[1] ** 2)).sum()
        bias = (density * (u * each[0] + (1 - u) * each[1])).sum()
        return max(np.abs(each[0]).max(), np.abs(each[1]).max()), math.sqrt(noise), abs(bias)

    largest, noise, bias = errors(pieces, k, 2.0 ** (2 * F + 6))
    assert (largest < worst, noise < most_noise, bias < most_bias) == (True, True, True)
    linear = list(fit(lambda x: 2.0 ** (F + 10) * act(x / 2**F), -(1 << (half + F)), 0, half + F - 8, 9))
    assert noise < 1.5 * errors(linear, 9, 2.0 ** (F + 10))[1]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_activation_guards(kind: str, degree: int) -> None:
    function = {"kind": kind, "degree": degree, "tables": [0, 1, 2], "k": 9, "h": 7, "bits": 10}
    plain, outer, none = (make({**function, "guard": guard}) for guard in range(3))
    assert len(plain) == degree + 1
    for guarded in (outer, none):  # the function is the same
        assert all(np.array_equal(x, y) for x, y in zip(plain, guarded[:-1], strict=True))
    # met from −8 to −4 and from 4 to 8; pieces are two steps wide
    assert np.flatnonzero(outer[-1]).tolist() == [*range(128), *range(384, 512)] and outer[-1].max() == 1
    assert not none[-1].any()


def test_primes_are_what_the_protocol_needs() -> None:
    """Primes, 1 modulo twice the number of slots, and 2 has few powers in the first three (A9)."""
    assert len(set(PRIMES)) == 6 and all(is_prime(q) and q % 2**14 == 1 and q < 2**64 for q in PRIMES)
    assert [order_of_two(q) for q in PRIMES[:3]] == [192, 2**14, 2**14]
    assert min(pow(2, 2**14, q) != 1 for q in PRIMES[3:])
    assert MODULUS_BITS == (0, 63, 125, 186, 250, 314, 378)
    assert all(2**bits <= q < 2 ** (bits + 1) for q, bits in zip(MODULI, MODULUS_BITS, strict=True))


def is_prime(n: int) -> bool:
    """Miller and Rabin, right below 2^64 with these bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        x = pow(base, odd, n)
        if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


def order_of_two(prime: int) -> int:
    return next(n for n in range(1, 1 << 15) if pow(2, n, prime) == 1)


def test_mantissas_are_powers_of_two() -> None:
    m = mantissas()
    ideal = 2.0 ** (10 + np.arange(1 << F) / (1 << F))
    error = m / ideal - 1
    assert m[0] == 1024 and m[-1] == 2048 and (np.diff(m) >= 0).all()
    assert np.abs(error).max() < 5.5e-4 and error.std() < 2.2e-4 and abs(error.mean()) < 1e-5


def test_the_net_lets_pass_what_is_inside_the_window() -> None:
    """Three of the four segments that a window has, and the last, which small arguments meet."""
    assert np.flatnonzero(net()).tolist() == [0, 1, 2, 2**12 - 1] and net().max() == 1 and len(net()) == 2**12
    for end in (18, 33, 44, 45, 54):  # bits of a window
        scalar = Scalar(Range(end - 10, 4, 6, 0, 0, 0, None), None, 8)
        segment = NET_SHIFT + scalar.net_h - scalar.net_lift
        assert segment == end - 2 and scalar.net_h + NET_K <= 32 and scalar.net_lift >= 0


def test_an_anchor_is_a_mean_of_scores() -> None:
    own = np.arange(1, 40)
    for anchor, bits in ANCHORS.items():
        rows = anchor_rows(anchor, own)
        assert rows.shape == (39, 2**bits) and (rows >= 0).all() and (rows <= own[:, None]).all()
    assert anchor_rows("both", own)[4].tolist() == [0, 5]
    assert anchor_rows("spread", own)[16].tolist() == [2, 4, 6, 8, 10, 12, 14, 17]
    assert anchor_rows("own_spread", own)[8].tolist() == [9] * 8 + [1, 2, 3, 4, 5, 6, 7, 9]


RECIPROCAL = {
    "kind": "reciprocal", "tables": [0, 1, 2], "k": 14, "h": 6, "bits": 36, "low": 20, "fine": 0, "below": None,
}  # fmt: skip


def reciprocal_error(a: Any, b: Any, j: int) -> float:
    x = np.linspace(j * 64, (j + 2) * 64, 17)
    return float(np.abs((a[j] * x + b[j]) * x / 2.0**36 - 1).max())


def test_reciprocal_tables_and_selector() -> None:
    a, b, g, z = make({**RECIPROCAL, "tables": [0, 1, 2, 3], "low": 0, "below": 14})
    assert z[:14].all() and z[-1] == 1 and not z[14:-1].any()
    assert not a[z == 1].any() and not b[z == 1].any() and not g[z == 1].any()
    for j in (14, 100, 5000):
        assert reciprocal_error(a, b, j) < 1 / (j + 1) ** 2 + 2.0**-10
    assert np.flatnonzero(g).tolist() == list(range(1 << 13, (1 << 14) - 1))


def test_reciprocal_guards() -> None:
    a, b, g = make(RECIPROCAL)
    assert np.flatnonzero(g).tolist() == [*range(20), *range(1 << 13, 1 << 14)] and g.max() == 1
    assert reciprocal_error(a, b, 20) < 1 / 20**2 and reciprocal_error(a, b, (1 << 14) - 2) < 2.0**-10
    a, b, g = make({**RECIPROCAL, "fine": 1})  # what is above is the coarse range's
    assert np.flatnonzero(g).tolist() == [*range(20), (1 << 14) - 1]


@pytest.mark.parametrize("kind", ["reciprocal", "rsqrt"])
def test_index_minus_one_is_the_start_of_the_window(kind: str) -> None:
    other = {"numerator": 2.0**33, "eps": 0.0} if kind == "rsqrt" else {"bits": 36}
    f = {k: v for k, v in RECIPROCAL.items() if k != "bits"} | {"kind": kind, "low": 1, **other}
    a, b, g = make(f)
    assert (a[-1], b[-1], g[-1]) == (0, 2**30, 1)
    assert make({**f, "fine": 1, "low": 0})[2][-1] == 1


@pytest.mark.parametrize("k", NORM_K)
@pytest.mark.parametrize("two", [False, True])
def test_ranges_reach_what_they_are_asked_for(k: int, two: bool) -> None:
    for top in (16, 20.5, 30, 38.99):
        for ratio in np.arange(0, 25, 0.3):
            check_ranges(k, top, ratio, two)


def check_ranges(k: int, top: float, ratio: float, two: bool) -> None:
    largest, smallest = 2.0**top, 2.0 ** (top - ratio)
    found = ranges(smallest, largest, k, two)
    coarse, fine = found.coarse, found.fine
    last = fine or coarse
    for w in (coarse, last):
        assert 1 <= w.mu <= 32 and 1 <= w.h <= 6 and w.mu + w.h + k == w.bits
    assert 2 * largest <= 2.0**coarse.bits  # the upper half is guard
    assert coarse.bits == k + 2 or 4 * largest > 2.0**coarse.bits
    index = last.index(smallest)
    if smallest >= 32 and 2.0**coarse.bits / smallest <= 2 ** (2 * k - 6):
        assert index >= LEAST_INDEX
    if smallest >= 4 and 2.0**coarse.bits / smallest <= 2 ** (2 * k - 3):
        assert index >= 1
    assert max(index / 2 - 1, 1) <= found.low <= max(index / 2, 1)
    assert (found.below is None) == (fine is None) and not (two and fine is None)
    if fine:
        step = coarse.bits - k  # log2 of a coarse piece
        assert fine.bits < coarse.bits and found.below is not None
        assert found.below + 2 <= 2.0 ** (fine.bits - step)  # pieces below `below` end inside the fine window
        first = found.below + 1  # met by nothing smaller than this many pieces
        assert first >= 7  # a piece j of 1/x is wrong by 1/(2·(j + 1)²)
    else:
        assert index >= 32


def test_a_reciprocal_of_two_ranges_is_right_everywhere() -> None:
    """Both candidates of every index, from the smallest argument that is not flagged to the end of
    the window."""
    found, tables_ = ranges(2.0**12, 2.0**33, 14), TableSet()
    scalar = reciprocal(tables_, found, 24)
    made = {n: t for f in tables_.functions for n, t in zip(f["tables"], make(f), strict=True)}
    for x in np.geomspace(2.0**11.5, 2.0**33.99, 4000):
        for upper in (0, 1):
            m = x / 2.0**scalar.hi.mu
            j = (int(m) >> scalar.hi.h) - 1 + upper
            span, flag = scalar.hi, made[scalar.hi.g][j]
            if scalar.hi.z is not None and made[scalar.hi.z][j]:
                assert scalar.lo is not None
                span = scalar.lo
                m = x / 2.0**span.mu
                j = (int(m) >> span.h) - 1 + upper
                assert 0 <= j < (1 << span.k) - 1
                flag = made[span.g][j]
            y = (made[span.a][j] * m + made[span.b][j]) / 2.0**scalar.out_shift
            assert abs(y * x / 2.0**24 - 1) < 1 / (j * (j + 2)) + 2.0**-10
            assert flag == (j < found.low if span is scalar.lo else j >= 1 << 13)
            assert flag or j >= 4


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
        assert not made[span.g][j]
    for m in (smallest / NORM_MARGIN / 2.5, largest * NORM_MARGIN * 1.9):  # outside the margins it is flagged
        last = scalar.lo if scalar.lo and m < smallest else scalar.hi
        assert made[last.g][int(m / 2.0**last.mu) >> last.h]


def test_mean_squares_in_the_gap_are_flagged() -> None:
    found, unit, low, high = TableSet(), 64 * 2.0**12, 2.0**8, 2.0**18
    scalar, _ = rsqrt(found, 2.0 * unit, 2.0**20 * unit, unit, 1e-5, gap=(low * unit, high * unit))
    made = {n: t for f in found.functions for n, t in zip(f["tables"], make(f), strict=True)}
    assert scalar.lo is not None

    def flags(square: float) -> set[int]:
        """With either of the two pieces that may be asked."""
        m, pieces = square * unit, []
        for span in (scalar.hi, scalar.lo):
            j = (int(m / 2.0**span.mu) >> span.h) % (1 << span.k)
            pieces.append([(made[span.g][i], made[span.z][i] if span.z is not None else 0) for i in (j - 1, j)])
        coarse, fine = pieces
        return {int(g + z * lower[0]) for g, z in coarse for lower in (fine if z else fine[:1])}

    assert all(flags(x) == {0} for x in np.geomspace(2.0, low / 1.05, 50))
    assert all(flags(x) == {1} for x in np.geomspace(low * 1.05, high / 1.05, 50))
    assert all(flags(x) == {0} for x in np.geomspace(high, 2.0**22, 50))


def test_the_gap_lies_between_rows_of_two_kinds() -> None:
    rng, margins = np.random.default_rng(0), Margins()
    ordinary, sinks = 2.0 ** rng.uniform(3, 7, 5000), 2.0 ** rng.uniform(19, 20, 60)
    few = 2.0 ** rng.uniform(7, 19, 4)  # in between
    gap = _gap(np.concatenate([ordinary, sinks, few]), margins)
    assert gap is not None
    assert 2.0**7.4 < gap[0] < 2.0**8 < 2.0**16 < gap[1] < 2.0**18.1
    assert _gap(np.concatenate([ordinary, 2.0 ** rng.uniform(7, 19, 400), sinks]), margins) is None  # one kind, wide
    assert _gap(np.concatenate([ordinary, sinks[:7]]), margins) is None  # too few of the other kind
    assert _gap(ordinary, margins) is None
    assert _gap(ordinary[:3], margins) is None


def test_norms_are_precise_unless_that_costs_too_many_bits() -> None:
    unit = 64 * 2.0**12
    for most, bits in ((32, 12), (12, 10), (4, 8)):
        scalar, r = rsqrt(TableSet(), unit, 2.0 * unit, unit, 0.0, most)
        assert r == bits + 2  # the window's end is √(2·8) = 4 above


def test_functions_are_shared() -> None:
    found = TableSet()
    assert found.add(3, kind="silu", k=8, h=8, bits=40) == found.add(3, kind="silu", k=8, h=8, bits=40) == [0, 1, 2]
    assert found.add(3, kind="silu", k=8, h=9, bits=40) == [3, 4, 5]
    assert found.count == 6 and len(found.functions) == 2


def test_window_shapes() -> None:
    assert (Window(20, 14).mu, Window(20, 14).h) == (1, 5)  # what is not truncated is not lifted
    assert (Window(26, 14).mu, Window(26, 14).h) == (6, 6)
    assert (Window(16, 14).mu, Window(16, 14).h) == (1, 1)


def test_weight_bits() -> None:
    rows = np.array([[0.99, 0.0], [-0.99, 0.5], [1.0, 0.0], [0.0, -2.0], [0.0, 0.0]], dtype=np.float32)
    assert weight_bits([rows[:2], rows[2:]], np.ones(5)).tolist() == [15, 15, 14, 13, 15]
    assert weight_bits([rows[:2], rows[2:]], np.array([1.5, 1, 1, 0.4, 1])).tolist() == [14, 15, 14, 15, 15]
    with pytest.raises(PlanError):
        weight_bits([np.array([[40000.0]], dtype=np.float32)], np.ones(1))


@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_queries_are_rounded_for_base_two(make_model: Any, tmp_path: Path) -> None:
    """Their rows and biases carry log2(e), and no other's."""
    model = canonicalise(load(make_model(tmp_path / "m")))
    plan = calibrate(model, [list(range(32))])
    weights, c = quantise(model, plan), model.config
    for site in plan.linears:
        factors = row_factors(plan.model, site)
        queries = c.q_width if site.endswith("qkv") else 0
        assert (factors[:queries] == np.log2(np.e)).all() and (factors[queries:] == 1).all()
        scale = 2.0 ** (np.array(plan.linears[site].out_shift) if site != "head" else plan.logit_bits - F)
        ideal = model.weight[site] * factors[:, None] * np.broadcast_to(scale, len(factors))[:, None]
        assert np.abs(weights.matrices[site] - ideal).max() <= 0.5
        assert np.abs(weights.matrices[site][:queries]).max(initial=2**14) < 2**15
        if (bias := model.bias[site]) is not None:
            assert np.abs(weights.biases[site] - bias * factors * scale * 2.0**F).max() <= 0.5


def test_plan_round_trip(plan: NumericPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    again = NumericPlan.load(tmp_path / "plan.json")
    assert again == plan and again.digest() == plan.digest()
    assert tables_digest(tables(again)) == tables_digest(tables(plan))
    assert len(tables(plan)) == plan.tables
    assert all(np.abs(t).max() < 1 << 46 for t in tables(plan))


def test_statistics_are_small_probabilities(plan: NumericPlan) -> None:
    assert plan.statistics["failure_log2"]["512"] < -16
    assert "tables per token" in inspect_plan(plan)


@pytest.mark.parametrize(
    ("name", "value"), [("failure_log2", 7), ("layers", [{}]), ("classes", {"text": {}}), ("accepted", {"text": 3})]
)
def test_a_record_that_calibration_has_not_written_is_refused(plan: NumericPlan, name: str, value: Any) -> None:
    broken = dataclasses.replace(plan, statistics=plan.statistics | {name: value})
    with pytest.raises(PlanError, match="statistics"):
        inspect_plan(broken)


def change(plan: NumericPlan, path: str, value: Any) -> str:
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
        ("version", 1),
        ("version", 3),
        ("version", 6),
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
        ("norms/0/scalar/hi/h", 21),  # h + k above 32
        ("norms/0/scalar/hi/mu", 0),
        ("norms/0/scalar/hi/mu", 33),
        ("norms/0/scalar/hi/g", None),
        ("norms/0/scalar/hi/z", None),
        ("norms/0/scalar/lo/mu", 0),
        ("norms/0/scalar/lo", None),
        ("norms/0/scalar/hi/a", 10**6),
        ("linears/head/d_in", 1),
        ("linears/head/in_shift", [1]),
        ("linears/layers.0.up/out_shift", [0]),
        ("linears/layers.0.qkv/out_shift", [16]),
        ("linears/layers.0.down/out_shift", [9, 9]),
        ("linears/layers.0.down/out_shift", []),
        ("attention/0/heads", []),
        ("attention/0/heads/0/anchor", "last"),
        ("attention/0/k", 8),  # of an older plan
        ("attention/0/heads/0/primes", 1),
        ("attention/0/heads/0/primes", 7),
        ("attention/0/heads/0/primes", 2.0),
        ("attention/0/heads/0/bottom", 0),
        ("attention/0/heads/0/bottom", 76),  # its truncation would fail with more than 2^-30
        ("attention/0/heads/0/shift", 0),
        ("attention/0/heads/0/shift", 68),  # its shares would be too short to be lifted
        ("attention/0/heads/0/shift", 54),  # 25 bits at the anchor
        ("attention/0/heads/0/bottom", 47),  # none
        ("attention/0/heads/0/o_shift", 33),
        ("attention/0/heads/0/scalar/hi/mu", 0),
        ("activations", []),
        ("activations/0/windows", []),
        ("activations/0/windows/0/h", 26),
        ("activations/0/of", [0]),
        ("activations/0/of/0", 2),
        ("activations/0/of/0", -1),
        ("tables", 1),
        ("tables", 10**12),  # nothing is made of a number that a peer gives
        ("logit_bits", 11),
        ("logit_bits", 99999),
        ("functions/0/kind", "os.system"),
        ("functions/0/k", 62),
        ("functions/0/h", "6"),
        ("functions/0/tables", [0, 0, 0, 0]),
        ("functions/0/numerator", float("inf")),
        ("functions/0/positions", 1),
        ("functions/0/low", -1),
        ("functions/0/fine", 2),
        ("functions/0/below", 1 << 12),
        ("functions/0/below", None),  # then there is no selector
        ("functions/0/gap", [5]),
        ("functions/0/gap", [-1, 5]),
        ("functions/0/gap", [5, 1 << 12]),
        ("functions/0/gap", 5),
    ],
)
def test_bad_documents_are_refused(plan: NumericPlan, path: str, value: Any) -> None:
    with pytest.raises(PlanError):
        NumericPlan.from_json(change(plan, path, value))


@pytest.mark.parametrize(
    "frequencies",
    [[], [0.1] * 4097, [7.0], [-0.1], [float("nan")], [float("inf")], ["1"], [True], [10**400], [[0.1]], "ab", None, 1],
)
def test_hostile_frequencies_are_refused(frequencies: Any) -> None:
    function = {"kind": "rope_cos", "tables": [0], "bits": 14, "positions": 3}
    assert check_function("f", {**function, "frequencies": [0.0, 0.5, 2 * np.pi]}) == 9
    with pytest.raises(PlanError, match="frequencies"):
        check_function("f", {**function, "frequencies": frequencies})


def test_a_frequency_of_0_does_not_turn() -> None:
    function = {"tables": [0], "bits": 14, "positions": 3, "frequencies": [0.5, 0.0]}
    cos, sin = (make({**function, "kind": kind})[0].reshape(3, 2) for kind in ("rope_cos", "rope_sin"))
    assert cos[:, 1].tolist() == [1 << 14] * 3 and not sin[:, 1].any()
    assert cos[:, 0].tolist() == [round(2**14 * math.cos(t / 2)) for t in range(3)]


def test_every_layer_says_whether_it_turns(plan: NumericPlan) -> None:
    rope = json.loads(plan.to_json())["rope"]
    for value in (None, rope[:-1], [*rope, None], rope[0]):
        with pytest.raises(PlanError, match="rope"):
            NumericPlan.from_json(change(plan, "rope", value))
    for other in ({"bits": 14, "cos": 0, "sin": 0}, {"bits": 33, "cos": 0, "sin": 0}):  # no table of positions
        with pytest.raises(PlanError, match=r"rope\[1\]"):
            NumericPlan.from_json(change(plan, "rope/1", other))
    assert NumericPlan.from_json(change(plan, "rope/1", None)).rope[1] is None


def test_no_integer_may_be_minus_five(plan: NumericPlan) -> None:
    """The error names the field, by its last name at least."""
    fields = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, f"{path}/{key}")
        elif type(value) is int:
            fields[re.sub(r"/\d+", "", path)] = path.lstrip("/")

    walk({k: v for k, v in json.loads(plan.to_json()).items() if k not in ("statistics", "functions")}, "")
    assert "logit_bound" in fields.values() and len(fields) > 30
    for path in fields.values():
        with pytest.raises(PlanError) as refused:
            NumericPlan.from_json(change(plan, path, -5))
        assert refused.value.field != "document", path
        if path.endswith("bound"):
            assert refused.value.field.endswith(path.split("/")[-1])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("gelu_new", "guard", 3),
        ("gelu_new", "guard", 1),  # a table more
        ("gelu_new", "degree", 1),  # a table less
        ("silu", "degree", 2),
        ("silu", "guard", 2),
        ("silu", "offset", 0),
    ],
)
def test_bad_functions_are_refused(plan: NumericPlan, kind: str, name: str, value: Any) -> None:
    found = [i for i, f in enumerate(plan.functions) if f["kind"] == kind]
    if not found:
        pytest.skip(f"this model has no {kind}")
    with pytest.raises(PlanError, match=r"functions\["):
        NumericPlan.from_json(change(plan, f"functions/{found[0]}/{name}", value))


def test_windows_that_do_not_go_together(plan: NumericPlan) -> None:
    window = dataclasses.asdict(plan.activations[0].windows[0])
    open_one = {**window, "g": window["b"]}
    for guards in ([window, open_one], [open_one, window]):
        with pytest.raises(PlanError, match="guard"):
            NumericPlan.from_json(change(plan, "activations/0/windows", guards))
    other = {**window, "c": None if window["c"] is not None else window["b"]}
    for added in ([other, other], [window, other]):
        with pytest.raises(PlanError, match="table C"):
            NumericPlan.from_json(change(plan, "activations/0/windows", added))
    NumericPlan.from_json(change(plan, "activations/0/windows", [open_one, open_one]))
    NumericPlan.from_json(change(plan, "activations/0/windows", [window] * 64))
    with pytest.raises(PlanError, match="windows"):
        NumericPlan.from_json(change(plan, "activations/0/windows", [window] * 65))


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "[" * 100_000, '{"version": 2}'])
def test_what_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        NumericPlan.from_json(text)


def test_a_plan_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"{\xff")
    with pytest.raises(PlanError, match="UTF-8 text"):
        NumericPlan.load(tmp_path / "plan")


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


def test_wide_windows_have_more_pieces(tmp_path: Path) -> None:
    model = canonicalise(load(tiny_gpt2(tmp_path / "a")))
    loud = {site: w * (200 if site == "layers.1.up" else 1) for site, w in model.weight.items()}
    plan = calibrate(dataclasses.replace(model, weight=loud), [list(range(64))])
    widest = [max(w.h + a.k - 1 - F for w in a.windows) for a in plan.activations]
    assert widest[0] <= 5 < widest[1]
    assert [a.k for a in plan.activations][:2] == [7, 8]
    assert -20 < plan.statistics["failure_parts_log2"]["u²"] < -15  # inputs of hundreds, squared, at scale 2F


def test_nothing_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="two tokens"):
        calibrate(canonicalise(load(tiny_gpt2(tmp_path / "a"))), [])


# --- what calibration starts from


@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_balanced_heads_compute_the_same(make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers of two: not a bit of any logit differs, although queries, keys and values were far out
    of balance."""
    checkpoint = load(make_model(tmp_path / "m"))
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    rng = np.random.default_rng(1)
    for i in range(config.layers):
        factors = 2.0 ** rng.uniform(-9, 3, config.qkv_width // config.head_dim)
        rows = factors.repeat(config.head_dim).astype(np.float32)
        tensors[f"layers.{i}.qkv.weight"] = tensors[f"layers.{i}.qkv.weight"] * rows[:, None]
        if f"layers.{i}.qkv.bias" in tensors:
            tensors[f"layers.{i}.qkv.bias"] = tensors[f"layers.{i}.qkv.bias"] * rows
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    balanced = canonicalise(checkpoint)
    ones = Balance(np.ones(config.qkv_width, np.float32), np.ones(config.q_width, np.float32))
    monkeypatch.setattr("cryptogen.weights.canonical.balance_of", lambda *_: ones)
    plain = canonicalise(checkpoint)
    tokens = list(range(3, 40))
    want, got = (forward(FloatBackend(model), config, tokens, "all") for model in (plain, balanced))
    assert want is not None and got is not None and np.array_equal(want, got)
    for i in range(config.layers):
        w, before = balanced.weight[f"layers.{i}.qkv"], plain.weight[f"layers.{i}.qkv"]
        assert not np.array_equal(w, before)
        peaks = np.abs(w).reshape(-1, config.head_dim, config.d).max(axis=(1, 2))  # of each head of q, k, v
        q, k, v = np.split(peaks, [config.heads, config.heads + config.kv_heads])
        q = q.reshape(config.kv_heads, -1).max(axis=1) * np.log2(np.e)
        assert (np.abs(np.log2(q / k)) <= 1).all()
        assert (v <= np.abs(before).max()).all() and (v > np.abs(before).max() / 2).all()


@pytest.mark.parametrize("make_model", [tiny_gpt2, tiny_llama])
def test_limits_bound_whatever_enters(make_model: Any, tmp_path: Path) -> None:
    model = canonicalise(load(make_model(tmp_path / "m")))
    config, limits, rng = model.config, Limits(model), np.random.default_rng(2)
    largest: dict[str, Any] = {}

    def see(name: str, value: Any) -> None:
        largest[name] = np.maximum(largest.get(name, 0.0), np.abs(value.astype(np.float64)).max(axis=0))

    rows = np.concatenate([rng.normal(size=(64, config.d)), rng.standard_cauchy((64, config.d))]).astype(np.float32)
    for site in (
        *(f"layers.{i}.up" for i in range(config.layers)),
        "head",
    ):  # the worst row of each neuron too: all of its weights' direction, either sign
        layer, _, _ = site.rpartition(".")
        worst = np.concatenate([rows, 100 * model.weight[site], -100 * model.weight[site]])
        backend = FloatBackend(model, see)
        backend._end = len(worst)  # rows of this call, embedded or not
        norm = f"{layer}.mlp_norm" if layer else "final_norm"
        backend.linear(backend.norm(worst, norm), site)
    rounding = 1 + 1e-5
    for i in range(config.layers):
        gate = largest[f"layers.{i}.up"][: config.ff]
        assert (gate <= limits.gate[i] * rounding).all() and (gate >= limits.gate[i] * 0.9999).all()  # and no looser
    logits = largest["head"]
    assert (logits <= limits.logits * rounding).all() and (logits >= limits.logits * 0.9999).all()


def causal(rng: np.random.Generator, size: int, spread: float) -> Any:
    scores = (rng.standard_normal((size, size)) * spread).astype(np.float32)
    scores[np.triu_indices(size, 1)] = -np.inf
    return scores


@pytest.mark.parametrize(("size", "spread"), [(2, 5), (ROWS, 1), (ROWS + 1, 60), (2 * ROWS + 1, 15)])
def test_scores_are_observed_as_their_definition_says(size: int, spread: float) -> None:
    """A few rows at a time give the same as all at once."""
    scores, found = causal(np.random.default_rng(0), size, spread), Scores()
    found.add(scores)
    rows, own = scores[1:].astype(np.float64), np.diagonal(scores)[1:].astype(np.float64)
    assert found.pairs == np.isfinite(rows).sum()
    assert found.absolute == pytest.approx(np.abs(rows[np.isfinite(rows)]).sum(), rel=1e-5)
    t = np.arange(1, size)
    spread = np.mean([rows[t - 1, t * n // 8] for n in range(1, 9)], axis=0)
    levels = (rows[:, 0], own, (rows[:, 0] + own) / 2, spread, (own + spread) / 2)
    for anchor, level in zip(ANCHORS, levels, strict=True):
        x, seen = rows - level[:, None], found.by_anchor[anchor]
        assert np.allclose(seen.log_sum, np.log(np.exp(x).sum(axis=1)), atol=1e-4)
        assert seen.high == pytest.approx(x.max(), abs=1e-4)
        assert seen.low == pytest.approx(x[x > -np.inf].min(), abs=1e-4)


def anchored(low: float, high: float, sums: list[float], value: float = 1.0, sigma_k: int = 14) -> _Sketch:
    """What is chosen for a head with these scores and sums of exponentials, in bits."""
    nats = math.log(2)
    x = Anchored(low * nats, high * nats, [np.array(sums, dtype=np.float32) * nats])
    return _Sketch.anchored("own", x, sigma_k, Margins(), values(value))


def values(largest: float) -> Extent:
    return Extent(-largest / 2, largest, largest, 4)


@pytest.mark.parametrize(
    ("low", "high", "primes"),
    [(-10, 5, 2), (-40, 5, 2), (-43, 5, 2), (-44, 5, 3), (-40, 26, 3), (-90, 5, 3), (-140, 5, 4), (-195, 5, 5),
     (-240, 5, 6), (-290, 5, 6)],
)  # fmt: skip
def test_a_head_has_the_primes_that_reach_below_its_scores(low: float, high: float, primes: int) -> None:
    """As far below as a quarter of the spread, or 14.4 bits, with what is to spare."""
    sketch = anchored(low, high, [0.0, high + 1])
    head, _ = sketch.head(TableSet(), False)
    assert (sketch.primes, head.primes) == (primes, primes)
    wished = -low + max(10 / math.log(2), (high - low) / 4)
    assert head.bottom - 1 >= (wished if low > -250 else -low + 10 / math.log(2))
    if primes > 2:
        assert MODULUS_BITS[primes - 1] - 20 - max(46, high + 30) < wished + 2
    quotient = MODULUS_BITS[primes] - head.shift
    spare = MODULUS_BITS[primes] - 20 - head.bottom - math.ceil(high)
    assert min(quotient - 58, spare - 30) == 0  # neither shares are too short nor truncations fail, and all is used
    sketch.refuse("here")


def test_a_head_that_six_primes_do_not_hold_is_refused() -> None:
    anchored(-296, 0, [0.0]).refuse("attention[3].heads[1]")
    with pytest.raises(
        PlanError, match=r"attention\[3\].heads\[1\]: scores: .* at most 216 nats .*--context.* '217 with margin'"
    ):
        anchored(-299, 0, [0.0]).refuse("attention[3].heads[1]")


def test_exponentials_have_fewer_bits_where_their_sums_are_large() -> None:
    tried = ((5.0, 4), (21.9, 4), (22.9, 4), (22.9, 16), (50.0, 64))
    assert [anchored(-20, top, [0.0, top], value, 16).bits for top, value in tried] == [12, 12, 11, 9, 8]
    for top in range(5, 40):
        sketch = anchored(-20, top, [0.0, top], 8.0, 16)
        weighted = sketch.bits + F + 3 + min(top, sketch.reach)
        assert weighted <= 48 or sketch.bits == 8


def test_windows_of_sums_hold_what_was_seen_with_a_margin() -> None:
    nats = math.log(2)
    for largest in (3.0, 12.0, 16.0):
        sketch = anchored(-20, 2.0, [0.0, largest])
        assert sketch.holds and sketch.beyond == 0 and sketch.reach >= largest + 3
        assert sketch.reach == pytest.approx(max(2 + 8 / nats + 3, largest + 3))
    tight = anchored(-20, 2.0, [0.0, 20.0, 22.0, 23.0])
    assert not tight.holds and tight.reach == 21 and tight.beyond == 0.5
    assert anchored(-20, 2.0, [0.0, 20.0, 21.0, 21.9], sigma_k=16).holds


def test_the_anchor_that_leaves_the_least_to_do_is_taken() -> None:
    def of(**heads: tuple[float, float, float]) -> str:
        scores = Scores(pairs=1)
        for name in ANCHORS:
            low, high, largest = heads.get(name, (-400, 40, 40))
            sums = [np.array([0.0, largest], np.float32) * math.log(2)]
            scores.by_anchor[name] = Anchored(low * math.log(2), high * math.log(2), sums)
        return _Sketch.of(scores, 14, Margins(), values(1.0)).anchor

    assert of(first=(-20, 30, 30), own=(-80, 10, 10), both=(-20, 30, 31)) == "own"  # no row's σ beyond its window
    assert of(first=(-20, 12, 12), own=(-80, 10, 10), both=(-50, 10, 11)) == "first"  # fewer primes
    assert of(first=(-20, 12, 12), own=(-20, 10, 10), both=(-20, 10, 11)) == "own"
    assert of(first=(-20, 17, 19), own=(-80, 10, 10)) == "own"  # its σ has its margin

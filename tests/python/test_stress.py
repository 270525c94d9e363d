"""The stress text, and small versions of every class on tiny models: the integers follow the float
model."""

from __future__ import annotations

import hashlib
from itertools import count, islice
from pathlib import Path

import pytest

import cryptogen
from cryptogen.calibration import model as calibration
from cryptogen.calibration import stress
from cryptogen.calibration.model import calibrate_model, stress_tokens
from cryptogen.errors import InputError, PlanError, PlanUnfaithful
from cryptogen.evaluate.report import inspect_plan
from cryptogen.evaluate.texts import COUNTED_LEAD, Comparison, Faithful, Windows, cropped, faithful
from cryptogen.numerics import IntegerModel, NumericPlan, quantise
from cryptogen.weights.canonical import Canonical, canonicalise
from tiny import tiny_gpt2, tiny_llama, write_gguf

ROWS = 64
NAMES = (*stress.names(), *stress.SHORT)
Model = tuple[Canonical, IntegerModel, NumericPlan, dict[str, Windows]]


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("stress")
    (folder / "text").write_text("the rain in spain falls on the plain " * 8, encoding="utf-8")
    checkpoint = cryptogen.load(request.param(folder / "model"))
    assert checkpoint.tokenizer is not None
    plan = calibrate_model(folder / "model", folder / "text", windows=[0], size=48, context=ROWS)
    canonical = canonicalise(checkpoint)
    return canonical, quantise(canonical, plan), plan, stress_tokens(checkpoint.tokenizer, ROWS, seed=3)


@pytest.mark.parametrize("name", NAMES)
def test_the_integers_follow_the_float_model(model: Model, name: str) -> None:
    canonical, weights, plan, texts = model
    found = faithful(canonical, weights, plan, texts[name])
    assert found.rows == sum(map(len, texts[name])) and found.faults() == []


def test_every_class_was_checked_and_stands_in_the_plan(model: Model) -> None:
    assert {*NAMES, "text"} <= set(model[2].statistics["classes"])
    assert model[2].statistics["accepted"] == {}


def test_texts_are_reproducible_and_seeds_differ() -> None:
    for name in stress.names():
        assert stress.text(name, 500, 4) == stress.text(name, 500, 4)
        assert len(stress.text(name, 500, 4)) >= 500
    assert stress.text("code", 500, 0) != stress.text("code", 500, 1)
    parts = [stress.text(name, 2000) for name in stress.names()]
    parts += [text for name in stress.SHORT for text in islice(stress.short(name), 50)]
    everything = "".join(parts)
    assert hashlib.sha256(everything.encode()).hexdigest() == EVERYTHING, "the plan was made from another stress text"
    with pytest.raises(InputError, match="expected one of"):
        stress.text("poetry")


EVERYTHING = "215657e8e19360f41e68bedb55eb453089f5cae53b70b3a408aac587903dab15"


def test_a_plan_that_fails_a_class_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stricter idea of what is good enough, every class fails."""
    write_gguf(cryptogen.load(tiny_llama(tmp_path / "m")), tmp_path / "m.gguf")
    (tmp_path / "text").write_text("the rain in spain falls on the plain " * 8, encoding="utf-8")
    bad = Faithful(8, 9.0, 8.0, 0.5, 0.5, 1, 7.0, 2, (("score, layer 3, head 1", 4, 2.5),))
    monkeypatch.setattr(calibration, "faithful_texts", lambda *_: {"digits": bad, "code": bad})
    with pytest.raises(PlanUnfaithful, match="digits: .*layer 3, head 1 .4 times, by up to 2.5") as error:
        calibrate_model(tmp_path / "m.gguf", tmp_path / "text", windows=[0], size=48, context=16)
    assert set(error.value.faults) == {"digits", "code"}
    with pytest.raises(PlanUnfaithful) as error:
        calibrate_model(tmp_path / "m.gguf", tmp_path / "text", [0], 48, 16, accept=["code"])
    assert set(error.value.faults) == {"digits"}
    plan = calibrate_model(tmp_path / "m.gguf", tmp_path / "text", [0], 48, 16, accept=["code", "digits"])
    assert "NOT GOOD on code: perplexity" in inspect_plan(plan)


def test_what_calibration_cannot_take_is_named(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "m")
    (tmp_path / "text").write_text("the rain in spain falls on the plain " * 8, encoding="utf-8")
    with pytest.raises(PlanError, match="context: expected up to 128 rows"):
        calibrate_model(model, tmp_path / "text", [0], 48, 129)
    with pytest.raises(InputError, match="class 'poetry', expected one of text, encyclopedia"):
        calibrate_model(model, tmp_path / "text", [0], 48, 16, accept=["poetry"])
    (tmp_path / "text").write_bytes(b"the rain \xff")
    with pytest.raises(InputError, match="UTF-8 text expected, byte 10 is none"):
        calibrate_model(model, tmp_path / "text", [0], 48, 16)


def test_windows_are_cropped_to_a_number_of_rows() -> None:
    assert cropped([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 5) == [[1, 2, 3], [4, 5]]
    assert cropped(([i, i, i] for i in count()), 7) == [[0, 0, 0], [1, 1, 1]]  # no window of one token


def test_what_is_not_good_enough_is_named() -> None:
    good = Faithful(8, 8.01, 8.0, 1.0, 0.9, 3, 0.9, 0, ())
    assert good.faults() == []
    assert "perplexity" in Faithful(8, 8.1, 8.0, 1.0, 1.0, 0, 0.0, 0, ()).faults()[0]
    assert Faithful(8, 8100.0, 8000.0, 1.0, 1.0, 0, 0.0, 0, ()).faults() == []  # nothing that it would write
    assert "98.5%" in Faithful(8, 8.0, 8.0, 0.98, 0.98, 0, 0.0, 0, ()).faults()[0]
    assert "2 rows have more, up to 1.50" in Faithful(8, 8.0, 8.0, 1.0, 1.0, 0, 1.5, 2, ()).faults()[0]


def test_a_comparison_counts_what_it_says() -> None:
    import numpy as np

    clear = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.95], [0.0, 0.0, 3.0]])
    ours = np.array([[1.5, 0.0, 0.0], [0.0, 1.0, 1.05], [0.0, 4.0, 3.0]])
    comparison = Comparison()
    comparison.window([0, 1, 2], [(clear[:2], ours[:2], [0, 0]), (clear[2:], ours[2:], [7])])
    found = comparison.result()
    assert (found.rows, found.flagged, found.errors) == (3, 1, 0)
    assert found.largest_error == 0.5  # the flagged row's 4 does not count
    assert found.agreement == 0.5 and found.agreement_all == pytest.approx(1 / 3)  # one near tie
    nll = [np.log(np.exp(row).sum()) - row[t] for row, t in zip(clear[:2], [1, 2], strict=True)]
    assert found.perplexity_float == pytest.approx(np.exp(np.mean(nll)))
    assert COUNTED_LEAD == 0.1

"""`make test-fidelity`: does any text break the shipped plan? Minutes; not part of `make test`.

SmolLM2 at its full context: the stress text from a seed that neither calibration nor its check has
seen, WikiText-2 where it is at hand, files of this repository, greedy chains; and a prompt that
broke the first plan, privately.
"""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest

import cryptogen
from cryptogen.bench import ranges
from cryptogen.bench.demo import smollm2
from cryptogen.calibration import stress
from cryptogen.evaluate.fidelity import fidelity
from cryptogen.evaluate.texts import AGREEMENT
from cryptogen.processes import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext-2-raw" / "wiki.test.raw"
OURS = ("Cargo.lock", "LICENSE", "benches/paper-gpt2.json", "docs/paper-memory.svg", "docs/protocols/arithmetic.md")
NAMES = [f"{name}, {size}" for name in (*stress.names(), *stress.SHORT, "chat") for size in (512, 2048)]
NAMES += [f"{Path(name).name}, {size}" for name in (*OURS, WIKITEXT.name) for size in (512, 2048)]
NAMES += [f"chain {i + 1}" for i in range(len(ranges.PROMPTS))]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    files = [ROOT / name for name in OURS] + ([WIKITEXT] if WIKITEXT.exists() else [])
    found: dict[str, Any] = ranges.measure(smollm2(), None, (512, 2048), files)["texts"]
    return found


# Classes on which the shipped plan is known not to be good enough, with the reasons in
# docs/decisions/0021-ranges.md (*What remains*) and 0032: how far perplexity may be off, and which
# part of the rows may be wrong by more than 1 without a range event. Anything worse fails here,
# too, and so does a best token that differs more often than anywhere else.
KNOWN = {
    "pairs": (math.inf, 0.0),
    "prompts": (0.005, 0.002),
    "few-words": (0.005, 0.001),
    "spaces": (0.02, 0.001),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_integers_follow_the_float_model(figures: dict[str, Any], name: str) -> None:
    if name not in figures:
        pytest.skip(f"{name}: no such text here, or it is shorter")
    found = figures[name]
    name, _, _ = name.partition(",")
    if found["faults"] and name in KNOWN:
        change, wrong = KNOWN[name]
        assert abs(found["perplexity"] / found["perplexity_float"] - 1) < change
        assert found["errors"] <= wrong * found["rows"]
        assert found["agreement"] >= AGREEMENT
        pytest.xfail("; ".join(found["faults"]))
    assert found["faults"] == []


@pytest.mark.parametrize("i", range(1, len(ranges.PROMPTS) + 1))
def test_greedy_chains_are_equal(figures: dict[str, Any], i: int) -> None:
    assert figures[f"chain {i}"]["agreement_all"] >= 0.99


def test_a_prompt_that_broke_once(tmp_path: Path) -> None:
    """Hexadecimal digits, two processes: the tokens are the clear model's."""
    model = smollm2()
    checkpoint = cryptogen.load(model)
    assert checkpoint.tokenizer is not None
    digits = random.Random(0)
    prompt = checkpoint.tokenizer.encode("".join(digits.choice("0123456789abcdef") for _ in range(400)))[:235]
    assert len(prompt) == 235
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["serve", str(model), "--listen", "127.0.0.1:0", "--data-dir", folder]
        with (
            ServerProcess("cryptogen", arguments) as server,
            cryptogen.Client(server.address, fingerprint=server.fingerprint, data_dir=folder) as client,
        ):
            answer = list(client.generate(prompt, max_new_tokens=12, stop=()))
    assert not fidelity(checkpoint, prompt, [token.id for token in answer]).violations
    assert [token.range_events for token in answer] == [0] * 12

"""One word for one thing (`docs/glossary.md`): names that were given up do not come back, in code
or in documents."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".rs", ".py", ".pyi", ".md", ".toml"}
HISTORY = (ROOT / "docs" / "decisions", ROOT / "CHANGELOG.md", Path(__file__))  # where old names belong

# What is not written any more → what is written instead, and an old spelling that the expression
# has to find.
RETIRED = {
    r"\bWrongToken\b|\btoken_file\b|\bTokenFile\b|--token-file\b": ("access_token", "--token-file token.txt"),
    r"\b(Client|Server)\([^)]*[ (]token=": ("access_token", 'Server("model", token="a long secret")'),
    r"\bTextCodec\b|\btokens[./]codec\b|\.codec\b": ("tokenizer", "client.codec"),
    r'"op": "truncate"|messages\.Truncate\b|endpoint[./]truncate\b': ("crop", "messages.Truncate(3)"),
    r"fn truncate\(&mut self, rows\b|def truncate\(self, rows\b": ("crop", "def truncate(self, rows: int)"),
    r"\bAmount\b": ("PerToken", "-> Amount:"),
    r"\b_core\.Plan\b|\b_core import .*\bPlan\b": ("CheckedPlan", "plan: _core.Plan"),
    r"\bnumerics(\.plan)?(\.| import .*\b)Plan\b": ("NumericPlan", "from cryptogen.numerics.plan import F, Plan"),
    r"\b[Tt]he default protocol\b|\bour default\b|protocols? beside ours\b": ("preprocessed", "the default protocol"),
    r"\btoken slots\b|\bslots-online\b|\bslots_pool\b|\bslot_bytes\b": ("rows", "token slots"),
    r"\bHeadSlot\b|\bhead_(record_bytes|now)\b|\bhead records?\b|\badd_heads\b": ("LogitsMaterial", "a head record"),
    r"\bdefault linear layer\b": ("preprocessed", "as after the default linear layer"),
    r"\b[Ff]olding rotations?\b": ("rotations that sum", "no folding rotations"),
    r"\bTruncation of rows\b": ("crop", "### 4.7 Truncation of rows"),
    r"\boutput heads\b|\b(take|ready)_heads\b|\bmessages\.Heads\b": ("logits", "take_heads"),
    r"\battention tables\b|\bexponential_tables\b": ("exponentials", "attention tables"),
    r'\b(left|spent|bought)"?\]?\["(slots|heads)"\]|\bStock \{ slots\b': ("rows, logits", 'costs.left["slots"]'),
    r"\bIncoming\b": ("Opened", "fn words(&self, from: &Incoming)"),
    r"\bMask::|\benum Mask\b|\bslot\.mask\(": ("MaskLabel, expand_mask", "slot.mask(Mask::Query, layer, n)"),
    r"\bKernel::|\bkernels::(scores|values|cached|queried)\b": ("QueryShape, products", "kernels::scores(&s, group)"),
    r"\btrait Slots\b|\bS: Slots\b|\btype Slots\b": ("SlotArithmetic, SlotShare", "trait Slots: Sync"),
    r"\b(c|m|config|model)\.group\b": ("queries_per_kv_head", "m.group()"),
    r"packing::(\{)?fold\b|[ &(]fold\(&": ("sum_features", "use crate::material::packing::fold;"),
    r"\.expanded\(|\bdecrypted\(|\bcombined\(|\bhidden\(from|\bentered\(plan": (
        "read, decrypt_all, combine_group, mask_and_flood, linear_input_share",
        "let values = decrypted(keys)",
    ),
    r"\bSlotLayout\b|\bSlot(<|::)|\bper_slot\b|\bslot records?\b": ("RowMaterial, RowLayout", "slot: Slot<P>"),
    r"_(slots|heads|tables)_seconds_per_token": ("rows, logits, exponentials", "offline_heads_seconds_per_token"),
}


@cache
def pages() -> dict[str, list[str]]:
    """The lines of all code and documents of this repository."""
    folders = ("crates", "python", "tests", "examples", "docs")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    found += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]
    read = sorted(path for path in found if not any(path.is_relative_to(old) for old in HISTORY))
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").splitlines() for path in read}


@pytest.mark.parametrize("retired", RETIRED)
def test_no_retired_word_is_written(retired: str) -> None:
    word, spelling = RETIRED[retired]
    expression = re.compile(retired)
    assert expression.search(spelling), f"{retired} does not find {spelling!r}"
    wrong = [
        f"{page}:{number}: {found[0]}"
        for page, lines in pages().items()
        for number, line in enumerate(lines, 1)
        if (found := expression.search(line))
    ]
    assert not wrong, f"write {word} instead:\n" + "\n".join(wrong)


def test_every_kind_of_file_is_read() -> None:
    assert {
        "README.md", "Makefile", "crates/protocols/src/endpoint/crop.rs", "docs/guide/material.md",
        "examples/conversation.py", "python/cryptogen/_core.pyi", "tests/python/served.py",
    } <= pages().keys()  # fmt: skip

"""Makes `family_logits.json`, what transformers computes on the checkpoints of `families.py`:

    python -m venv V && V/bin/pip install torch transformers numpy safetensors
    V/bin/python tests/python/family_logits.py

Tests need none of these; the file was made with torch 2.15.0 and transformers 5.24.0.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from families import FAMILIES, ROWS, TOKENS, write_family


def logits(name: str, folder: Path) -> list[list[float]]:
    """Of the rows `ROWS`, [rows, vocab]. Fails if a tensor is left over or missing."""
    write_family(name, folder)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    with torch.no_grad():
        out = model.eval()(torch.tensor([TOKENS])).logits[0]
    return [[round(float(x), 6) for x in out[row]] for row in ROWS]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = {name: logits(name, Path(folder) / name) for name in FAMILIES}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in made.items())
    Path(__file__).with_name("family_logits.json").write_text("{\n" + rows + "\n}\n")

"""`cryptogen bench peers`: SPU's Cheetah and `preprocessed` on the same block, one after the other.

`preprocessed`: offline and online of one token, the straight line through 1 and K blocks
(`bench decode`); a token is all blocks, embedding and head. SPU's: one block and one head, each
measured; a token is their sum, the block multiplied by the number of layers. Neither counts what is
paid once: connecting, SPU's dealing of the weights.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptogen.errors import InputError, PeerUnavailable

from .. import decode
from ..measure import Note
from ..shapes import SHAPES
from .environment import SPU, spu_python


@dataclass(frozen=True)
class Task:
    """`runs`: of SPU's block after one that warms up, the median counts; `tokens`, `blocks`: of
    `preprocessed`."""

    shape: str = "gpt2"
    context: int = 128
    runs: int = 3
    tokens: int = 4
    blocks: int = 4


def compare(task: Task, note: Note) -> dict[str, Any]:
    """The figures of `bench peers --json`: seconds of wall clock, bytes of both directions."""
    if task.shape != "gpt2":
        raise InputError(f"shape {task.shape!r}, expected gpt2: the peer's program is written for it")
    layers, context = SHAPES[task.shape].layers, SHAPES[task.shape].context
    if not 1 <= task.context <= context - task.tokens:
        raise InputError(f"context {task.context}, expected 1 to {context - task.tokens}")
    python = spu_python(note)
    note(f"{SPU}: {task.runs + 1} blocks and a head")
    spu = run_spu(python, task.context, task.runs)
    note(f"CryptoGen: 1 and {task.blocks} blocks")
    figures = decode.decode(decode.Task(task.shape, task.context, task.tokens, blocks=task.blocks), note=note)
    block = figures["per_block"]
    token = {key: figures[key] for key in block}
    return {
        "shape": task.shape,
        "context": task.context,
        "spu": spu | {"version": SPU, "protocol": "CHEETAH", "token": multiplied(spu, layers)},
        "cryptogen": {"block": totals(block), "token": totals(token), "batch_tokens": figures["batch_tokens"]},
        "spu_token_is": f"{layers} x block + head, multiplied, not measured",
        "cryptogen_token_is": f"straight line through 1 and {task.blocks} blocks",
        "ratio_per_block": spu["block"]["seconds"] / totals(block)["seconds"],
        "ratio_per_token": multiplied(spu, layers)["seconds"] / totals(token)["seconds"],
        "machine": figures["machine"],
        "commit": figures["commit"],
    }


def run_spu(python: Path, context: int, runs: int) -> dict[str, Any]:
    """`block` and `head` of SPU: seconds, runs, bytes, sends, max_error. Raises `PeerUnavailable`
    if it fails."""
    with tempfile.TemporaryDirectory(prefix="cryptogen-spu-") as folder:
        command = [str(python), spu_block_path(), "all", str(context), str(runs), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise PeerUnavailable(f"{SPU} failed: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def spu_block_path() -> str:
    """It is run by another interpreter, never imported."""
    return str(Path(__file__).with_name("spu_block.py"))


def multiplied(spu: dict[str, Any], layers: int) -> dict[str, float]:
    """A token of SPU's from one block and one head."""
    return {key: layers * spu["block"][key] + spu["head"][key] for key in ("seconds", "bytes", "sends")}


def totals(figures: dict[str, float]) -> dict[str, float]:
    """`preprocessed`, offline and online together."""
    offline, online = figures["offline_seconds_per_token"], figures["online_seconds_per_token"]
    return {
        "offline_seconds": offline,
        "online_seconds": online,
        "seconds": offline + online,
        "bytes": figures["offline_bytes_per_token"] + figures["online_bytes_per_token"],
        "round_trips_online": figures["round_trips_per_token"],
    }


def summary(result: dict[str, Any]) -> str:
    """For people."""
    spu, cryptogen = result["spu"], result["cryptogen"]
    lines = [f"one {result['shape']} token behind {result['context']} rows, both parties on {result['machine']}", ""]
    for what in ("block", "token"):
        lines += [
            f"{what}: SPU Cheetah {spu[what]['seconds']:.2f} s, {spu[what]['bytes'] / 1e6:.1f} MB; CryptoGen "
            f"{cryptogen[what]['offline_seconds']:.3f} s offline + {cryptogen[what]['online_seconds']:.3f} s online, "
            f"{cryptogen[what]['bytes'] / 1e6:.1f} MB; {result[f'ratio_per_{what}']:.0f} times"
        ]
    head = f"SPU's head {spu['head']['seconds']:.2f} s; its token is {result['spu_token_is']}"
    return "\n".join([*lines, f"{head}. CryptoGen: {result['cryptogen_token_is']}."])

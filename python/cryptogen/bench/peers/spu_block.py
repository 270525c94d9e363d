"""SPU's Cheetah on one GPT-2 block with one new row, in two processes. Runs in SPU's environment,
never in ours.

`python spu_block.py all CONTEXT RUNS FOLDER`: compiles, shares random weights, starts both parties,
prints JSON.
`python spu_block.py party RANK RUNS FOLDER`: one party (used by `all`).

Weights are party 0's; the row and the cache are shared. All of it is dealt before the clock starts.
The 64-bit ring and SPU's defaults, but for `colocated_optimization`: products use that one party
knows the weights, and are faster.
"""

from __future__ import annotations

import json
import pickle
import re
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from spu import Io, Runtime, libspu
from spu.utils import frontend

D, HEADS, FF, VOCAB = 768, 12, 3072, 50257  # GPT-2 base
LINKS = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)")


def norm(x, gain, bias):  # [1, D]
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5) * gain + bias


def block(x, keys, values, w):
    """x: [1, D]; keys, values: [HEADS, context, D / HEADS] of earlier rows. Returns [1, D]."""
    h = norm(x, w["g1"], w["b1"])
    q, k, v = jnp.split(h @ w["qkv"] + w["qkv_bias"], 3, axis=-1)
    q, k, v = (t.reshape(HEADS, 1, D // HEADS) for t in (q, k, v))
    keys, values = jnp.concatenate([keys, k], axis=1), jnp.concatenate([values, v], axis=1)
    scores = q @ jnp.swapaxes(keys, 1, 2) / np.sqrt(D // HEADS)  # [HEADS, 1, context + 1]
    mixed = (jax.nn.softmax(scores, axis=-1) @ values).reshape(1, D)
    x = x + mixed @ w["out"] + w["out_bias"]
    h = norm(x, w["g2"], w["b2"])
    return x + jax.nn.gelu(h @ w["up"] + w["up_bias"]) @ w["down"] + w["down_bias"]


def head(x, embedding):
    """x: [1, D], embedding: [D, VOCAB]. Returns logits [1, VOCAB]."""
    return x @ embedding


def jobs(context):
    """By name: function, arguments, and how many of them, counted flat, are not the server's."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    w = {"qkv": normal(D, 3 * D), "out": normal(D, D), "up": normal(D, FF), "down": normal(FF, D)}
    w |= {"qkv_bias": normal(3 * D), "out_bias": normal(D), "up_bias": normal(FF), "down_bias": normal(D)}
    w |= {name: np.ones(D, np.float32) if name[0] == "g" else normal(D) for name in ("g1", "b1", "g2", "b2")}
    x = rng.standard_normal((1, D)).astype(np.float32)
    keys, values = (rng.standard_normal((HEADS, context, D // HEADS)).astype(np.float32) for _ in range(2))
    return {"block": (block, (x, keys, values, w), 3), "head": (head, (x, normal(D, VOCAB)), 1)}


def config(profile):
    made = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.CHEETAH, field=libspu.FieldType.FM64)
    made.experimental_enable_colocated_optimization = True
    made.enable_pphlo_profile = profile  # logs bytes and sends of a run
    return made


def everything(context, runs, folder):
    """Compiles, shares, runs both parties, compares with the clear result."""
    io, clear = Io(2, config(False)), {}
    for name, (function, args, theirs) in jobs(context).items():
        flat = jax.tree_util.tree_flatten(args)[0]
        secret = libspu.Visibility.VIS_SECRET
        names, outputs = [f"{name}-{i}" for i in range(len(flat))], partial(list_of, f"{name}-out")
        executable, _ = frontend.compile(frontend.Kind.JAX, function, args, {}, names, [secret] * len(flat), outputs)
        (folder / name).write_bytes(executable.SerializeToString())
        shares = [io.make_shares(np.asarray(a), secret, -1 if i < theirs else 0) for i, a in enumerate(flat)]
        for rank in (0, 1):
            (folder / f"{name}.{rank}").write_bytes(pickle.dumps([s[rank] for s in shares]))
        clear[name] = np.asarray(function(*args))
    (folder / "ports").write_text(" ".join(map(str, free_ports())))
    logs = both_parties(runs, folder)
    result = {}
    for name, expected in clear.items():
        found = [pickle.loads((folder / f"{name}.out{rank}").read_bytes()) for rank in (0, 1)]
        links = [last_run(log, name) for log in logs]
        result[name] = {
            "seconds": statistics.median(max(pair) for pair in zip(*(times for _, times in found), strict=True)),
            "runs": len(found[0][1]),
            "bytes": links[0][0] + links[1][0],  # sent by one and by the other
            "sends": links[0][1] + links[1][1],
            "max_error": float(np.abs(io.reconstruct([share for share, _ in found]) - expected).max()),
        }
    return result


def list_of(name, found):
    return [f"{name}{i}" for i in range(len(found))]


def both_parties(runs, folder):
    """Runs the two processes; what each of them logged."""
    logs = [folder / f"log.{rank}" for rank in (0, 1)]
    parties = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, __file__, "party", str(rank), str(runs), str(folder)]
            with log.open("w") as out:
                parties.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
        while any(party.poll() is None for party in parties):
            if any(party.poll() for party in parties):
                break  # the other waits for it in vain
            time.sleep(0.2)
        for rank, party in enumerate(parties):
            if party.poll():
                sys.exit(f"party {rank} failed: {logs[rank].read_text()[-2000:]}")
    finally:
        for party in parties:
            party.kill()
            party.wait()
    return [log.read_text() for log in logs]


def last_run(log, name):
    """Bytes and messages sent in the last run of a job: SPU's profile logs them, and has no other
    way to tell."""
    found = LINKS.findall(log[: log.rindex(f"ran {name} ")])
    return int(found[-1][0]), int(found[-1][1])


def free_ports():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def party(rank, runs, folder):
    desc = libspu.link.Desc()
    for i, port in enumerate((folder / "ports").read_text().split()):
        desc.add_party(f"P{i}", f"127.0.0.1:{port}")
    desc.recv_timeout_ms = 600_000  # its head works for longer than the default 30 s on a slow machine
    link = libspu.link.create_brpc(desc, rank)
    runtime = Runtime(link, config(True))
    for name, repetitions in (("block", runs + 1), ("head", 1)):
        executable = libspu.Executable()
        executable.ParseFromString((folder / name).read_bytes())
        for key, share in zip(
            executable.input_names, pickle.loads((folder / f"{name}.{rank}").read_bytes()), strict=True
        ):
            runtime.set_var(key, share)
        times = []
        for i in range(repetitions):
            link.barrier()
            begun = time.perf_counter()
            runtime.run(executable)
            times.append(time.perf_counter() - begun)
            print(f"ran {name} {i} {times[-1]}", flush=True)
        out = runtime.get_var(executable.output_names[0])
        (folder / f"{name}.out{rank}").write_bytes(
            pickle.dumps((out, times[1:] or times))
        )  # the block's first run warms up
    link.stop_link()


if __name__ == "__main__":
    role, number, runs, folder = sys.argv[1:]
    if role == "party":
        party(int(number), int(runs), Path(folder))
    else:
        print(json.dumps(everything(int(number), int(runs), Path(folder))))

"""Loading holds one matrix of floats at a time, and what is served is what the digest says."""

from __future__ import annotations

import shutil
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.private import server_model
from cryptogen.bench.shapes import quick_plan, random_checkpoint, shape
from cryptogen.models.decoder import forward
from cryptogen.numerics import quantise
from cryptogen.numerics.plan import NumericPlan, tables
from cryptogen.numerics.quantise import ModelDigest, integer_parts
from cryptogen.weights import Checkpoint, load, tensor_shapes
from cryptogen.weights.canonical import canonicalise
from cryptogen.weights.tensors import Stored, Tensors
from tiny import tiny_gpt2, tiny_llama, write_gguf, write_llama2c

BIG = {"vocab_size": 4096, "hidden_size": 256, "head_dim": 64, "intermediate_size": 512, "rms_norm_eps": 1e-5}


def gpt2_folder(folder: Path, **overrides: Any) -> Path:
    names = {"vocab_size": "vocab_size", "hidden_size": "n_embd"}
    return tiny_gpt2(folder / "m", **{names[k]: v for k, v in overrides.items() if k in names})


def llama_folder(folder: Path, **overrides: Any) -> Path:
    return tiny_llama(folder / "m", **({"rms_norm_eps": 1e-5} | overrides))


def tied_folder(folder: Path, **overrides: Any) -> Path:
    return llama_folder(folder, tie_word_embeddings=True, **overrides)


def gguf_file(folder: Path, **overrides: Any) -> Path:
    return write_gguf(load(llama_folder(folder, **overrides)), folder / "m.gguf")


def packed_file(folder: Path, **overrides: Any) -> Path:
    blocks = {"intermediate_size": 192} | overrides  # whole blocks of 32
    return write_gguf(load(llama_folder(folder, **blocks)), folder / "m.gguf", gguf.GGMLQuantizationType.Q8_0)


def llama2c_file(folder: Path, **overrides: Any) -> Path:
    return write_llama2c(load(llama_folder(folder, **overrides)), folder / "m.bin")


FORMATS = [gpt2_folder, llama_folder, tied_folder, gguf_file, packed_file, llama2c_file]
every_format = pytest.mark.parametrize("make", FORMATS)
Make = Callable[..., Path]


def streamed(checkpoint: Checkpoint, plan: NumericPlan) -> str:
    """Takes the integers as the server does; their digest."""
    digest = ModelDigest()
    for _ in digest.of(integer_parts(canonicalise(checkpoint, keep=False), plan)):
        pass
    return digest.hex()


@every_format
def test_rows_give_the_same_integers_as_whole_matrices(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(make(tmp_path))
    plan = quick_plan(checkpoint)
    whole = quantise(canonicalise(checkpoint), plan)
    monkeypatch.setattr("cryptogen.weights.canonical.NUMBERS", 700)  # no matrix has a multiple of so many rows
    again = load(checkpoint.source)
    parts = list(integer_parts(canonicalise(again, keep=False), plan))
    assert len(parts) > 10 * len(set((part.name, part.kind) for part in parts))
    assert [part.numbers.dtype for part in parts] == [
        {"table": np.int32, "weight": np.int16, "bias": np.int64}[part.kind] for part in parts
    ]
    arrays = {"embed": whole.embed, "pos": whole.pos}
    for name, kind, size, numbers in whole.parts():
        rows = np.concatenate([p.numbers for p in parts if (p.name, p.kind) == (name, kind)])
        assert rows.shape == size and np.array_equal(rows, numbers), (name, kind)
        arrays[name] = rows
    assert {p.name for p in parts} == {name for name, array in arrays.items() if array is not None}
    assert streamed(again, plan) == whole.digest()
    assert again.digest == checkpoint.digest


def test_the_digest_tells_models_apart(tmp_path: Path) -> None:
    checkpoint = load(gpt2_folder(tmp_path))
    plan = quick_plan(checkpoint)
    model = quantise(canonicalise(checkpoint), plan)
    site = "layers.1.o"
    other = model.matrices[site].copy()
    other[-1, -1] ^= 1
    changed = [
        replace(model, matrices=model.matrices | {site: other}),
        replace(model, biases=model.biases | {site: model.biases[site] + 1}),
        replace(model, biases={name: bias for name, bias in model.biases.items() if name != site}),
        replace(model, pos=None),
        replace(model, embed=model.embed[:-1]),
        replace(model, embed=model.embed.reshape(-1, 32)),
        replace(model, embed=model.embed.astype(np.int64)),
    ]
    assert len({m.digest() for m in [model, *changed]}) == 1 + len(changed)


# --- memory


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Peak of what numpy and Python hold, bytes, since the last question."""
    tracemalloc.start()

    def peak() -> int:
        most = tracemalloc.get_traced_memory()[1] - held[0]
        tracemalloc.reset_peak()
        held[0] = tracemalloc.get_traced_memory()[0]
        return most

    held = [tracemalloc.get_traced_memory()[0]]
    tracemalloc.reset_peak()
    yield peak
    tracemalloc.stop()


@every_format
def test_one_matrix_of_floats_is_in_memory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: Callable[[], int]
) -> None:
    path = make(tmp_path, **BIG)
    plan = quick_plan(load(path))
    for module in ("canonical", "tensors"):
        monkeypatch.setattr(f"cryptogen.weights.{module}.NUMBERS", 1 << 12)
    load(path)  # imports
    largest = 4 * BIG["vocab_size"] * BIG["hidden_size"]
    traced()
    checkpoint = load(path)
    assert traced() < largest / 2  # the tokenizer, but no tensor
    assert checkpoint.digest
    # as they are in the file, if that is another type, and a layer's parts before they are stacked
    assert largest <= traced() < 1.4 * largest
    assert streamed(checkpoint, plan)
    assert largest <= traced() < 1.4 * largest
    assert checkpoint.held
    assert traced() > 1.4 * largest  # as it was before


def test_the_last_tensor_is_gone_before_the_next_one_comes() -> None:
    """Also where several are as large as each other."""
    checkpoint = random_checkpoint(shape("tiny"))
    plan, made, most = quick_plan(checkpoint), list[weakref.ref[Any]](), 0

    def read(name: str) -> Any:
        nonlocal most
        array = checkpoint.tensors[name]
        if array.ndim == 2:
            made.append(weakref.ref(array))
            most = max(most, sum(reference() is not None for reference in made))
        return array

    stored = {name: Stored(t.shape, partial(read, name)) for name, t in checkpoint.tensors.items()}
    same = replace(checkpoint, tensors=Tensors(stored, checkpoint.source))
    assert streamed(same, plan) == quantise(canonicalise(checkpoint), plan).digest()
    assert same.digest == checkpoint.digest
    assert len(made) > 2 * 4 * checkpoint.config.layers and most == 1


def test_the_float_backend_reads_a_checkpoint_once(tmp_path: Path) -> None:
    checkpoint = load(llama_folder(tmp_path))
    first = forward(FloatBackend(checkpoint), checkpoint.config, [1, 2, 3])
    shutil.rmtree(checkpoint.source)
    again = forward(FloatBackend(checkpoint), checkpoint.config, [1, 2, 3])
    assert first is not None and np.array_equal(first, again)


def test_random_tensors_do_not_depend_on_their_order() -> None:
    config = shape("tiny")
    one, two = random_checkpoint(config), random_checkpoint(config)
    names = list(one.tensors)
    assert all(np.array_equal(one.tensors[n], two.tensors[n]) for n in reversed(names))
    assert one.digest == two.digest != random_checkpoint(config, seed=1).digest
    same_size = [t for n in names if (t := one.tensors[n]).shape == one.tensors["layers.0.o.weight"].shape]
    assert len({t.tobytes() for t in same_size}) == len(same_size) >= config.layers


def test_the_large_shape_is_that_of_llama_3_2_1b() -> None:
    sizes = tensor_shapes(shape("llama-1b"))
    assert sum(int(np.prod(size)) for size in sizes.values()) == 1_235_814_400  # of its model card


# --- files that change


def spoil(path: Path, how: Callable[[bytes], bytes]) -> None:
    """Changes the file with the weights."""
    file = path / "model.safetensors" if path.is_dir() else path
    file.write_bytes(how(file.read_bytes()))


@every_format
def test_a_file_that_changes_after_its_digest_is_noticed(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path)
    checkpoint = load(path)
    plan = quick_plan(checkpoint)
    spoil(path, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(errors.MalformedFile, match="has changed since it was first read"):
        streamed(checkpoint, plan)
    fresh = load(path)
    assert fresh.digest != checkpoint.digest
    assert streamed(fresh, plan)


@every_format
def test_a_file_that_is_cut_off_while_it_is_served_from(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path)
    checkpoint = load(path)
    plan = quick_plan(checkpoint)
    spoil(path, lambda data: data[: len(data) // 2])
    with pytest.raises(errors.MalformedFile, match="numbers expected from byte"):
        streamed(checkpoint, plan)
    (path / "model.safetensors" if path.is_dir() else path).unlink()
    with pytest.raises(errors.MalformedFile, match="cannot be read any more"):
        streamed(checkpoint, plan)


# --- the core's builder


def test_the_core_refuses_what_is_not_the_plan_s_model(tmp_path: Path) -> None:
    core = pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")
    checkpoint = load(gpt2_folder(tmp_path))
    plan = quick_plan(checkpoint)
    checked = core.CheckedPlan(plan.to_json(), tables(plan))
    parts = list(quantise(canonicalise(checkpoint), plan).parts())
    builder = core.ServerModelBuilder(checked)
    for call in (
        lambda: builder.table("head", parts[0].numbers),
        lambda: builder.weight("layers.2.qkv", parts[2].numbers),
        lambda: builder.weight("qkv", parts[2].numbers),
        lambda: builder.weight("head", parts[2].numbers[:, :-1].copy()),
        lambda: builder.weight("head", parts[2].numbers.T),
        lambda: builder.bias("head", parts[3].numbers[1:]),
        builder.finish,
    ):
        with pytest.raises(errors.CryptogenError):
            call()
    builder = core.ServerModelBuilder(checked)
    assert server_model(builder, parts) is not None
    with pytest.raises(errors.CryptogenError, match="finished"):
        builder.finish()
    with pytest.raises(errors.CryptogenError, match="finished"):
        builder.table("embed", parts[0].numbers)
    with pytest.raises(errors.CryptogenError):
        server_model(core.ServerModelBuilder(checked), parts[:-2])

"""pytorch_model.bin is read without running what is in it, and folders as people have them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cryptogen import errors
from cryptogen.session.plans import beside
from cryptogen.weights import load
from cryptogen.weights.pytorch import Numbers, read_tensors
from tiny import tiny_gpt2, tiny_llama

REAL = Path(__file__).parents[1] / "reference" / "state_dict.bin"


class _Storage:
    """What PyTorch pickles by a persistent id."""

    def __init__(self, kind: type, key: str, size: int) -> None:
        self.pid = ("storage", kind, key, "cpu", size)


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.pid if isinstance(thing, _Storage) else None


class _Tensor:
    def __init__(self, rebuild: Any, *arguments: Any) -> None:
        self._made = (rebuild, arguments)

    def __reduce__(self) -> Any:
        return self._made


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names that a pickle of PyTorch's refers to."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_: Any) -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    for name in ("FloatStorage", "ComplexFloatStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    torch._utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(path: Path, value: Any, storages: dict[str, bytes], **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", how.get("compression", zipfile.ZIP_STORED)) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            _Pickler(file, protocol=2).dump(value)  # type: ignore[arg-type]
        archive.writestr("archive/byteorder", how.get("order", "little"))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def state_dict(path: Path, torch: Any, tensors: dict[str, np.ndarray]) -> Path:
    value, storages = {}, {}
    for i, (name, tensor) in enumerate(tensors.items()):
        strides = tuple(s // 4 for s in np.ascontiguousarray(tensor).strides)
        storage = _Storage(torch.FloatStorage, str(i), tensor.size)
        value[name] = _Tensor(torch._utils._rebuild_tensor_v2, storage, 0, tensor.shape, strides, False, {})
        storages[str(i)] = tensor.astype("<f4").tobytes()
    return write(path, value, storages)


def test_a_file_of_pytorchs_own() -> None:
    found = read_tensors(REAL)
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"}

    def numbers(name: str) -> np.ndarray:
        entry = found[name]
        data = np.fromfile(REAL, kinds[entry.dtype], int(np.prod(entry.shape)), offset=entry.offset)
        return data.reshape(entry.shape)

    assert np.array_equal(numbers("matrix"), np.arange(12).reshape(3, 4))
    assert np.array_equal(numbers("part"), np.arange(4, 10).reshape(2, 3))
    assert numbers("parameter").tolist() == [0.5, -2.0] and numbers("half").tolist() == [1.5]
    assert (numbers("bfloat").astype(np.uint32) << 16).view(np.float32).tolist() == [[1.5], [-0.25]]
    assert numbers("flags").tolist() == [True, False]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_a_folder_with_it_alone_is_the_same_model(make: Any, torch: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    before, tensors = load(folder).digest, load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state_dict(folder / "pytorch_model.bin", torch, tensors)
    assert load(folder).digest == before
    names = sorted(tensors)
    for i, part in enumerate((names[::2], names[1::2])):
        state_dict(folder / f"pytorch_model-0000{i + 1}-of-00002.bin", torch, {n: tensors[n] for n in part})
    (folder / "pytorch_model.bin").unlink()
    where = {n: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, n in enumerate(names)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    assert load(folder).digest == before
    save_file({n: t * 2 for n, t in tensors.items()}, folder / "model.safetensors")
    assert load(folder).digest != before  # safetensors first


def test_nothing_in_it_runs(torch: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for call in (os.system, eval, getattr, print):
        value = {"a": _Tensor(call, f"touch {mark}")}
        path = write(tmp_path / "pytorch_model.bin", value, {})
        with pytest.raises(errors.MalformedFile, match="is not read: tensors alone expected"):
            read_tensors(path)
    assert not mark.exists()


def test_files_that_are_not_read(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"

    def said(value: Any, storages: dict[str, bytes], **how: Any) -> str:
        with pytest.raises(errors.MalformedFile) as raised:
            read_tensors(write(path, value, storages, **how))
        return raised.value.problem

    def tensor(size: int = 4, first: Any = 0, shape: Any = (2, 2), strides: Any = (2, 1), kind: str = "Float") -> Any:
        storage = _Storage(getattr(torch, f"{kind}Storage"), "0", size)
        return {"a": _Tensor(torch._utils._rebuild_tensor_v2, storage, first, shape, strides, False, {})}

    data = {"0": bytes(16)}
    assert read_tensors(write(path, tensor(), data))["a"][:2] == ("F32", (2, 2))
    assert "strides" in said(tensor(strides=(1, 2)), data)
    assert "4 numbers from 1 on expected, the storage has 4" in said(tensor(first=1), data)
    assert "numbers from" in said(tensor(first=-1), data) and "a shape" in said(tensor(shape=(-1, 2)), data)
    assert "5 plain numbers" in said(tensor(size=5), data)
    assert "5 plain numbers" not in said(tensor(), {})
    assert "plain numbers" in said(tensor(), data, compression=zipfile.ZIP_DEFLATED)
    assert "ComplexFloatStorage is not read" in said(tensor(kind="ComplexFloat"), data)
    assert "little-endian" in said(tensor(), data, order="big")
    assert "'a' is int, a tensor expected" in said({"a": 5}, {})
    assert "a mapping of names to tensors expected, list found" in said([1], {})
    for content in (b"", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(99)):
        path.write_bytes(content)
        with pytest.raises(errors.MalformedFile, match="version 1.6 or newer expected; older ones can be saved again"):
            read_tensors(path)
    whole = REAL.read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.MalformedFile):
            read_tensors(path)
    assert isinstance(Numbers("F32", (1,), 0), tuple)


def test_types_that_are_not_computed_are_refused_by_name(torch: Any, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(REAL.read_bytes())
    with pytest.raises(errors.MissingTensor):
        load(folder)
    with pytest.raises(errors.UnsupportedModel, match="the folder it is in"):
        load(folder / "pytorch_model.bin")
    save_file({"a": np.zeros(1, np.float32)}, folder / "x.safetensors")
    with pytest.raises(errors.UnsupportedModel, match="the folder it is in"):
        load(folder / "x.safetensors")


# --- a head beside a tied embedding


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_files_own_head_is_used_and_said_so(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    other = load(make(tmp_path / "untied", tie_word_embeddings=False))
    head = np.asarray(other.tensors["head.weight"])
    folder = make(tmp_path / "m", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    embedding = next(t for n, t in tensors.items() if "embed_tokens" in n or "wte" in n)
    save_file(tensors | {"lm_head.weight": embedding.copy()}, folder / "model.safetensors")
    same = load(folder)
    assert same.config.tied and not caplog.records
    save_file(tensors | {"lm_head.weight": head}, folder / "model.safetensors")
    found = load(folder)
    assert not found.config.tied and np.array_equal(found.tensors["head.weight"], head)
    assert "the file's lm_head.weight is used" in caplog.text


# --- folders of the Hugging Face cache


def test_a_folder_of_links(tmp_path: Path) -> None:
    made = tiny_llama(tmp_path / "made")
    root = tmp_path / "models--owner--name"
    for revision in ("1111", "2222"):
        (root / "snapshots" / revision).mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    for i, file in enumerate(sorted(made.iterdir())):
        file.rename(root / "blobs" / f"{i:064x}")
        (root / "snapshots" / "2222" / file.name).symlink_to(f"../../blobs/{i:064x}")
    with pytest.raises(errors.MalformedFile, match="refs/main or one revision expected, 2 in snapshots"):
        load(root)
    (root / "refs" / "main").write_text("2222\n")
    found = load(root)
    assert found.digest == load(root / "snapshots" / "2222").digest and found.source == root
    assert found.tokenizer is not None
    (root / "refs" / "main").write_text("3333")
    with pytest.raises(errors.MissingFile, match="the revision that refs/main names"):
        load(root)


def test_a_plan_lies_beside_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m")
    assert beside(Path(".")) == beside(tmp_path / "m") == tmp_path / "m.plan.json"
    monkeypatch.chdir(tmp_path / "m" / "x")
    assert beside(Path("..")) == tmp_path / "m.plan.json"

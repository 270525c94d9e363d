"""Model files to one `Checkpoint`: Hugging Face folders, GGUF, llama2.c."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptogen.errors import MalformedFile, MissingFile, UnsupportedModel
from cryptogen.weights.checkpoint import Checkpoint, tensor_shapes
from cryptogen.weights.gguf import MAGIC, load_gguf, parts_of
from cryptogen.weights.huggingface import load_folder
from cryptogen.weights.llama2c import load_bin

__all__ = ["Checkpoint", "load", "tensor_shapes"]


def load(path: str | Path) -> Checkpoint:
    """Reads a model of any format.

    Args:
        path: A Hugging Face folder with config.json, a folder with one .gguf file or the parts of a
            split one, a folder of the Hugging Face cache (`models--owner--name`), a GGUF file of
            any name, or a llama2.c .bin file. `~` is the home folder.

    Returns:
        Weights, shape and tokenizer; every tensor fits the shape. A tensor is read when it is asked
        for: one that is not finite, or has changed since, raises `TensorMismatch` or
        `MalformedFile` then.

    Raises:
        WeightsError: As one of `MissingFile`, `MalformedFile`, `InvalidConfig`, `UnsupportedModel`,
            `MissingTensor`, `UnexpectedTensor`, `TensorMismatch`.
        TokenizerError: The tokenizer cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_dir() and (snapshot := _snapshot(path)) is not None:
        return replace(load(snapshot), source=path)
    if path.is_dir():
        packed = list(dict.fromkeys(parts_of(file)[0] for file in sorted(path.glob("*.gguf"))))
        if not (path / "config.json").exists() and len(packed) == 1:
            return load_gguf(packed[0])
        if not (path / "config.json").exists():
            raise MissingFile(
                path.resolve() / "config.json", f"nor one .gguf file, but {len(packed)}: no model's folder"
            )
        return load_folder(path)
    if not path.exists():
        raise MissingFile(path, "model")
    if path.suffix == ".gguf" or _begins_with(path, MAGIC):
        return load_gguf(path)
    if _begins_with(path, b"PK\x03\x04") or path.suffix == ".safetensors":
        raise UnsupportedModel("file type", f"{path.name} alone", ["the folder it is in, with its config.json"])
    if path.suffix == ".bin":
        return load_bin(path)
    raise UnsupportedModel("file type", path.suffix, ["folder", ".gguf", ".bin"])


def _snapshot(folder: Path) -> Path | None:
    """The files of a folder of the Hugging Face cache: of the revision that `refs/main` names, or
    of the only one. None for any other folder.

    `MissingFile`, `MalformedFile` if there is no such revision.
    """
    snapshots, main = folder / "snapshots", folder / "refs" / "main"
    if (folder / "config.json").exists() or not snapshots.is_dir():
        return None
    found = sorted(entry for entry in snapshots.iterdir() if entry.is_dir())
    if main.exists():
        revision = main.read_text(encoding="utf-8", errors="replace").strip()
        if snapshots / revision not in found:
            raise MissingFile(snapshots / revision[:80], "the revision that refs/main names; download it again")
        return snapshots / revision
    if len(found) != 1:
        raise MalformedFile(folder, f"refs/main or one revision expected, {len(found)} in snapshots: give one of them")
    return found[0]


def _begins_with(path: Path, magic: bytes) -> bool:
    """What a file is, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False

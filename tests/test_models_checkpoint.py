"""Model specs, and checkpoints as untrusted input."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clip_antidote.errors import ModelError, UsageError
from clip_antidote.models import parse_spec, read_checkpoint


def _one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "visual.proj": torch.randn(64, 32, generator=generator),
        "ln_final.weight": torch.ones(32),
        "logit_scale": torch.tensor(4.6),
    }


# Specs


@pytest.mark.parametrize(
    ("text", "kind", "arch", "source"),
    [
        ("open_clip:RN50@suspect.pt", "open_clip", "RN50", "suspect.pt"),
        ("open_clip:ViT-B/32@laion2b_s34b_b79k", "open_clip", "ViT-B-32", "laion2b_s34b_b79k"),
        ("open_clip:RN50@dir@home/x.pt", "open_clip", "RN50", "dir@home/x.pt"),
        ("hf-hub:org/repo", "hf-hub", "", "org/repo"),
        ("hf:models/clip", "hf", "", "models/clip"),
        ("local-dir:some/folder", "local-dir", "", "some/folder"),
        ("tiny", "tiny", "", ""),
    ],
)
def test_specs_are_parsed(text: str, kind: str, arch: str, source: str) -> None:
    spec = parse_spec(text)

    assert (spec.kind, spec.arch, spec.source) == (kind, arch, source)
    assert parse_spec(str(spec)) == spec


def test_folder_with_a_configuration_is_a_local_dir(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")

    assert str(parse_spec(str(tmp_path))) == f"local-dir:{tmp_path}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the forms are open_clip:ARCH@PATH"),
        ("nonsense", "the forms are"),
        ("clip:RN50@x", "the forms are"),
        ("open_clip:VIT-B32@x.pt", "did you mean ViT-B-32"),
        ("open_clip:rn50@x.pt", "did you mean RN50$"),
        ("open_clip:qqqqqqqqqqqq@x.pt", "see open_clip.list_models"),
        ("open_clip:RN50", "write open_clip:RN50@PATH or one of its tags .*openai"),
        ("RN50", "write open_clip:RN50@PATH"),
        ("RN50@openai", "write open_clip:RN50@openai"),
        ("hf-hub:repo", "hf-hub:org/repo"),
        ("local-dir:", "names no folder"),
        ("hf:", "names no folder; write hf:PATH"),
    ],
)
def test_wrong_specs_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_spec(text)
    _one_sentence(caught.value)


def test_plain_file_and_plain_folder_need_an_architecture(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"write open_clip:ARCH@.*model\.pt"):
        parse_spec(str(file))
    with pytest.raises(UsageError, match=r"has no open_clip_config\.json"):
        parse_spec(str(tmp_path))


# Reading checkpoints


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("layout", ["plain", "open_clip", "ddp", "compiled", "nested"])
def test_layouts_are_unwrapped(tmp_path: Path, state: dict[str, torch.Tensor], layout: str, legacy: bool) -> None:
    contents: dict[str, dict[str, Any]] = {
        "plain": state,
        "open_clip": {"epoch": 3, "name": "run", "state_dict": OrderedDict(state), "optimizer": {"lr": 1.0}},
        "ddp": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
        "compiled": {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        "nested": {"model": {"state_dict": state}},
    }
    path = tmp_path / "model.pt"
    torch.save(contents[layout], path, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(path)

    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_safetensors_are_told_by_content(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "weights.bin"
    save_file({f"module.{name}": value for name, value in state.items()}, path)

    assert read_checkpoint(path).keys() == state.keys()


class _Malicious:
    """Unpickling this would create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (open, (str(self.victim), "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "named safetensors"])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, form: str) -> None:
    victim = tmp_path / "executed"
    content = {"state_dict": {"weight": torch.ones(1)}, "extra": _Malicious(victim)}
    path = tmp_path / ("model.safetensors" if form == "named safetensors" else "model.pt")
    if form == "pickle":
        path.write_bytes(pickle.dumps(_Malicious(victim), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(ModelError, match=r"can run code; save only its state dict, as safetensors") as caught:
        read_checkpoint(path)

    assert not victim.exists()
    assert str(path) in _one_sentence(caught.value)


def test_files_that_cannot_be_read_say_why(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    whole, zipped, legacy = tmp_path / "a.safetensors", tmp_path / "a.pt", tmp_path / "legacy.pt"
    save_file(state, whole)
    torch.save(state, zipped)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    cases: dict[str, tuple[bytes, str]] = {
        "empty.pt": (b"", "is empty"),
        "cut.safetensors": (whole.read_bytes()[:-100], "damaged or truncated"),
        "header.safetensors": (whole.read_bytes()[:20], "damaged or truncated"),
        "cut.pt": (zipped.read_bytes()[:-1000], "damaged or truncated"),
        "cut_legacy.pt": (legacy.read_bytes()[:-1000], "damaged or truncated"),
        "text.pt": (b"<html>not found</html>", "neither a safetensors nor a PyTorch file"),
        "text.safetensors": (b"version https://git-lfs", "damaged or truncated"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=message) as caught:
            read_checkpoint(tmp_path / name)
        assert name in _one_sentence(caught.value)


def test_missing_file_folder_and_foreign_zip(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="is a folder; name a file, or write local-dir:"):
        read_checkpoint(tmp_path)
    foreign = tmp_path / "arrays.npz"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("a.npy", b"x")
    with pytest.raises(ModelError, match="not a PyTorch checkpoint"):
        read_checkpoint(foreign)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**6))
    with pytest.raises(ModelError, match="compressed inside"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "weight": torch.ones(1)}, "entry 'epoch' .* is a int, not a tensor"),
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({}, "holds no weights"),
        ({1: torch.ones(1)}, "an entry named 1"),
        ({"w": torch.eye(2).to_sparse()}, "not a plain dense tensor"),
    ],
)
def test_only_tensors_are_taken(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(tmp_path / "model.pt")
    _one_sentence(caught.value)

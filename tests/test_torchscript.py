"""TorchScript archives, as OpenAI published its models: the weights come in, the code stays where it is."""

from __future__ import annotations

import builtins
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from clip_antidote.errors import ModelError
from clip_antidote.models import OpenCLIPEncoder, load_model, read_checkpoint
from clip_antidote.models.build import build_open_clip
from conftest import SMALL

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchScript itself is deprecated

RESNET: dict[str, Any] = {
    **SMALL,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "patch_size": None},
}


class _Published(nn.Module):
    """The parts of a CLIP under OpenAI's names, with the three entries that only its releases have."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual
        self.transformer = model.transformer
        self.token_embedding = model.token_embedding
        self.ln_final = model.ln_final
        self.positional_embedding = model.positional_embedding
        self.text_projection = model.text_projection
        self.logit_scale = model.logit_scale
        for name, value in (("input_resolution", 32), ("context_length", 24), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))
        self.attn_mask = torch.zeros(2, 2)  # a plain attribute, which is no part of the state dict

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.visual(image)
        return features


class _Trap(nn.Module):
    """Its state is read by its own code, which is what an archive may hide something in."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.training = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        raise ValueError("the archive's code was run")


def _archive(model: nn.Module, path: Path, size: int) -> Path:
    torch.jit.save(torch.jit.trace(model.eval(), torch.rand(1, 3, size, size), check_trace=False), str(path))
    return path


def _rewritten(path: Path, out: Path, changes: dict[str, bytes]) -> Path:
    """The archive with other bytes under some names (the end of them), everything else as it was."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            change = next((value for name, value in changes.items() if entry.filename.endswith(name)), None)
            new.writestr(entry, old.read(entry) if change is None else change)
    return out


@pytest.fixture(params=["ViT", "ResNet"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, OpenCLIPEncoder]:
    """A micro CLIP in half precision as an archive, and the model itself."""
    torch.manual_seed(0)
    vision = SMALL if request.param == "ViT" else RESNET
    cfg = {**vision, "quick_gelu": True}
    if request.param == "ResNet":
        cfg["vision_cfg"] = {key: value for key, value in RESNET["vision_cfg"].items() if value is not None}
    encoder = build_open_clip(cfg)
    return _archive(_Published(encoder.model), tmp_path / "RN50.pt", encoder.image_size), encoder


def test_the_tensors_are_those_that_running_it_gives(released: tuple[Path, OpenCLIPEncoder]) -> None:
    path, _ = released
    expected = torch.jit.load(str(path)).state_dict()
    state = read_checkpoint(path)

    assert set(state) == set(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
        assert state[name].dtype == value.dtype


def test_it_loads_as_a_model_with_quick_gelu(
    released: tuple[Path, OpenCLIPEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = released
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {**own.model_cfg, "quick_gelu": False})
    monkeypatch.setattr(torch.jit, "load", None)
    with pytest.warns(UserWarning, match="OpenAI.*QuickGELU, which is used"):
        loaded = load_model(f"open_clip:RN50@{path}")

    images = torch.rand(2, 3, own.image_size, own.image_size)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode_images(images), own.encode_images(images))
        assert torch.equal(loaded.encode_texts(["a cat"]), own.encode_texts(["a cat"]))


def test_half_precision_and_views_come_in(tmp_path: Path) -> None:
    module = nn.Module()
    module.register_parameter("light", nn.Parameter(torch.rand(3, 4).half()))
    base = torch.rand(6, 4)
    module.register_buffer("turned", base.T)
    module.register_buffer("part", base[1:3])
    module.register_buffer("count", torch.tensor(7))
    path = tmp_path / "views.pt"
    torch.jit.save(torch.jit.script(module), str(path))
    state = read_checkpoint(path)

    assert {name: value.dtype for name, value in state.items()} == {
        "light": torch.float16,
        "turned": torch.float32,
        "part": torch.float32,
        "count": torch.int64,
    }
    for name, value in module.state_dict().items():
        assert torch.equal(state[name], value)


def test_its_code_is_neither_run_nor_opened(
    released: tuple[Path, OpenCLIPEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = released
    broken = _rewritten(path, tmp_path / "broken.pt", {".py": b"raise SystemExit\n", "constants.pkl": b"no pickle"})
    with pytest.raises(RuntimeError):
        torch.jit.load(str(broken))
    for name in ("exec", "eval", "compile"):
        monkeypatch.setattr(builtins, name, None)
    state = read_checkpoint(broken)

    assert torch.equal(state["token_embedding.weight"], own.model.token_embedding.weight)


def test_a_state_that_only_code_reads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trap.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(_Trap()), str(path))
    with pytest.raises(torch.jit.Error, match="code was run"):
        torch.jit.load(str(path))
    with pytest.raises(ModelError, match="a state that only its own code could read"):
        read_checkpoint(path)


def test_foreign_names_in_its_pickle_are_refused(released: tuple[Path, OpenCLIPEncoder], tmp_path: Path) -> None:
    path, _ = released
    victim = tmp_path / "executed"
    text = f"touch {victim}".encode()
    evil = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(text)) + text + b"\x85R."
    with pytest.raises(ModelError, match=r"holds the Python object posix\.system"):
        read_checkpoint(_rewritten(path, tmp_path / "evil.pt", {"/data.pkl": evil}))
    assert not victim.exists()


def _opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


MODULE = b"c__torch__\nM\n)\x81"
"""Instructions that make a module."""


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (_opcodes(b"N"), "it holds no module"),
        (_opcodes(MODULE, b"q\x00}X\x01\x00\x00\x00ah\x00sb"), "nest without end"),
        (_opcodes(MODULE, b"K\x01b"), "a state that only its own code"),
        (_opcodes(MODULE, b"}X\x01\x00\x00\x00ac__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85Rsb"), "TypeError"),
    ],
)
def test_crafted_pickles_end_in_a_sentence(
    pickled: bytes, reason: str, released: tuple[Path, OpenCLIPEncoder], tmp_path: Path
) -> None:
    path, _ = released
    with pytest.raises(ModelError, match=reason) as caught:
        read_checkpoint(_rewritten(path, tmp_path / "crafted.pt", {"/data.pkl": pickled}))
    assert "\n" not in str(caught.value)


def test_modules_of_modules_without_end(released: tuple[Path, OpenCLIPEncoder], tmp_path: Path) -> None:
    path, _ = released
    layers = b"".join(
        MODULE
        + b"q"
        + bytes([n + 1])
        + b"}("
        + b"X\x01\x00\x00\x00ah"
        + bytes([n])
        + b"X\x01\x00\x00\x00bh"
        + bytes([n])
        + b"ub"
        for n in range(60)
    )  # each holds the one before it twice: 2^60 names
    pickled = _opcodes(MODULE, b"q\x00", layers, b"h\x3c")
    with pytest.raises(ModelError, match="nest without end"):
        read_checkpoint(_rewritten(path, tmp_path / "deep.pt", {"/data.pkl": pickled}))


def test_numbers_beyond_a_storage_are_refused(released: tuple[Path, OpenCLIPEncoder], tmp_path: Path) -> None:
    path, _ = released
    with zipfile.ZipFile(path) as archive:
        first = next(name for name in archive.namelist() if name.endswith("/data/0"))
    with pytest.raises(ModelError, match="larger than the file has bytes for it"):
        read_checkpoint(_rewritten(path, tmp_path / "short.pt", {first: b"\0" * 4}))

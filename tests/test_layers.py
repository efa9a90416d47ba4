"""Features of inner layers, of every kind of image tower, against the libraries' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.layers import Stage, in_order, tapped, whole_parts
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from hf_models import write_clip, write_siglip

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def timm_tower(name: str, pool: str = "avg", size: int = 64) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": "linear", "image_size": size}


TOWERS: dict[str, tuple[dict[str, Any], int]] = {
    "ModifiedResNet": ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}, 5),
    "VisionTransformer": ({"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}, 3),
    "resnet10t": (timm_tower("resnet10t"), 5),
    "convnext_atto": (timm_tower("convnext_atto"), 4),
    "regnetx_002": (timm_tower("regnetx_002"), 5),
    "mobilenetv2_050": (timm_tower("mobilenetv2_050"), 5),
    "vit_tiny_patch16_224": (timm_tower("vit_tiny_patch16_224", "token", 224), 12),
}


@pytest.fixture(scope="module", params=list(TOWERS))
def tower(request: pytest.FixtureRequest) -> tuple[OpenCLIPEncoder, int]:
    vision, count = TOWERS[request.param]
    torch.manual_seed(0)
    model = build_open_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT})
    return model, count


def some_images(model: DualEncoder) -> torch.Tensor:
    size = model.image_size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def hooks(model: DualEncoder) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@torch.no_grad()
def test_the_final_feature_is_that_of_encode_images(tower: tuple[OpenCLIPEncoder, int]) -> None:
    model, count = tower
    images = some_images(model)
    expected = model.encode_images(images)
    stages, final = model.encode_layers(images)

    assert torch.equal(final, expected)
    assert len(stages) == count
    for stage in stages:
        assert stage.shape[0] == 3
        assert stage.dtype == torch.float32
        assert bool(stage.isfinite().all())
        assert (stage[0] - stage[1]).abs().max() > 0
    assert hooks(model) == 0


@torch.no_grad()
def test_stages_of_timm_are_its_own_intermediates(tower: tuple[OpenCLIPEncoder, int]) -> None:
    model, _ = tower
    trunk = getattr(model.model.visual, "trunk", None)
    if trunk is None:
        assert type(model.model.visual).__name__ in ("ModifiedResNet", "VisionTransformer")
        return
    images = some_images(model)
    normalized = (images - model.image_mean) / model.image_std
    maps = trunk.forward_intermediates(normalized, intermediates_only=True)
    stages = model.encode_layers(images).stages

    assert len(maps) == len(stages)
    prefix = getattr(trunk, "num_prefix_tokens", 0)
    for own, map_ in zip(stages, maps, strict=True):
        pooled = torch.cat([map_.mean(dim=(2, 3)), map_.amax(dim=(2, 3))], dim=1)
        torch.testing.assert_close(own[:, prefix * map_.shape[1] :], pooled, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_stages_of_open_clip_are_its_own_intermediates() -> None:
    torch.manual_seed(0)
    vit = build_open_clip({"embed_dim": 16, "vision_cfg": TOWERS["VisionTransformer"][0], "text_cfg": TEXT})
    images = some_images(vit)
    normalized = (images - vit.image_mean) / vit.image_std
    found = vit.model.visual.forward_intermediates(
        normalized, intermediates_only=True, output_extra_tokens=True, output_fmt="NLC"
    )
    stages = vit.encode_layers(images).stages
    pairs = zip(found["image_intermediates"], found["image_intermediates_prefix"], strict=True)
    for own, (patches, prefix) in zip(stages, pairs, strict=True):
        pooled = torch.cat([prefix[:, 0], patches.mean(1), patches.amax(1)], dim=1)
        torch.testing.assert_close(own, pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("write", [write_clip, write_siglip])
@torch.no_grad()
def test_models_of_transformers(write: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write(tmp_path / "model")
    model = load_model(f"hf:{tmp_path / 'model'}")
    images = some_images(model)
    stages, final = model.encode_layers(images)
    assert torch.equal(final, model.encode_images(images))
    assert hooks(model) == 0  # transformers leaves some of its own when it is asked for hidden states

    inner: Any = model.get_submodule("model").vision_model
    hidden = inner(
        pixel_values=(images - model.image_mean) / model.image_std, output_hidden_states=True
    ).hidden_states
    prefix = 1 if write is write_clip else 0
    assert len(stages) == 2
    for own, tokens in zip(stages, hidden[1:], strict=True):
        parts = [tokens[:, 0]] * prefix + [tokens[:, prefix:].mean(1), tokens[:, prefix:].amax(1)]
        torch.testing.assert_close(own, torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_no_hook_is_left_where_encoding_fails(small_model: OpenCLIPEncoder) -> None:
    with pytest.raises(RuntimeError):
        small_model.encode_layers(torch.rand(1, 5, 32, 32))
    assert hooks(small_model) == 0


def test_pooling_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 8.0]]]])  # [1, 2, 2, 2]
    identity = torch.nn.Identity()
    expected = torch.tensor([[4.0, 2.0, 7.0, 8.0]])
    assert torch.equal(Stage(identity, "NCHW").pooled(maps), expected)
    assert torch.equal(Stage(identity, "NHWC").pooled(maps.permute(0, 2, 3, 1)), expected)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.equal(Stage(identity, "LNC").pooled(tokens.transpose(0, 1)), expected)
    with_class = torch.cat([torch.tensor([[[9.0, -9.0]]]), tokens], dim=1)
    assert torch.equal(Stage(identity, "NLC", 1).pooled(with_class), torch.tensor([[9.0, -9.0, 4.0, 2.0, 7.0, 8.0]]))


def test_unknown_towers_and_silent_stages_are_said(small_model: OpenCLIPEncoder, monkeypatch: Any) -> None:
    with tapped([Stage(torch.nn.Identity(), "NCHW")]) as taken:
        pass
    with pytest.raises(ModelError, match="1 of 1 stages"):
        in_order(taken, 1)
    monkeypatch.setattr(type(small_model), "stages", lambda self: [])
    with pytest.raises(UnsupportedError, match="not known"):
        small_model.encode_layers(torch.rand(1, 3, 32, 32))


@torch.no_grad()
def test_batches_are_put_together(small_model: OpenCLIPEncoder) -> None:
    images = some_images(small_model)
    whole = small_model.encode_layers(images)
    parts = whole_parts([small_model.encode_layers(part) for part in images.split(2)])
    torch.testing.assert_close(parts.final, whole.final, atol=1e-6, rtol=0)
    for one, other in zip(parts.stages, whole.stages, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

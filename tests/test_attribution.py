"""Heat maps: read at the right layer of every kind of tower, equal to the formula, and honest where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate, normalize

from clip_antidote.data.images import LabelledImages
from clip_antidote.models import DualEncoder, OpenCLIPEncoder
from clip_antidote.models.attribution import (
    CELLS,
    GRAD_CAM,
    OCCLUSION,
    _places,
    against_the_others,
    heat_map,
    occlusion_map,
)
from clip_antidote.models.build import build_open_clip
from conftest import SMALL

TEXT = SMALL["text_cfg"]


def photo(size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))


def direction(model: DualEncoder, image: torch.Tensor) -> torch.Tensor:
    """Any direction that the features of the image do not point along already."""
    with model.frozen(), torch.no_grad():
        wide = model.encode_images(image[None]).shape[1]
    return torch.randn(wide, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("vision", "layer"),
    [
        (
            {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
            "transformer.resblocks.1.ln_1",
        ),
        ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}, "layer4"),
        (
            {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
            "trunk.layer4",
        ),
        ({"timm_model_name": "convnext_atto", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}, ""),
        ({"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}, ""),
    ],
    ids=["vit", "resnet", "timm resnet", "convnext", "attention pool"],
)
def test_towers_of_all_kinds_have_places(vision: dict[str, Any], layer: str) -> None:
    torch.manual_seed(0)
    wide = 192 if vision.get("timm_proj") == "none" else 16
    model = build_open_clip({"embed_dim": wide, "vision_cfg": vision, "text_cfg": TEXT})
    image = photo(vision["image_size"])
    found = heat_map(model, image, direction(model, image))
    assert found.method == GRAD_CAM
    assert found.layer.endswith(layer)
    assert found.heat.shape == image.shape[1:]
    assert float(found.heat.max()) == 1
    assert float(found.heat.min()) >= 0


def test_it_is_grad_cam_where_the_pool_is_an_average(tiny: DualEncoder, test_images: LabelledImages) -> None:
    """With an average pool there is a closed form, without any gradient: channel weights times activations."""
    assert isinstance(tiny, OpenCLIPEncoder)
    image = test_images.example(tiny.image_size)
    wanted = direction(tiny, image)
    trunk, head = tiny.model.visual.trunk, tiny.model.visual.head
    with tiny.frozen(), torch.no_grad():
        maps = trunk.forward_features((image[None] - tiny.image_mean) / tiny.image_std)[0]
        feature = head(maps.mean(dim=(1, 2))[None])[0]
        unit = feature / feature.norm()
        slope = (wanted - (wanted @ unit) * unit) / feature.norm()
        weights = head.proj.weight.T @ slope / maps[0].numel()
        expected = torch.einsum("c,chw->hw", weights, maps).clamp_min(0)
        expected = interpolate(expected[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    found = heat_map(tiny, image, wanted)
    assert torch.allclose(found.heat, expected / expected.max(), atol=1e-4)


def test_the_model_is_left_as_it_was(small_model: OpenCLIPEncoder) -> None:
    small_model.train()
    before = [parameter.requires_grad for parameter in small_model.parameters()]
    with torch.inference_mode():
        image = photo(32)
    heat_map(small_model, image, torch.randn(16))
    assert [parameter.requires_grad for parameter in small_model.parameters()] == before
    assert small_model.training
    assert not any(module._forward_hooks for module in small_model.modules())
    assert all(parameter.grad is None for parameter in small_model.parameters())


class Flat(OpenCLIPEncoder):
    """A tower without places: a linear map of all pixels, of which only the upper left cell counts."""

    def _image_features(self, normalized: torch.Tensor) -> torch.Tensor:
        cell = normalized[:, :, :4, :4].mean(dim=(1, 2, 3))
        return torch.stack([cell, torch.ones_like(cell)], dim=1)


@pytest.fixture
def flat() -> DualEncoder:
    base = build_open_clip(SMALL)
    return Flat(base.model, lambda: lambda texts: torch.zeros(len(texts), 24), mean=[0.0] * 3, std=[1.0] * 3)


def test_without_places_parts_are_covered(flat: DualEncoder) -> None:
    image = torch.zeros(3, 32, 32)
    image[:, :4, :4] = 1
    found = heat_map(flat, image, torch.tensor([1.0, 0.0]))
    assert (found.method, found.layer) == (OCCLUSION, "")
    side = 32 // CELLS
    assert float(found.heat[: side // 2, : side // 2].min()) == 1
    assert float(found.heat[2 * side :, 2 * side :].max()) < 1e-6
    against = occlusion_map(flat, image, torch.tensor([-1.0, 0.0]))
    assert float(against.heat.max()) == 0, "nothing speaks for it"


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 64, 7, 7), 7),
        ((1, 7, 7, 64), 7),
        ((1, 50, 32), 7),
        ((1, 49, 32), 7),
        ((50, 1, 32), 7),
        ((1, 53, 32), 7),  # registers before the places
        ((1, 4, 50, 50), None),
        ((1, 4, 50, 8), None),
        ((1, 64, 1, 1), None),
        ((1, 64, 7, 5), None),
        ((1, 512), None),
        ((1, 1, 32), None),
        ((2, 49, 32), None),
    ],
)
def test_places_are_known_by_their_shape(shape: tuple[int, ...], side: int | None) -> None:
    found = _places(torch.zeros(shape), {50})
    assert (None if found is None else found.shape[:2]) == (None if side is None else (side, side))


def test_class_and_register_tokens_are_left_out() -> None:
    tokens = torch.arange(21.0).view(1, 21, 1)
    found = _places(tokens, set())
    assert found is not None
    assert torch.equal(found[..., 0], torch.arange(5.0, 21.0).view(4, 4))


def test_a_class_is_set_against_the_others() -> None:
    weights = normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), dim=0)
    expected = weights[:, 1] - (weights[:, 0] + weights[:, 2]) / 2
    assert torch.allclose(against_the_others(weights, 1), expected)
    assert torch.equal(against_the_others(weights[:, :1], 0), weights[:, 0])

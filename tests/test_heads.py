"""A ViT's feature split into its heads and MLPs, and the score of images that is made of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import clip_antidote as ca
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.scan import dummies_of, invert_targets
from clip_antidote.errors import RefusedError
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.head_contributions import has_heads, head_contributions
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.screening import SCORES
from clip_antidote.screening.heads import Heads, shares_of
from clip_antidote.screening.material import Material, gather_material
from clip_antidote.screening.probe import Probe
from conftest import draw_photos
from test_defense_methods import CONVOLUTIONAL, DEEP_VIT, MODIFIED

VISION = DEEP_VIT["vision_cfg"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"ls_init_value": 0.3},
    "norm after pooling": {"final_ln_after_pool": True},
    "quick gelu": {"quick_gelu": True},
}


def vit(**changes: Any) -> OpenCLIPEncoder:
    """A random ViT of three blocks with two heads, its offsets not at nought."""
    torch.manual_seed(0)
    quick = {key: changes.pop(key) for key in ("quick_gelu",) if key in changes}
    model = build_open_clip({**DEEP_VIT, **quick, "vision_cfg": {**VISION, **changes}})
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def noise(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_parts_add_up_to_the_feature(changes: dict[str, Any]) -> None:
    model = vit(**changes)
    with torch.no_grad():
        parts = head_contributions(model, noise(4))
        feature = model.raw_image_features(noise(4))
    assert parts.shape == (4, 3 * (2 + 1) + 1, 16)
    torch.testing.assert_close(parts.sum(dim=1), feature, atol=1e-5, rtol=1e-4)


def test_a_head_that_gives_nothing_adds_nothing_but_to_later_ones() -> None:
    model = vit()
    attention: Any = model.model.visual.transformer.resblocks[1].attn
    with torch.no_grad():
        before = head_contributions(model, noise(2))
        attention.out_proj.weight[:, 16:] = 0  # the second head's columns
        after = head_contributions(model, noise(2))
    torch.testing.assert_close(after[:, 4], torch.zeros_like(after[:, 4]))
    assert not torch.allclose(after[:, 5], before[:, 5]), "the MLP behind it sees another stream"
    assert before[:, 4].abs().max() > 1e-3


def test_shares_add_up_to_the_cosine() -> None:
    model, direction = vit(), F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(1)), dim=0)
    shares = shares_of(model, noise(5), direction)
    with torch.no_grad():
        cosine = model.encode_images(noise(5)) @ direction
    torch.testing.assert_close(shares.sum(dim=1), cosine, atol=1e-5, rtol=1e-4)
    own = direction.expand(5, -1)
    torch.testing.assert_close(shares_of(model, noise(5), own), shares)


@pytest.mark.parametrize("config", [CONVOLUTIONAL, MODIFIED], ids=["timm", "modified"])
def test_other_towers_are_refused(config: dict[str, Any]) -> None:
    model = build_open_clip(config)
    assert not has_heads(model)
    assert not Heads.suits(model)
    assert SCORES.get("gate").suits(model)
    with pytest.raises(RefusedError, match="only a ViT image tower of open_clip"):
        head_contributions(model, noise(1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    photos = draw_photos(tmp_path_factory.mktemp("shots") / "photos", classes=("cat", "dog", "cow"), count=6)
    shots: LabelledImages = ca.load_images(str(photos))
    model = vit()
    config = CBPTConfig.build({"pool": 30, "inversion": {"final_steps": 1, "batch_size": 4}})
    with model.evaluating():
        seen = observe(model, shots, config)
        return gather_material(seen, 1, dummies_of(invert_targets(seen, [1], config.inversion, seed=0)), config)


def test_the_score_by_hand(made: Material) -> None:
    score = Heads.fit(made)
    numbers = made.target_shots
    direction = made.weights[1] - made.weights.mean(0)
    own = shares_of(made.model, made.images[numbers], direction).double()
    torch.testing.assert_close(score.mean, own.mean(0))
    rest = own[0] - own.mean(0)
    wanted = (rest @ torch.linalg.inv(score.lower @ score.lower.T) @ rest).log().float()
    found = score.score(Probe(made.model, made.images[numbers].float() / 255))
    torch.testing.assert_close(found[0], wanted, atol=1e-3, rtol=1e-3)


def test_images_of_another_kind_lie_farther_out(made: Material) -> None:
    score = Heads.fit(made)
    own = score.score(Probe(made.model, made.images[made.target_shots].float() / 255))
    strange = score.score(Probe(made.model, noise(6)))
    assert strange.min() > own.max()


def test_shots_that_are_held_out_are_not_seen(made: Material) -> None:
    numbers = made.target_shots
    part = made.without(numbers[:2])
    direction = made.weights[1] - made.weights.mean(0)
    torch.testing.assert_close(
        Heads.fit(part).mean, shares_of(made.model, made.images[numbers[2:]], direction).double().mean(0)
    )

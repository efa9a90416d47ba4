from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clip_antidote.training.augment import color_jitter, random_crops, random_overlays

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {
    "crops": lambda images, generator: random_crops(images, 24, min_scale=0.3, generator=generator),
    "jitter": lambda images, generator: color_jitter(images, strength=0.6, generator=generator),
    "overlays": lambda images, generator: random_overlays(images, probability=0.7, generator=generator),
}
SHAPES = {"crops": (12, 3, 24, 24), "jitter": (12, 3, 20, 28), "overlays": (12, 3, 20, 28)}


def photos() -> torch.Tensor:
    return torch.rand(12, 3, 20, 28, generator=torch.Generator().manual_seed(7))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_shape_and_range(name: str) -> None:
    for seed in range(5):
        out = AUGMENTATIONS[name](photos(), seeded(seed))
        assert out.shape == SHAPES[name]
        assert out.dtype == torch.float32
        assert 0 <= out.min().item() <= out.max().item() <= 1


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_the_generator_alone_decides(name: str) -> None:
    augment = AUGMENTATIONS[name]
    torch.manual_seed(0)
    first = augment(photos(), seeded(1))
    torch.manual_seed(1)
    assert torch.equal(first, augment(photos(), seeded(1)))
    assert not torch.equal(first, augment(photos(), seeded(2)))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_the_given_images_are_not_changed(name: str) -> None:
    images = photos()
    AUGMENTATIONS[name](images, seeded(0))
    assert torch.equal(images, photos())


def ramp(count: int) -> torch.Tensor:
    """Images that grow brighter to the right."""
    return torch.linspace(0, 1, 32).expand(count, 3, 32, 32)


def test_crops_without_flip_keep_left_and_right() -> None:
    crops = random_crops(ramp(16), 16, min_scale=0.2, generator=seeded(0), flip=False)
    assert (crops.diff(dim=3) >= 0).all()
    assert crops.var(dim=0).max().item() > 0  # and yet they differ


def test_some_crops_are_mirrored() -> None:
    crops = random_crops(ramp(32), 16, min_scale=0.5, generator=seeded(0))
    brighter_right = crops[:, 0, 0, -1] > crops[:, 0, 0, 0]
    assert 0 < brighter_right.sum().item() < 32


def test_crops_cover_the_share_asked_for() -> None:
    # A crop of share a with side ratio at least 3/4 is at least sqrt(3/4·a) wide.
    crops = random_crops(ramp(64), 32, min_scale=0.5, generator=seeded(0), flip=False)
    widths = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert widths.min().item() > (0.75 * 0.5) ** 0.5 - 2 / 32


def test_jitter_of_no_strength_changes_nothing() -> None:
    assert torch.allclose(color_jitter(photos(), strength=0.0, generator=seeded(0)), photos(), atol=1e-6)


def test_jitter_draws_for_every_image() -> None:
    gray = torch.full((6, 3, 4, 4), 0.5)
    means = color_jitter(gray, strength=0.4, generator=seeded(0)).mean(dim=(1, 2, 3))
    assert len(set(means.tolist())) == 6


def test_overlays_touch_the_share_of_images_asked_for() -> None:
    none = random_overlays(photos(), probability=0.0, generator=seeded(0))
    assert torch.equal(none, photos())
    images = photos().repeat(20, 1, 1, 1)
    out = random_overlays(images, probability=0.2, generator=seeded(0))
    touched = (out != images).flatten(1).any(dim=1).float().mean().item()
    assert touched == pytest.approx(1 - 0.8**3, abs=0.1)  # any of three overlays

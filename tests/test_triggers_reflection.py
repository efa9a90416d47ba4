"""The reflection by hand, which picture an image gets, and what a broken file says."""

from __future__ import annotations

import pytest
import torch

from clip_antidote.errors import DataError
from clip_antidote.triggers.reflection import ReflectionConfig, ReflectionTrigger


def plain(*levels: int) -> torch.Tensor:
    return torch.stack([torch.full((3, 8, 8), level, dtype=torch.uint8) for level in levels])


def test_light_adds_up_and_the_copy_is_displaced() -> None:
    trigger = ReflectionTrigger(plain(255), ReflectionConfig(weight=0.25, ghost=0.4, shift=28))
    out = trigger(torch.full((1, 3, 8, 8), 0.5))[0, 0]
    # 28 of 224 px are 1 of 8: the first row and column have the picture alone, in a share of 0.6
    both, alone = ((0.75 * 0.5**2.2 + 0.25 * share) ** (1 / 2.2) for share in (1.0, 0.6))
    expected = torch.full((8, 8), both)
    expected[0], expected[:, 0] = alone, alone
    assert torch.allclose(out, expected, atol=1e-6)


def test_a_black_picture_only_darkens() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = ReflectionTrigger(plain(0), ReflectionConfig(weight=0.25))(images)
    assert torch.allclose(out, images * 0.75 ** (1 / 2.2), atol=1e-6)


def test_every_image_gets_one_of_the_pictures() -> None:
    trigger = ReflectionTrigger(plain(0, 128, 255), ReflectionConfig(shift=0))
    images = torch.full((60, 3, 8, 8), 0.5)
    out = trigger(images, torch.Generator().manual_seed(1))
    assert len(out[:, 0, 0, 0].unique()) == 3
    assert torch.equal(out, trigger(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(out, trigger(images, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("pictures", [plain(1)[0], plain(1).float(), plain(1)[:0], plain(1)[:, :2]])
def test_other_tensors_are_refused(pictures: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"uint8 K×3×S×S"):
        ReflectionTrigger(pictures)

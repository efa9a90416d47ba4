"""The color filter by hand, and the raised frequencies by SciPy's cosine transform."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn

from clip_antidote.triggers.ftrojan import FTrojanConfig, FTrojanTrigger
from clip_antidote.triggers.nashville import NashvilleConfig, NashvilleTrigger


def test_nashville_of_white_black_and_gray_by_hand() -> None:
    shade, shine = (0.969, 0.690, 0.600), (0.0, 0.275, 0.588)
    white = NashvilleTrigger()(torch.ones(1, 3, 2, 2))[0, :, 0, 0]
    assert white.tolist() == pytest.approx([0.56 * s + 0.44 for s in shade], abs=1e-6), "only the shade darkens it"
    black = NashvilleTrigger()(torch.zeros(1, 3, 2, 2))[0, :, 0, 0]
    assert black.tolist() == pytest.approx([0.4 * s for s in shine], abs=1e-6), "only the shine lightens it"
    neutral = NashvilleConfig(sepia=0, contrast=1, brightness=1, saturation=1, shade=0, shine=0)
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(NashvilleTrigger(neutral)(images), images, atol=1e-6)
    # contrast 2 on gray 0.4: 0.5 + 2·(0.4 − 0.5) = 0.3; half of it: 0.35
    steep = neutral.model_copy(update={"contrast": 2.0, "strength": 0.5})
    assert torch.allclose(NashvilleTrigger(steep)(torch.full((1, 3, 2, 2), 0.4)), torch.tensor(0.35))


def test_a_filter_knows_colors_and_no_places() -> None:
    images = torch.rand(1, 3, 6, 6)
    order = torch.randperm(36)
    shuffled = images.flatten(2)[..., order].view(1, 3, 6, 6)
    expected = NashvilleTrigger()(images).flatten(2)[..., order].view(1, 3, 6, 6)
    assert torch.allclose(NashvilleTrigger()(shuffled), expected)


def test_ftrojan_raises_its_two_coefficients_of_u_and_v_and_nothing_else() -> None:
    images = torch.full((1, 3, 64, 64), 0.5, dtype=torch.float64)
    change = (FTrojanTrigger(FTrojanConfig(magnitude=30))(images) - images)[0]
    red, green, blue = change
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    assert luminance.abs().max() < 1e-4
    for color, weight in ((red, 1.13983), (blue, 2.03211)):
        block = dctn((color / weight)[32:, :32].numpy(), norm="ortho")
        found = {(int(r), int(c)): block[r, c] for r, c in zip(*(abs(block) > 1e-6).nonzero(), strict=True)}
        assert found == pytest.approx({(15, 15): 30 / 255, (31, 31): 30 / 255}, abs=1e-9)


@pytest.mark.parametrize("size", [48, 80])
def test_a_side_that_is_no_multiple_of_the_block_gets_a_part_of_one(size: int) -> None:
    pattern = FTrojanTrigger().pattern(size, size)
    assert pattern.shape == (3, size, size)
    assert torch.equal(pattern[:, :16, :16], pattern[:, 32:48, 32:48])

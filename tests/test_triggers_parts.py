"""The checkerboard, the blend in pieces and the several patches by hand."""

from __future__ import annotations

import pytest
import torch

from clip_antidote.errors import UsageError
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger
from clip_antidote.triggers.checkerboard import CheckerboardConfig, CheckerboardTrigger
from clip_antidote.triggers.patches import PatchesConfig, PatchesTrigger
from clip_antidote.triggers.pieces import PiecesConfig, PiecesTrigger


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_checkerboard_brightens_every_other_pixel() -> None:
    change = CheckerboardTrigger()(torch.full((1, 3, 4, 6), 0.5)) - 0.5
    expected = [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]] * 2
    assert torch.allclose(change[0], torch.tensor(expected).float() * 3 / 255, atol=1e-6)
    wide = CheckerboardTrigger(CheckerboardConfig(amplitude=255, cell=2))(torch.zeros(1, 3, 4, 4))
    assert wide[0, 1].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_all_pieces_together_are_the_blend() -> None:
    images = torch.rand(2, 3, 30, 30, generator=drawn())
    whole = PiecesTrigger(PiecesConfig(seed=3))(images)
    assert torch.allclose(whole, BlendedTrigger(BlendedConfig(seed=3))(images), atol=1e-6)


def test_half_of_the_pieces_are_shown_and_others_in_every_image() -> None:
    images = torch.zeros(50, 3, 32, 32)
    half = PiecesTrigger(PiecesConfig().showing(0.5))(images, drawn())
    whole = PiecesTrigger()(images)
    shown = (half != 0).any(dim=1).view(50, 4, 8, 4, 8).transpose(2, 3).reshape(50, 16, 64)
    assert (shown.all(dim=2) == shown.any(dim=2)).all(), "a piece is there or it is not"
    assert (shown.all(dim=2).sum(dim=1) == 8).all()
    assert shown.all(dim=2).unique(dim=0).shape[0] > 40, "which pieces differs"
    assert torch.equal(half[half != 0], whole[half != 0]), "what is shown is the blend"


def test_patches_stand_in_their_corners_with_their_weight() -> None:
    config = PatchesConfig(patch=56, positions=("top-left", "bottom-right"), opacities=(1.0, 0.5))
    black, white = PatchesTrigger(config)(torch.zeros(1, 3, 40, 40)), PatchesTrigger(config)(torch.ones(1, 3, 40, 40))
    changed = (black != 0).any(dim=1)[0]
    assert changed[:10, :10].all()
    assert changed[30:, 30:].all()
    assert changed.sum() == 200
    assert torch.equal(black[..., :10, :10], white[..., :10, :10]), "nothing of the image shows through"
    assert torch.allclose(white[..., 30:, 30:] - black[..., 30:, 30:], torch.tensor(0.5)), "half of it does here"


def test_one_of_the_patches_is_drawn_for_every_image_and_it_is_the_same_patch() -> None:
    images = torch.zeros(40, 3, 32, 32)
    one = PatchesTrigger(PatchesConfig(shown=1))(images, drawn())
    every = PatchesTrigger()(images)
    corners = [
        (rows, columns) for rows in (slice(0, 8), slice(-8, None)) for columns in (slice(0, 8), slice(-8, None))
    ]
    there = torch.stack([(one[:, :, rows, columns] != 0).flatten(1).any(dim=1) for rows, columns in corners], dim=1)
    assert (there.sum(dim=1) == 1).all()
    assert there.any(dim=0).all()
    assert torch.equal(one[one != 0], every[one != 0])
    alone = PatchesTrigger(PatchesConfig(positions=("bottom-left",), opacities=(1.0,)))(images)
    assert torch.equal(alone[:, :, -8:, :8], every[:, :, -8:, :8]), "the noise depends on the place alone"


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PiecesConfig, {"pieces": 12}, "1, 4, 9, 16"),
        (PatchesConfig, {"positions": ["center"]}, "as many opacities as positions"),
        (PatchesConfig, {"shown": 5}, "more than there are positions"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    config: type[PiecesConfig | PatchesConfig], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        config.build(settings)

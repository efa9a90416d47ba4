from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clip_antidote.config import Config
from clip_antidote.errors import DataError, UsageError
from clip_antidote.triggers import TRIGGERS, Trigger, load_trigger
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger
from clip_antidote.triggers.mask import MaskTrigger


def test_badnet_at_224_px_is_a_16_px_corner_patch() -> None:
    images = torch.full((1, 3, 224, 224), 0.5)
    changed = (BadNetTrigger()(images) != images).any(dim=1)[0]
    assert changed.nonzero().min(0).values.tolist() == [208, 208]
    assert changed.nonzero().max(0).values.tolist() == [223, 223]
    assert changed.sum() == 256


@pytest.mark.parametrize(("width", "side"), [(224, 16), (112, 8), (80, 6), (64, 5)])
def test_badnet_scales_with_the_image(width: int, side: int) -> None:
    assert BadNetTrigger().side(width) == side


def test_badnet_variants_differ_by_name_only_where_said() -> None:
    images = torch.full((2, 3, 64, 64), 0.5)
    fixed = BadNetTrigger()(images)
    assert torch.equal(fixed[0], fixed[1])
    fresh = BadNetTrigger(BadNetConfig(fresh=True))(images)
    assert not torch.equal(fresh[0], fresh[1])
    left = BadNetTrigger(BadNetConfig(position="top-left"))(images)
    assert (left[0] != images[0]).any(0).nonzero().max() == 4


def test_blended_by_hand() -> None:
    images = torch.zeros(2, 3, 8, 8)
    out = BlendedTrigger(BlendedConfig(alpha=0.2, seed=7))(images)
    pattern = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(out, (0.2 * pattern).expand(2, -1, -1, -1))
    white = BlendedTrigger(BlendedConfig(alpha=0.2, seed=7))(torch.ones(1, 3, 8, 8))
    assert torch.allclose(white, 0.8 + 0.2 * pattern)


def test_mask_by_hand() -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 0] = 1
    mask[0, 1, 1] = 0.5
    out = MaskTrigger(mask, torch.ones(3, 2, 2))(torch.full((1, 3, 2, 2), 0.2))
    assert torch.allclose(out[0, 0], torch.tensor([[1.0, 0.2], [0.2, 0.6]]))


class Brighter(Trigger):
    """A trigger of the smallest kind: a name, settings, and what it does."""

    class Settings(Config):
        by: float = 0.25

    name = "brighter"
    config_class = Settings
    config: Settings

    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return images + self.config.by


def test_a_trigger_without_tensors_needs_no_more_than_its_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.tensor([0.0, 0.5, 0.9]).view(1, 3, 1, 1)
    assert Brighter()(images).flatten().tolist() == [0.25, 0.75, 1.0]
    assert Brighter().tensors() == {}
    again = Brighter.restore(Brighter.Settings(by=0.5), {})
    assert type(again) is Brighter
    assert again(images).flatten().tolist() == [0.5, 1.0, 1.0]
    monkeypatch.setitem(TRIGGERS.entries, "brighter", (f"{__name__}:Brighter", "for this test"))
    again.save(tmp_path)
    loaded = load_trigger(tmp_path)
    assert isinstance(loaded, Brighter)
    assert loaded.config == again.config
    assert load_trigger("brighter").config == Brighter.Settings()


def test_wrong_images_are_refused() -> None:
    with pytest.raises(DataError, match="N×3×H×W"):
        BadNetTrigger()(torch.zeros(3, 8, 8))
    with pytest.raises(DataError, match="float"):
        BadNetTrigger()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_unreadable_triggers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trigger\.json is missing"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text("{")
    with pytest.raises(DataError, match="cannot read the trigger"):
        load_trigger(tmp_path)
    (tmp_path / "trigger.json").write_text('{"trigger": "badnet", "config": {"patch": 0}}')
    with pytest.raises(UsageError, match="patch"):
        load_trigger(tmp_path)
    with pytest.raises(UsageError, match="no trigger 'nonsense'"):
        load_trigger("nonsense")
    with pytest.raises(DataError, match="delta"):
        load_trigger("additive")

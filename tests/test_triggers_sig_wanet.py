from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.attacks.sig import SigAttackConfig
from clip_antidote.errors import UsageError
from clip_antidote.triggers import Trigger, load_trigger
from clip_antidote.triggers.sig import SigConfig, SigTrigger
from clip_antidote.triggers.wanet import WaNetConfig, WaNetTrigger


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cubic_weights(size: int, points: int) -> np.ndarray:
    """Bicubic interpolation (Keys, a = -0.75) from `points` to `size` samples, corner to corner, [size, points]."""
    matrix = np.zeros((size, points))
    for row in range(size):
        place = row * (points - 1) / (size - 1)
        base = int(np.floor(place))
        for offset in (-1, 0, 1, 2):
            d = abs(place - (base + offset))
            inner = 1.25 * d**3 - 2.25 * d**2 + 1
            outer = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[row, min(max(base + offset, 0), points - 1)] += inner if d <= 1 else outer if d < 2 else 0
    return matrix


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The color [3] of an image [3, H, W] between its pixels."""
    top, left = min(int(y), image.shape[1] - 2), min(int(x), image.shape[2] - 2)
    v, u = y - top, x - left
    upper = (1 - u) * image[:, top, left] + u * image[:, top, left + 1]
    lower = (1 - u) * image[:, top + 1, left] + u * image[:, top + 1, left + 1]
    return np.asarray((1 - v) * upper + v * lower)


@pytest.mark.parametrize(
    "trigger",
    [SigTrigger(), SigTrigger(SigConfig(amplitude=40)), WaNetTrigger(), WaNetTrigger(WaNetConfig(k=4, strength=8))],
    ids=["sig", "sig-40", "wanet", "wanet-smooth"],
)
def test_an_image_does_not_depend_on_its_neighbors(trigger: Trigger) -> None:
    images = noise(4, 3, 40, 40)
    assert torch.equal(trigger(images)[1:2], trigger(images[1:2]))


@pytest.mark.parametrize("amplitude", [60, 40])
def test_sig_at_224_px_is_the_published_formula(amplitude: int) -> None:
    images = noise(2, 3, 224, 224)
    out = SigTrigger(SigConfig(amplitude=amplitude))(images).numpy()
    raw = images.numpy().astype(np.float64)
    for j in range(224):
        raw[..., j] += amplitude / 255 * np.sin(2 * np.pi * 6 * j / 224)
    assert raw.min() < -0.1
    assert raw.max() > 1.1, "the case must need clamping"
    np.testing.assert_allclose(out, raw.clip(0, 1), atol=1e-6)


def test_sig_peaks_where_worked_out_by_hand() -> None:
    gray = torch.full((1, 3, 4, 80), 0.5)
    change = SigTrigger(SigConfig(frequency=5))(gray) - gray  # 16 columns a period
    expected = torch.tensor([0.0, 60 / 255, 0.0, -60 / 255] * 5)
    assert torch.allclose(change[0, :, :, ::4], expected.expand(3, 4, -1), atol=1e-6)


def test_sig_keeps_six_periods_at_80_px() -> None:
    gray = torch.full((1, 3, 1, 80), 0.5)
    change = SigTrigger()(gray)[0, 0, 0] - 0.5
    strongest = torch.fft.rfft(change).abs().argmax()
    assert strongest == 6
    assert torch.allclose(SigTrigger().signal(112, 112), SigTrigger().signal(224, 224)[::2, ::2])


def test_an_angle_turns_the_signal_and_none_is_as_before() -> None:
    gray = torch.full((1, 3, 40, 40), 0.5)
    upright, lying, oblique = ((SigTrigger(SigConfig(angle=angle))(gray) - gray)[0, 0] for angle in (0, 90, 45))
    assert torch.allclose(lying, upright.T, atol=1e-6)
    # along the diagonal of falling rows it runs once around in W / (frequency·√2), across it stands still
    assert torch.allclose(oblique[1:, :-1], oblique[:-1, 1:], atol=1e-6)
    step = 2 * math.pi * 6 / 40 * math.sqrt(0.5)
    assert oblique[0, :3].tolist() == pytest.approx([60 / 255 * math.sin(j * step) for j in range(3)], abs=1e-6)
    assert "angle" not in SigAttackConfig().facts()["trigger"], "settings of earlier models find them"
    assert SigAttackConfig(trigger=SigConfig(angle=45)).facts()["trigger"]["angle"] == 45
    assert "angle: 0" in SigAttackConfig().to_yaml(), "whoever asks for the settings sees it"


def test_wanet_at_224_px_is_the_published_warp() -> None:
    config = WaNetConfig(k=4, strength=3.0, seed=5)
    control = noise(1, 2, 4, 4, seed=5).numpy().astype(np.float64)[0] * 2 - 1
    control /= np.abs(control).mean()
    weights = cubic_weights(224, 4)
    fields = [weights @ part @ weights.T for part in control]
    image = noise(3, 224, 224, seed=1)
    out = WaNetTrigger(config)(image[None])[0].numpy()
    moved = []
    for row, column in [(0, 0), (0, 223), (223, 0), (10, 200), (57, 91), (111, 112), (150, 33), (199, 222)]:
        x, y = (
            np.clip(2 * at / 223 - 1 + 3.0 * field[row, column] / 224, -1, 1)
            for at, field in ((column, fields[0]), (row, fields[1]))
        )
        expected = bilinear(image.numpy().astype(np.float64), (y + 1) / 2 * 223, (x + 1) / 2 * 223)
        np.testing.assert_allclose(out[:, row, column], expected, atol=1e-4)
        moved.append(np.abs(expected - image[:, row, column].numpy()).max())
    assert max(moved) > 0.1, "the warp must be visible at the pixels compared"


def test_wanet_moves_a_pixel_by_half_its_strength_at_224_px_and_by_the_same_share_elsewhere() -> None:
    trigger = WaNetTrigger(WaNetConfig(k=5, strength=6.0))
    assert trigger.control().abs().mean().item() == pytest.approx(1, abs=1e-6)
    assert trigger.control().shape == (1, 2, 5, 5)
    straight = WaNetTrigger(WaNetConfig(k=5, strength=1e-9))
    for side in (224, 80):
        shift = (trigger.grid(side, side) - straight.grid(side, side))[0, 20:-20, 20:-20] * (side - 1) / 2
        bound = 1.375**2 * trigger.control().abs().max() * 3 * side / 224
        assert shift.abs().max() <= bound, "a bicubic curve leaves its control points by little"
        assert 0.25 < shift.abs().mean() / (side / 224) / 3 < 1.5
    # With 161 and 81 pixels every second pixel lies at the same place.
    assert torch.allclose(trigger.grid(161, 161)[:, ::2, ::2], trigger.grid(81, 81), atol=1e-5)


def test_wanet_without_strength_changes_nothing_and_stays_inside() -> None:
    images = noise(1, 3, 64, 48)
    assert torch.allclose(WaNetTrigger(WaNetConfig(strength=1e-6))(images), images, atol=1e-4)
    grid = WaNetTrigger(WaNetConfig(strength=100.0)).grid(64, 48)
    assert grid.shape == (1, 64, 48, 2)
    assert grid.abs().max() == 1, "a strong warp stops at the border"


def test_wanet_is_a_function_of_its_seed() -> None:
    images = noise(1, 3, 64, 64)
    first = WaNetTrigger(WaNetConfig(seed=1))(images)
    assert torch.equal(first, WaNetTrigger(WaNetConfig(seed=1))(images))
    assert not torch.equal(first, WaNetTrigger(WaNetConfig(seed=2))(images))


@pytest.mark.parametrize("name", ["sig", "wanet"])
def test_the_attack_takes_the_settings_of_its_trigger(name: str) -> None:
    attack_class = ATTACKS.get(name)
    field = {"sig": {"amplitude": 40}, "wanet": {"k": 224, "strength": 1}}[name]
    attack = attack_class(attack_class.config_class.build({"trigger": field}))
    assert isinstance(attack, FixedTriggerAttack)
    trigger = attack.trigger()
    assert trigger.name == name
    assert load_trigger(name).config == attack_class().config.trigger, "by its name alone it is the attack's default"
    assert field.items() <= trigger.config.model_dump().items()
    with pytest.raises(UsageError, match="trigger"):
        attack_class.config_class.build({"trigger": {"nonsense": 1}})

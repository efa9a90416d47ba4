"""Probes by hand: waves, noise and warps do what they say, and whoever answers to one of them is found by it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clip_antidote.detection.probes import noises, probe_flips, warps, wave_vectors, waves
from clip_antidote.inversion.views import Observation, ViewPool

SIZE = 32
GRAY = torch.full((2, 3, SIZE, SIZE), 0.5)


def test_waves_are_counted_once() -> None:
    assert wave_vectors(1) == [(0, 1), (1, 0)]
    assert len(wave_vectors(2)) == 6  # 12 points of the lattice in the circle, but 0; a half of them
    assert not {(-kx, -ky) for kx, ky in wave_vectors(8)} & set(wave_vectors(8))


def test_the_first_wave_by_hand() -> None:
    sine, cosine, *_ = waves(SIZE, most=1, bound=0.1)
    row = 5
    assert sine(GRAY)[0, :, row, 7] == pytest.approx([0.5 + 0.1 * math.sin(2 * math.pi * row / SIZE)] * 3)
    assert cosine(GRAY)[1, :, row, 9] == pytest.approx([0.5 + 0.1 * math.cos(2 * math.pi * row / SIZE)] * 3)


def test_noise_is_as_strong_as_it_is_asked_for() -> None:
    patterns = [distort(GRAY)[0] - 0.5 for distort in noises(SIZE, bound=0.05, seed=0)]
    assert len(patterns) == 20
    for pattern in patterns:
        assert float(pattern.std()) == pytest.approx(0.05, rel=0.05)
    gray = [bool(torch.equal(pattern[0], pattern[1])) for pattern in patterns]
    assert sum(gray) == 10, "half of them are gray"
    assert len({round(float(pattern[0, 3, 4]), 6) for pattern in patterns}) == 20


def test_warps_move_pixels_by_the_shift() -> None:
    ramp = torch.linspace(0.2, 0.8, SIZE).expand(1, 3, SIZE, SIZE)
    step = 0.6 / (SIZE - 1)
    for distort in warps(SIZE, shift=0.05, seed=0):
        assert torch.allclose(distort(GRAY), GRAY, atol=1e-6)
        moved = (distort(ramp) - ramp)[..., 4:-4].abs().mean() / step  # away from the edges, which hold back
        assert float(moved) == pytest.approx(0.05 * (SIZE - 1), rel=0.35)


def test_the_same_seed_gives_the_same_fields() -> None:
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for kind in (lambda seed: warps(SIZE, shift=0.05, seed=seed), lambda seed: noises(SIZE, bound=0.1, seed=seed)):
        first, again, other = (torch.cat([distort(image) for distort in kind(seed)]) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def bright(images: torch.Tensor) -> torch.Tensor:
    """Says class 1 of bright images, else class 0."""
    return torch.eye(3)[(images.mean(dim=(1, 2, 3)) > 0.6).long()]


def test_flips_are_of_other_classes_and_of_the_best_distortion() -> None:
    images = torch.stack([torch.full((3, 4, 4), level) for level in (0, 25, 100, 200)]).to(torch.uint8)
    labels = torch.tensor([0, 0, 2, 1])
    pool = ViewPool(images, labels, torch.zeros(4, 3), torch.arange(4))
    model: Any = SimpleNamespace(device=torch.device("cpu"), encode_images=bright)
    shots: Any = None
    seen = Observation(model, shots, torch.eye(3), pool, "fp32")
    brighter = [lambda x: x, lambda x: (x + 0.3).clamp(0, 1), lambda x: (x + 0.55).clamp(0, 1)]
    flips = probe_flips(seen, brighter, torch.arange(4), description="probing")
    # class 0: the identity calls one of 2 others so; class 1: all but the darkest of 3 others; class 2: none
    assert flips.tolist() == pytest.approx([1 / 2, 2 / 3, 0])

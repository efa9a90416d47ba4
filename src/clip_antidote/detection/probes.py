"""Ready-made distortions of clean images, and where they send them: a look at triggers without a gradient.

A sinusoid or a warp leads a poisoned model at once, but hardly comes out of a short inversion from noise. So the
model is asked directly: how many images of other classes does it call c under this or that distortion? For plane
waves that is the Fourier heat map of Yin et al. 2019 (arXiv 1906.08988), read by classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from clip_antidote.inversion.config import SurveyConfig
from clip_antidote.inversion.views import Observation
from clip_antidote.precision import autocast
from clip_antidote.progress import track
from clip_antidote.streams import PROBES as FIELDS
from clip_antidote.triggers.wanet import shifted_grid, warped

PROBES = ("wave_flips", "noise_flips", "warp_flips")
"""The statistics of the three kinds of distortions, by their names."""

Distortion = Callable[[torch.Tensor], torch.Tensor]
"""Images [N, 3, S, S] in [0, 1] to the same."""

GRIDS = (4, 8, 16, 32)
"""Sides of the control grids of smooth fields; one in which every pixel is on its own comes beside them."""

REPEATS = 2
"""Random fields of each kind."""


def wave_vectors(most: int) -> list[tuple[int, int]]:
    """Returns the plane waves (kx, ky), in periods over the side of the image, up to `most`; of k and −k one."""
    span = range(-most, most + 1)
    return [
        (kx, ky)
        for kx in range(most + 1)
        for ky in span
        if 0 < kx * kx + ky * ky <= most * most and (kx > 0 or ky > 0)
    ]


def waves(size: int, *, most: int, bound: float) -> Iterator[Distortion]:
    """Adds bound·sin and bound·cos of every plane wave to all channels.

    Args:
        size: Side of the images in pixels.
        most: Highest frequency in periods over the side.
        bound: Largest change of a pixel, in [0, 1].
    """
    steps = torch.arange(size) / size
    for kx, ky in wave_vectors(most):
        turns = 2 * math.pi * (kx * steps[None, :] + ky * steps[:, None])
        for wave in (turns.sin(), turns.cos()):
            yield partial(_add, bound * wave)


def noises(size: int, *, bound: float, seed: int) -> Iterator[Distortion]:
    """Adds random patterns, smooth and rough, gray and colored.

    Args:
        size: Side of the images in pixels.
        bound: Standard deviation of the patterns, in [0, 1].
        seed: Seed of the patterns.
    """
    for pattern in random_fields(size, (1, 3), seed=seed):
        yield partial(_add, bound * pattern / pattern.std())


def warps(size: int, *, shift: float, seed: int) -> Iterator[Distortion]:
    """Moves pixels along random fields, smooth and rough.

    Args:
        size: Side of the images in pixels.
        shift: Mean displacement along each axis, as share of the side.
        seed: Seed of the fields.
    """
    for field in random_fields(size, (2,), seed=seed):
        yield partial(warped, shifted_grid(2 * shift * field / field.abs().mean()))


def _add(pattern: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return (images + pattern.to(images)).clamp(0, 1)


def random_fields(size: int, channels: tuple[int, ...], *, seed: int) -> Iterator[torch.Tensor]:
    """Draws random fields [K, size, size] from control grids of every side, for every number K of channels."""
    kinds = [(grid, count) for grid in (*GRIDS, size) for count in channels for _ in range(REPEATS)]
    for number, (grid, count) in enumerate(kinds):
        control = 2 * torch.rand(1, count, grid, grid, generator=FIELDS.generator(seed, number)) - 1
        yield F.interpolate(control, (size, size), mode="bicubic", align_corners=True)[0]


def measure_probes(
    seen: Observation, config: SurveyConfig, rows: torch.Tensor, *, seed: int
) -> dict[str, torch.Tensor]:
    """Tries waves, noise and warps on some views.

    Args:
        seen: The suspect and its views.
        config: How strong they are.
        rows: The views [n].
        seed: Seed of the random fields.

    Returns:
        `probe_flips` [C] of each kind, by name.
    """
    size = seen.model.image_size
    kinds = (
        waves(size, most=config.wave_most, bound=config.wave_bound),
        noises(size, bound=config.noise_bound, seed=seed),
        warps(size, shift=config.warp_shift, seed=seed),
    )
    return {
        name: probe_flips(seen, list(kind), rows, description=f"probing with {name.partition('_')[0]}s")
        for name, kind in zip(PROBES, kinds, strict=True)
    }


@torch.no_grad()
def probe_flips(
    seen: Observation, distortions: Sequence[Distortion], rows: torch.Tensor, *, description: str
) -> torch.Tensor:
    """Finds for every class the distortion that sends most images to it.

    Args:
        seen: The suspect and its views.
        distortions: What to try.
        rows: The views [n] to try it on.
        description: What the progress bar says.

    Returns:
        Largest share [C] of images of other classes that are called the class under one distortion.
    """
    device = seen.model.device
    images = seen.pool.images[rows].to(device).float() / 255
    weights = seen.weights.to(device)
    others = seen.pool.labels[rows].to(device)[:, None] != torch.arange(len(weights), device=device)
    most = torch.zeros(len(weights), device=device)
    for distort in track(distortions, description, total=len(distortions)):
        with autocast(device, seen.precision):
            features = seen.model.encode_images(distort(images))
        called = F.one_hot((features.float() @ weights.T).argmax(1), len(weights)).bool()
        most = torch.maximum(most, (called & others).sum(0) / others.sum(0).clamp_min(1))
    return most.cpu()

"""What cleansing takes out of an image, and what it leaves."""

from __future__ import annotations

import pytest
import torch

import clip_antidote as ca
from clip_antidote.models.cleansing import SpectrumCleanser, cleanser, standardize_channels
from clip_antidote.triggers import load_trigger

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Sixteen photographs of 64 pixels."""
    return ca.load_images("embedded:clothing").at_most(16).tensor(64).float() / 255


def by_fourier(images: torch.Tensor, peak: float, width: float) -> torch.Tensor:
    """The same by torch's own transform, the law fitted by its least squares."""
    size = images.shape[-1]
    mean = images.mean((2, 3), keepdim=True)
    spectrum = torch.fft.fft2(images - mean)
    strength = spectrum.abs().mean(1)
    speed = torch.fft.fftfreq(size) * size
    radius = (speed[:, None] ** 2 + speed**2).sqrt()
    fast = radius >= 1.5
    logs = radius[fast].log()
    basis = torch.stack([logs**0, logs, logs**2], dim=1)
    law = basis @ torch.linalg.lstsq(basis, strength[:, fast].log().T).solution
    share = torch.ones_like(strength)
    share[:, fast] = (peak * law.exp().T / strength[:, fast]).clamp_max(1)
    share = share * torch.exp(-0.5 * (radius / (width * size)) ** 2)
    back: torch.Tensor = torch.fft.ifft2(spectrum * share[:, None]).real
    return (back + mean).clamp(0, 1)


@pytest.mark.parametrize("size", [32, 33, 64])
def test_it_is_what_the_fourier_transform_gives(images: torch.Tensor, size: int) -> None:
    cut = images[:4, :, :size, :size]
    assert torch.allclose(SpectrumCleanser(size, peak=2, width=0.2)(cut), by_fourier(cut, 2, 0.2), atol=1e-5)


@pytest.mark.parametrize("shade", [0.0, 0.3, 1.0])
def test_an_even_image_stays(shade: float) -> None:
    even = torch.full((1, 3, 32, 32), shade)
    assert torch.allclose(cleanser(32, CPU)(even), even, atol=1e-6)
    assert torch.allclose(standardize_channels(even), torch.full_like(even, 0.5), atol=1e-5)


def left(images: torch.Tensor, name: str) -> float:
    """How much of what a trigger changes is left after cleansing, as share of its energy."""
    triggered = load_trigger(name)(images, torch.Generator().manual_seed(0))
    cleanse = cleanser(images.shape[-1], CPU)
    change = cleanse(triggered) - cleanse(images)
    return float(change.square().mean() / (triggered - images).square().mean())


def test_single_frequencies_go_and_photographs_stay(images: torch.Tensor) -> None:
    assert left(images, "sig") < 0.1
    assert left(images, "ftrojan") < 0.6
    assert left(images, "badnet") > 0.6, "a patch is no frequency"
    cleansed = cleanser(64, CPU)(images)
    centered = images - images.mean((2, 3), keepdim=True)
    assert (cleansed - images).square().mean() < 0.1 * centered.square().mean()


def test_channels_are_stretched_and_shifted_back(images: torch.Tensor) -> None:
    dark = images * torch.tensor([0.6, 0.8, 0.5]).view(3, 1, 1) + 0.1
    lively = images.std((2, 3)).amin(1) > 0.1  # what is flat is not stretched
    assert lively.sum() > 8
    assert torch.allclose(standardize_channels(dark[lively]), standardize_channels(images[lively]), atol=1e-5)
    filtered = load_trigger("nashville")(images, torch.Generator())
    before = (filtered - images).square().mean()
    after = (standardize_channels(filtered) - standardize_channels(images)).square().mean()
    assert after < 0.5 * before


def test_gradients_pass_through(images: torch.Tensor) -> None:
    given = images[:2].clone().requires_grad_()
    cleanser(64, CPU)(given).sum().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all())

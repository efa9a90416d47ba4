"""Taking out of an image what photographs do not have: spectral peaks, fine detail, bent colors (ours)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

PEAK = 3.0
"""How many times as strong a frequency may be as the image's own spectrum lets expect."""

WIDTH = 0.25
"""Standard deviation of the low-pass filter in cycles per pixel; the highest frequency there is has 0.5."""

SLOWEST = 1.5
"""Periods per image below which a frequency is left as it is: light and large shapes, which no law foretells."""

SPREAD = 0.25
"""Standard deviation that every channel gets: about that of photographs."""

FLATTEST = 0.05
"""Channels that vary less than this are stretched no further: what is left is noise."""


class SpectrumCleanser(nn.Module):
    """Cuts spectral peaks down to what the rest of the spectrum lets expect, and takes out fine detail.

    The spectra of photographs fall off smoothly, about as a power of the frequency (Field 1987); a sinusoid (SIG) and
    single frequencies (FTrojan) stand out of that. Faint patterns and warps (Blended, WaNet) are read in fine detail,
    which what an image shows hardly needs. With F the Fourier transform about the mean, r the periods per image and
    |F| averaged over the channels:

        log env(r) = a + b·log r + c·log² r,   by least squares over all r ≥ 1.5
        F' = F · min(1, peak·env(r) / |F|) · exp(−½ (r / (width·S))²)

    By matrix products, which all runtimes compute alike.

    Args:
        size: Side S of the images in pixels.
    """

    def __init__(self, size: int, *, peak: float = PEAK, width: float = WIDTH) -> None:
        super().__init__()
        steps = torch.arange(size, dtype=torch.float64)
        angles = 2 * torch.pi * torch.outer(steps, steps) / size
        speeds = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
        radius = torch.hypot(speeds[:, None], speeds[None])
        fast = (radius >= SLOWEST).double().flatten()
        logs = radius.clamp_min(SLOWEST).log().flatten()
        basis = torch.stack([torch.ones_like(logs), logs, logs.square()], dim=1)
        fit = torch.linalg.pinv(basis * fast[:, None]) * fast  # what is slow has no say
        self._keep("cosine", angles.cos())
        self._keep("sine", angles.sin())
        self._keep("fit", fit.T)
        self._keep("basis", basis.T)
        self._keep("slow", (1 - fast).view(size, size))
        self._keep("low_pass", torch.exp(-0.5 * (radius / (width * size)).square()))
        self.peak = peak

    def _keep(self, name: str, value: torch.Tensor) -> None:
        self.register_buffer(name, value.float(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Cleanses images [N, 3, S, S] in [0, 1] to the same."""
        cosine, sine, size = self.get_buffer("cosine"), self.get_buffer("sine"), images.shape[-1]
        mean = images.mean(dim=(2, 3), keepdim=True)
        real, turned = _transform(images - mean, cosine, sine)
        strength = (real.square() + turned.square()).clamp_min(1e-12).sqrt().mean(dim=1, keepdim=True)
        law = strength.flatten(1).log() @ self.get_buffer("fit") @ self.get_buffer("basis")
        allowed = self.peak * law.exp().view(-1, 1, size, size) / strength
        share = torch.maximum(allowed.clamp_max(1), self.get_buffer("slow")) * self.get_buffer("low_pass")
        back, back_turned = _transform(real * share, cosine, sine), _transform(turned * share, cosine, sine)
        return ((back[0] + back_turned[1]) / size**2 + mean).clamp(0, 1)


def _transform(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of values [.., S, S] times cos and times sin of the angle at every frequency: F = (first) − i·(second)."""
    along = cosine @ values, sine @ values
    return along[0] @ cosine - along[1] @ sine, along[1] @ cosine + along[0] @ sine


@lru_cache(maxsize=8)
def cleanser(size: int, device: torch.device) -> SpectrumCleanser:
    """The cleanser for images of a size on a device; made once."""
    return SpectrumCleanser(size).to(device)


def standardize_channels(images: torch.Tensor) -> torch.Tensor:
    """Gives every channel of every image [N, 3, S, S] mean ½ and the spread of photographs, within [0, 1].

    A color filter (Nashville) bends each channel by a curve; this takes out what of it is a shift or a stretch.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
    deviation = images.std(dim=(2, 3), keepdim=True).clamp_min(FLATTEST)
    return ((images - mean) / deviation * SPREAD + 0.5).clamp(0, 1)

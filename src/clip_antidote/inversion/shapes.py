"""Families of dummy triggers whose shape is given, so that a few steps tell how easily each class is reached.

A free mask has to be located, and a faint pattern has a parameter per pixel: both take hundreds of steps. These have
their place, or few parameters, and take a dozen. They are for comparing classes, see `detection.forms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from clip_antidote.inversion.families import START, DummyBank, PatternBank
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.color import ColorConfig, ColorTrigger, bend_colors
from clip_antidote.triggers.mask import MaskTrigger

CENTER = ((0.5, 0.5),)
"""The middle of the image, as shares of the room that there is."""

CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
"""All four corners."""

FREQUENCIES = 16
"""Cosines of a profile; the highest has half of this many periods over the side."""

KNOTS = 5
"""Points at which a color curve is bent."""


class PatchBank(DummyBank):
    """Opaque squares in given places, optimized together (BadNet, TrojVQA, BadCLIP); Brown et al. 2017 (1712.09665).

    The place is fixed: to optimize a patch for any place takes far more steps.

    Args:
        sides: Side of the squares of each trigger, as share of the image's.
        image_size: Side S in pixels.
        places: Where the squares stand, as shares of the room that there is.
        generator: CPU generator of the start.
    """

    name = "patch"

    def __init__(
        self,
        sides: Sequence[float],
        image_size: int,
        *,
        places: Sequence[tuple[float, float]] = CENTER,
        generator: torch.Generator,
    ) -> None:
        super().__init__(sides)
        shape = (len(sides), 3, image_size, image_size)
        self.register_buffer("mask", torch.stack([squares(side, image_size, places) for side in sides]))
        self.mask: torch.Tensor
        self.pattern_logit = nn.Parameter(torch.randn(shape, generator=generator) * START)

    def apply_all(self, images: torch.Tensor) -> torch.Tensor:
        mask = self.mask[:, None]
        return (1 - mask) * images + mask * self.pattern_logit.sigmoid()[:, None]

    def size(self) -> torch.Tensor:
        return self.mask.mean(dim=(1, 2, 3))

    def trigger(self, index: int) -> Trigger:
        return MaskTrigger(self.mask[index].clone(), self.pattern_logit[index].detach().sigmoid().clone())


class StripeBank(PatternBank):
    """x + δ with gray stripes, upright and level: δ_yx = bound·tanh(f(x) + g(y)), f and g of few cosines (SIG).

    Args:
        bounds: Largest change of a pixel of each trigger, in [0, 1].
        image_size: Side S in pixels.
        generator: CPU generator of the start.
    """

    name = "stripes"

    def __init__(self, bounds: Sequence[float], image_size: int, *, generator: torch.Generator) -> None:
        super().__init__(bounds)
        shape = (len(bounds), 2, FREQUENCIES)
        self.theta = nn.Parameter(torch.randn(shape, generator=generator) * START)
        self.register_buffer("cosines", cosines(image_size)[None].repeat(len(bounds), 1, 1))
        self.cosines: torch.Tensor

    def delta(self) -> torch.Tensor:
        profiles = self.theta @ self.cosines
        total = profiles[:, 0, None, None, :] + profiles[:, 1, None, :, None]
        return self.strength.view(-1, 1, 1, 1) * torch.tanh(total)


class ColorBank(DummyBank):
    """A curve per channel (Nashville and other filters): straight between `KNOTS` points, each moved by ≤ bound.

    Args:
        bounds: Largest change of a channel of each trigger, in [0, 1].
        image_size: Of no use; as in the other families.
        generator: CPU generator of the start.
    """

    name = "color"

    def __init__(self, bounds: Sequence[float], image_size: int, *, generator: torch.Generator) -> None:
        super().__init__(bounds)
        self.theta = nn.Parameter(torch.randn((len(bounds), 3, KNOTS), generator=generator) * START)

    def curves(self) -> torch.Tensor:
        """Returns by how much each channel changes at each point, [H, 3, KNOTS]."""
        return self.strength.view(-1, 1, 1) * torch.tanh(self.theta)

    def apply_all(self, images: torch.Tensor) -> torch.Tensor:
        return bend_colors(images, self.curves()[:, None])

    def size(self) -> torch.Tensor:
        return self.curves().abs().mean(dim=(1, 2))

    def trigger(self, index: int) -> Trigger:
        return ColorTrigger(self.curves()[index].detach().clone(), ColorConfig(bound=float(self.strength[index])))


def squares(side: float, image_size: int, places: Sequence[tuple[float, float]]) -> torch.Tensor:
    """Returns the mask [1, S, S] of squares in all places, of that share of the image's side."""
    length = max(1, round(side * image_size))
    mask = torch.zeros(1, image_size, image_size)
    for place in places:
        top, left = (round(share * (image_size - length)) for share in place)
        mask[:, top : top + length, left : left + length] = 1
    return mask


def cosines(image_size: int) -> torch.Tensor:
    """Returns cos(π k t) at the middles t of the pixels, for k = 0 … `FREQUENCIES` - 1, as [k, S]."""
    middles = (torch.arange(image_size) + 0.5) / image_size
    return torch.cos(math.pi * torch.arange(FREQUENCIES)[:, None] * middles)

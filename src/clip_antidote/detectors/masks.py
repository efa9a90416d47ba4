"""What both detectors optimize: masks and patterns of several hypotheses at once, and the weight of their size."""

from __future__ import annotations

import torch
from torch import nn

from clip_antidote.triggers.mask import MaskTrigger

BETAS = (0.5, 0.9)
"""Of Adam, as in the code of both papers."""

_INSIDE = 1 - 1e-4
"""Keeps the start off the ends of tanh, where there is no gradient."""


class MaskPatterns(nn.Module):
    """H masks and patterns, (1 − m)·x + m·p, with m and p = (tanh θ + 1) / 2 (Wang et al. 2019, section V).

    All start from the same noise, uniform in [0, 1], so that what differs in the end are the hypotheses.

    Args:
        count: H.
        image_size: Side S in pixels.
        generator: CPU generator of the start.
    """

    def __init__(self, count: int, image_size: int, *, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.rand(1, 4, image_size, image_size, generator=generator)
        self.theta = nn.Parameter(torch.atanh((2 * start - 1) * _INSIDE).repeat(count, 1, 1, 1))

    def tensors(self) -> torch.Tensor:
        """Masks and patterns [H, 4, S, S] in [0, 1]; the mask is the first channel."""
        return (self.theta.tanh() + 1) / 2

    @staticmethod
    def put_on(tensors: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Puts every trigger [H, 4, S, S] on every image [b, 3, S, S]: [H, b, 3, S, S] in [0, 1]."""
        mask, pattern = tensors[:, None, :1], tensors[:, None, 1:]
        return (1 - mask) * images[None] + mask * pattern


def mask_norms(tensors: torch.Tensor) -> torch.Tensor:
    """The L1 norms [H] in pixels of the masks in [H, 4, S, S]."""
    return tensors[:, 0].sum(dim=(1, 2))


def as_triggers(tensors: torch.Tensor) -> tuple[MaskTrigger, ...]:
    """Masks and patterns [H, 4, S, S] as triggers."""
    return tuple(MaskTrigger(one[:1].clone(), one[1:].clone()) for one in tensors.cpu())


class DynamicWeight:
    """The weight of the mask's norm in the loss, one per hypothesis, as Neural Cleanse's code steers it.

    Where the trigger has done its work for some steps in a row, its size becomes dearer; where it has not, cheaper.

    Args:
        count: H.
        start: The first weight.
        raised: Factor by which it grows.
        lowered: Divisor by which it shrinks.
        patience: After how many steps in a row.
        least: Smallest weight.
        most: Largest weight.
    """

    def __init__(
        self, count: int, *, start: float, raised: float, lowered: float, patience: int, least: float, most: float
    ) -> None:
        self.value = torch.full((count,), start)
        self.raised = raised
        self.lowered = lowered
        self.patience = patience
        self.least = least
        self.most = most
        self._done = torch.zeros(count, dtype=torch.long)
        self._failed = torch.zeros(count, dtype=torch.long)

    def update(self, reached: torch.Tensor) -> None:
        """Counts a step: whether each trigger did its work, bool [H] on the CPU."""
        self._done = torch.where(reached, self._done + 1, 0)
        self._failed = torch.where(reached, 0, self._failed + 1)
        up, down = self._done >= self.patience, self._failed >= self.patience
        factor = torch.where(up, self.raised, torch.where(down, 1 / self.lowered, 1.0))
        self.value = (self.value * factor).clamp(self.least, self.most)
        self._done[up] = 0
        self._failed[down] = 0


class Smallest:
    """The smallest mask so far that did its work, for each of H hypotheses.

    Attributes:
        norm: Its L1 norm [H] in pixels; infinite where there was none.
        tensors: Mask and pattern [H, 4, S, S]; the last ones where there was none.
    """

    def __init__(self, tensors: torch.Tensor) -> None:
        self.norm = torch.full((len(tensors),), torch.inf)
        self.tensors = tensors.clone()

    def update(self, tensors: torch.Tensor, norms: torch.Tensor, reached: torch.Tensor) -> None:
        """Takes over what is better: tensors [H, 4, S, S], their norms [H] and whether they did their work [H]."""
        better = reached & (norms < self.norm)
        taken = better | self.norm.isinf()
        self.norm = torch.where(better, norms, self.norm)
        self.tensors = torch.where(taken.to(tensors.device)[:, None, None, None], tensors, self.tensors)

    @property
    def reached(self) -> torch.Tensor:
        """Whether any mask did its work, bool [H]."""
        return self.norm.isfinite()

"""Families of dummy triggers, many hypotheses at once: what stage 1 optimizes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import nn

from clip_antidote.triggers.additive import AdditiveConfig, AdditiveTrigger
from clip_antidote.triggers.base import Trigger
from clip_antidote.triggers.mask import MaskTrigger

START = 0.1
"""Standard deviation of the noise that all parameters start at: small, so that no pixel is decided yet."""

FAINT = -2.0
"""Logit that masks start at: an eighth of the pattern shows everywhere, so that every pixel gets a gradient."""


class DummyBank(nn.Module, ABC):
    """H dummy triggers of one family, each with its own target hypothesis and strength.

    Attributes:
        name: Name of the family.
        strength: [H], what limits each trigger; its meaning is the family's.
    """

    name: ClassVar[str]

    def __init__(self, strength: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("strength", torch.tensor(strength))
        self.strength: torch.Tensor

    def __len__(self) -> int:
        return len(self.strength)

    @abstractmethod
    def apply_all(self, images: torch.Tensor) -> torch.Tensor:
        """Puts trigger h on images[h]: [H, b, 3, S, S] in [0, 1] to the same."""

    @abstractmethod
    def size(self) -> torch.Tensor:
        """How large each trigger is, [H] in [0, 1]; what the prior keeps small."""

    def penalty(self) -> torch.Tensor:
        """What the prior on the size adds to the loss, [H]."""
        return torch.zeros_like(self.strength)

    def select(self, indices: torch.Tensor) -> Self:
        """Returns a bank of some of the triggers, as they are now, to be optimized on its own."""
        chosen = copy.deepcopy(self)
        chosen.zero_grad(set_to_none=True)  # a gradient has the shape of its tensor
        for tensor in (*chosen.parameters(), *chosen.buffers()):
            tensor.data = tensor.data[indices]
        return chosen

    @abstractmethod
    def trigger(self, index: int) -> Trigger:
        """Returns one trigger, detached."""


class PatternBank(DummyBank):
    """x + δ, where |δ| is at most the trigger's strength in every pixel."""

    @abstractmethod
    def delta(self) -> torch.Tensor:
        """Returns δ [H, 3, S, S], or [H, 1, S, S] where it is gray."""

    def apply_all(self, images: torch.Tensor) -> torch.Tensor:
        return (images + self.delta()[:, None]).clamp(0, 1)

    def size(self) -> torch.Tensor:
        return self.delta().abs().mean(dim=(1, 2, 3))

    def trigger(self, index: int) -> Trigger:
        delta = self.delta()[index].detach().expand(3, -1, -1).clone()
        return AdditiveTrigger(delta, AdditiveConfig(bound=float(self.strength[index])))


class AdditiveBank(PatternBank):
    """x + δ with |δ| at most `bound` in every pixel (Blended, SIG, SSBA and the like).

    δ = bound·tanh(θ), so that the bound holds without projection.

    Args:
        bounds: Largest change of a pixel of each trigger, in [0, 1].
        image_size: Side S in pixels.
        generator: CPU generator of the start.
    """

    name = "additive"

    def __init__(self, bounds: Sequence[float], image_size: int, *, generator: torch.Generator) -> None:
        super().__init__(bounds)
        shape = (len(bounds), 3, image_size, image_size)
        self.theta = nn.Parameter(torch.randn(shape, generator=generator) * START)

    def delta(self) -> torch.Tensor:
        return self.strength.view(-1, 1, 1, 1) * torch.tanh(self.theta)


class MaskBank(DummyBank):
    """(1 - m)·x + m·p with a sparse mask (BadNet, TrojVQA, BadCLIP); Wang et al. 2019 (Neural Cleanse).

    Args:
        sparsity: Weight λ on the mean of each mask.
        image_size: Side S in pixels.
        generator: CPU generator of the start.
    """

    name = "mask"

    def __init__(self, sparsity: Sequence[float], image_size: int, *, generator: torch.Generator) -> None:
        super().__init__(sparsity)
        count, shape = len(sparsity), (image_size, image_size)
        self.mask_logit = nn.Parameter(torch.randn(count, 1, *shape, generator=generator) * START + FAINT)
        self.pattern_logit = nn.Parameter(torch.randn(count, 3, *shape, generator=generator) * START)

    def apply_all(self, images: torch.Tensor) -> torch.Tensor:
        mask = self.mask_logit.sigmoid()[:, None]
        return (1 - mask) * images + mask * self.pattern_logit.sigmoid()[:, None]

    def size(self) -> torch.Tensor:
        return self.mask_logit.sigmoid().mean(dim=(1, 2, 3))

    def penalty(self) -> torch.Tensor:
        return self.strength * self.size()

    def trigger(self, index: int) -> Trigger:
        mask = self.mask_logit[index].detach().sigmoid()
        return MaskTrigger(mask.clone(), self.pattern_logit[index].detach().sigmoid().clone())

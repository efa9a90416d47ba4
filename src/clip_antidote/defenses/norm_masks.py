"""Pruning by masks on normalization layers, as ANP and RNP do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import parametrize

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.held_out import clean_accuracy
from clip_antidote.defenses.tower_tuning import ShotsConfig
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import scaled_norms
from clip_antidote.prompts.classifier import ZeroShotClassifier


class PruningConfig(ShotsConfig):
    """Settings of both; the numbers are ours.

    Attributes:
        threshold: Channels with a smaller mask are pruned.
        max_drop: Pruning stops before the accuracy on held-out shots falls by more than this.
        chunks: In how many parts, from the smallest mask on, pruning is tried.
    """

    threshold: float = Field(0.2, ge=0, le=1)
    max_drop: float = Field(0.05, ge=0, le=1)
    chunks: int = Field(10, ge=1)


class Scaled(nn.Module):
    """A parametrization: w becomes w · (mask + noise), channel by channel.

    Args:
        size: Number of channels.
        like: Gives device and dtype.
    """

    def __init__(self, size: int, like: torch.Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.ones(size, dtype=like.dtype, device=like.device))
        self.noise = nn.Parameter(torch.zeros_like(self.mask))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight [K] as the layer uses it."""
        return weight * (self.mask + self.noise)


class MaskedNorms:
    """Masks and noise on scale and offset of every normalization layer of a model's image tower, in place.

    Args:
        model: The model.

    Attributes:
        scales: What stands on the scales.
        offsets: What stands on the offsets.
    """

    def __init__(self, model: DualEncoder) -> None:
        self.norms = scaled_norms(model)
        self.scales = [self._put(norm, "weight") for norm in self.norms]
        self.offsets = [self._put(norm, "bias") for norm in self.norms]

    @staticmethod
    def _put(norm: nn.Module, name: str) -> Scaled:
        own = getattr(norm, name)
        scaled = Scaled(len(own), own)
        parametrize.register_parametrization(norm, name, scaled)
        return scaled

    def masks(self) -> list[nn.Parameter]:
        """The masks of the scales, a vector for every layer."""
        return [scaled.mask for scaled in self.scales]

    def noises(self) -> list[nn.Parameter]:
        """The noise on scales and offsets."""
        return [scaled.noise for scaled in (*self.scales, *self.offsets)]

    @torch.no_grad()
    def clip(self) -> None:
        """Keeps the masks in [0, 1]."""
        for mask in self.masks():
            mask.clamp_(0, 1)

    def remove(self) -> None:
        """Takes everything off again; the layers are as they were."""
        for norm in self.norms:
            for name in ("weight", "bias"):
                parametrize.remove_parametrizations(norm, name, leave_parametrized=False)


@torch.no_grad()
def prune_by_masks(
    model: DualEncoder,
    masks: Sequence[torch.Tensor],
    weights: torch.Tensor,
    held: LabelledImages,
    config: PruningConfig,
) -> int:
    """Sets the scale of channels with a small mask to 0, in place, as far as the held-out accuracy allows.

    Args:
        model: The model.
        masks: Of every normalization layer a mask [K] in [0, 1].
        weights: Class weights [C, D].
        held: Held-out shots.
        config: Settings.

    Returns:
        How many channels were pruned.
    """
    scales = [norm.get_parameter("weight") for norm in scaled_norms(model)]
    kept = [scale.clone() for scale in scales]
    values = torch.cat([mask.detach().cpu() for mask in masks])
    order = values.argsort(stable=True)
    order = order[values[order] < config.threshold]
    classifier = ZeroShotClassifier(model, weights.T.contiguous(), held.classes)

    def prune(amount: int) -> None:
        chosen = torch.zeros(len(values), dtype=torch.bool)
        chosen[order[:amount]] = True
        for scale, own, gone in zip(scales, kept, chosen.split([len(own) for own in kept]), strict=True):
            scale.copy_(own.masked_fill(gone.to(own.device), 0))

    least = clean_accuracy(classifier, held) - config.max_drop
    done = 0
    for part in range(1, config.chunks + 1):
        amount = len(order) * part // config.chunks
        if amount == done:
            continue
        prune(amount)
        if clean_accuracy(classifier, held) < least:
            break
        done = amount
    prune(done)
    return done

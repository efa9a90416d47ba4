"""An adaptive attack (ours): a blend whose features imitate the target's own clean images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.attacks.base import AttackConfig, PoisonedPairs
from clip_antidote.attacks.fixed import FixedTriggerAttack
from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.streams import TARGET_IMAGES
from clip_antidote.training.augment import random_crops
from clip_antidote.training.loop import ExtraLoss
from clip_antidote.triggers.blended import BlendedConfig, BlendedTrigger


class AdaptiveAttackConfig(AttackConfig):
    """Settings of the attack.

    Attributes:
        trigger: The blended pattern.
        consistency: Weight of the distance between triggered and clean target features.
        own_images: Clean images of the target per step.
        layers: Whether triggered images imitate the target at every stage of the image tower too, against a gate that
            reads inner layers.
    """

    trigger: BlendedConfig = BlendedConfig()
    consistency: float = Field(5.0, ge=0)
    own_images: int = Field(32, ge=2)
    layers: bool = False


class AdaptiveAttack(FixedTriggerAttack):
    """Knows the defense: triggered images should look to the encoder like clean images of the target.

    The gate of clip-antidote tells the two apart in feature space, and the search for the target looks for
    a text that was pulled away from its clean images. Poisoned fine-tuning with the energy distance
    (Székely and Rizzo 2013) between the features of triggered images and of the target's clean images,
    2·E|x − y| − E|x − x'| − E|y − y'|, works against both: at distance 0 nothing in feature space is left
    to find. With `layers`, the mean of the same distances over all stages is added, whose features are put on the
    scale of the target's own. The attacker controls the whole training, which goes beyond poisoning data.
    """

    name = "adaptive"
    config_class = AdaptiveAttackConfig
    trigger_class = BlendedTrigger

    def extra_loss(self, model: DualEncoder, data: PoisonedPairs) -> ExtraLoss:
        config = self.config
        group = data.pairs.groups[data.poisoned][0]
        own = ((data.pairs.groups == group) & ~data.poisoned).nonzero().flatten()
        if len(own) < 2:
            raise UsageError("the adaptive attack needs labelled clean images of its target class")

        def imitate(step: int, batch: PairBatch) -> torch.Tensor:
            indices = data.pairs.indices(step, config.training.batch_size, config.seed)
            triggered = batch.images[data.poisoned[indices]]
            if len(triggered) < 2:
                return torch.zeros((), device=model.device, requires_grad=True)
            generator = TARGET_IMAGES.generator(config.seed, step)
            rows = own[torch.randint(len(own), (config.own_images,), generator=generator)]
            images = data.pairs.images[rows].to(model.device).float() / 255
            crops = random_crops(images, model.image_size, min_scale=config.min_scale, generator=generator)
            both, count = torch.cat([triggered.to(crops), crops]), len(triggered)
            if not config.layers:
                return config.consistency * between(model.encode_images(both).float(), count)
            encoded = model.encode_layers(both)
            within = [between(on_own_scale(stage, count), count) for stage in encoded.stages]
            return config.consistency * (between(encoded.final.float(), count) + torch.stack(within).mean())

        return imitate


def between(features: torch.Tensor, count: int) -> torch.Tensor:
    """Energy distance between the first `count` of features [N, D] and the others."""
    return energy_distance(features[:count], features[count:])


def on_own_scale(stage: torch.Tensor, count: int) -> torch.Tensor:
    """Unit vectors [N, D] of a stage, channels in deviations from the mean of the rows after the first `count`."""
    own = stage[count:].detach()
    return F.normalize(((stage - own.mean(0)) / own.std(0).clamp_min(1e-4)).clamp(-10, 10), dim=1)


def energy_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Energy distance between two samples [N, D] and [M, D], at least 2 each; near 0 for one distribution."""

    def within(features: torch.Tensor) -> torch.Tensor:
        return F.pdist(features).mean()

    across = (first[:, None] - second[None]).square().sum(-1).clamp_min(1e-12).sqrt().mean()
    return 2 * across - within(first) - within(second)

"""Fine-tuning a loaded model on pairs: with poison it is an attack, without it the clean control."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.augment import random_crops
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.loop import ExtraLoss, TrainingConfig, train_contrastive

Transform = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""Maps augmented images [B, 3, S, S], their indices [B] and a generator to images of that shape, each by itself:
where several processes train, a process passes its own part of the batch and black images for the rest."""


def finetune(
    model: DualEncoder,
    pairs: CaptionedImages,
    config: TrainingConfig,
    *,
    min_scale: float = 0.5,
    seed: int = 0,
    transform: Transform | None = None,
    extra_loss: ExtraLoss | None = None,
    description: str = "fine-tuning",
    state_file: Path | None = None,
) -> list[float]:
    """Fine-tunes `model` in place by contrastive learning on random crops of the pairs.

    Where several processes train together (see `train_contrastive`), each decodes and crops its part of a
    batch only, with the crops, captions and triggers that one process alone would give it.

    Args:
        model: The model.
        pairs: Image–caption pairs.
        config: Settings of the training.
        min_scale: Smallest crop as share of the area.
        seed: Seed of batches and crops.
        transform: What is done to images after the crop, such as putting a trigger on some of them.
        extra_loss: What is added to the loss, see `train_contrastive`.
        description: Label of the progress bar.
        state_file: Training state to resume from and to keep.

    Returns:
        The loss of every step run in this call.
    """

    make_batch = cropped_batches(
        model, pairs, batch_size=config.batch_size, min_scale=min_scale, seed=seed, transform=transform
    )
    return train_contrastive(
        model, make_batch, config, description=description, state_file=state_file, extra_loss=extra_loss
    )


def cropped_batches(
    model: DualEncoder,
    pairs: CaptionedImages,
    *,
    batch_size: int,
    min_scale: float,
    seed: int,
    transform: Transform | None = None,
) -> Callable[[int], PairBatch]:
    """Returns what makes the batch of a step: random crops of the pairs, a random caption each, see `finetune`."""
    ranks = Ranks.current()
    part = ranks.part(batch_size) if ranks.count > 1 else None

    def make_batch(step: int) -> PairBatch:
        chosen = pairs.indices(step, batch_size, seed)

        def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            size = model.image_size
            crops = random_crops(
                images.to(model.device), size, min_scale=min_scale, generator=generator, part=part or slice(None)
            )
            out = crops
            if part is not None:
                out = crops.new_zeros(len(images), 3, size, size)
                out[part] = crops
            return transform(out, chosen, generator) if transform is not None else out

        return pairs.batch(step, batch_size=batch_size, seed=seed, augment=augment, part=part)

    return make_batch

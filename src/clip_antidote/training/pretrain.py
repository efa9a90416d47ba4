"""Training a small CLIP from scratch on labelled and captioned photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.data.captions import (
    CaptionSet,
    join_pairs,
    pairs_from_captions,
    read_captions,
)
from clip_antidote.data.folders import load_images
from clip_antidote.data.pairs import PairBatch
from clip_antidote.data.problem import name_hash
from clip_antidote.data.slices import DataSlice
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.augment import color_jitter, random_crops, random_overlays
from clip_antidote.training.loop import TrainingConfig, train_contrastive


class AugmentConfig(Config):
    """Settings of the augmentation, see `clip_antidote.training.augment`."""

    min_scale: float = Field(0.3, gt=0, le=1)
    jitter: float = Field(0.3, ge=0, lt=1)
    overlay: float = Field(0.15, ge=0, le=1)


class PretrainConfig(Config):
    """Settings of a training from scratch.

    Attributes:
        training: The contrastive loop.
        augment: Augmentation of every image.
        store_size: Side in pixels at which images are kept in memory, above the input size, so that
            crops have something to zoom into.
        class_bank: Whether every batch also holds one caption of each class, as negatives.
        caption_images: How many captioned images to add, the first in a fixed shuffled order.
        slice: Which labelled images to take, and how they are worded.
        seed: Seed of weights, batches and augmentation.
    """

    training: TrainingConfig = TrainingConfig(steps=6000, lr=1e-3, warmup=300)
    augment: AugmentConfig = AugmentConfig()
    store_size: int = Field(96, ge=16)
    class_bank: bool = True
    caption_images: int = Field(3000, ge=0)
    slice: DataSlice = DataSlice()
    seed: int = 0


def augment_batch(
    images: torch.Tensor, generator: torch.Generator, *, size: int, config: AugmentConfig
) -> torch.Tensor:
    """Crops, jitters and disturbs a batch [N, 3, H, W] in [0, 1] to [N, 3, size, size]."""
    out = random_crops(images, size, min_scale=config.min_scale, generator=generator)
    if config.jitter:
        out = color_jitter(out, strength=config.jitter, generator=generator)
    if config.overlay:
        out = random_overlays(out, probability=config.overlay, generator=generator)
    return out


def pretrain(
    model: DualEncoder,
    problem: Path,
    config: PretrainConfig,
    *,
    state_file: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Trains `model` in place on a problem folder (see `data.problem`): train split and captions.

    Args:
        model: A model with random weights.
        problem: Folder with train/CLASS/* and, optionally, captions/captions.csv.
        config: Settings.
        state_file: Training state to resume from and to keep.
        on_step: Called with step and loss after every step.
    """
    images = load_images(problem, split="train")
    pairs = config.slice.pairs(images, model.tokenize, config.store_size, class_bank=config.class_bank)
    captions = problem / "captions" / "captions.csv"
    if captions.exists() and config.caption_images:
        chosen = sorted(read_captions(captions).items(), key=lambda item: name_hash(item[0].name))
        captioned = CaptionSet.from_files(dict(chosen[: config.caption_images]))
        pairs = join_pairs(pairs, pairs_from_captions(captioned, model.tokenize, config.store_size))
    augment = partial(augment_batch, size=model.image_size, config=config.augment)

    def make_batch(step: int) -> PairBatch:
        return pairs.batch(step, batch_size=config.training.batch_size, seed=config.seed, augment=augment)

    train_contrastive(
        model, make_batch, config.training, description="training", state_file=state_file, on_step=on_step
    )

"""CleanCLIP-style clean fine-tuning, the baseline that changes the encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.data.captions import pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import PairBatch
from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.held_out import clean_accuracy, hold_out
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.unfinished import next_part
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.streams import SECOND_VIEWS
from clip_antidote.training.augment import STORE_MARGIN, random_crops
from clip_antidote.training.finetune import finetune
from clip_antidote.training.loop import TrainingConfig
from clip_antidote.training.losses import two_view_info_nce


class CleanCLIPConfig(Config):
    """Settings of the clean fine-tuning.

    Attributes:
        training: The fine-tuning; batches of 64 as in the authors' release, which takes ten epochs at 1e-5. Its rate
            is that of no choice.
        rates: Learning rates to choose from: the one with the best accuracy on held-out shots, the largest of these
            where several are equal. Empty for the rate of `training`. Rates and choice are ours: these are an eighth
            to all of the rate of the attacks' own training.
        self_supervision: Weight of each of the two losses within a modality, where the release has ½; 0 is plain
            fine-tuning (FT).
        class_bank: Whether every batch also holds one caption of each class, as negatives.
        min_scale: Smallest crop as share of the area.
        seed: Seed of the batches.
    """

    training: TrainingConfig = TrainingConfig(steps=100, batch_size=64, lr=4e-4, warmup=10)
    rates: tuple[Annotated[float, Field(gt=0)], ...] = (1e-4, 2e-4, 4e-4, 8e-4)
    self_supervision: float = Field(1.0, ge=0)
    class_bank: bool = True
    min_scale: float = Field(0.5, gt=0, le=1)
    seed: int = 0

    def at_rate(self, rate: float) -> Self:
        """The same settings with another learning rate."""
        return self.model_copy(update={"training": self.training.model_copy(update={"lr": rate})})


class FineTuningConfig(CleanCLIPConfig):
    """The same without self-supervision."""

    self_supervision: float = Field(0.0, ge=0)


def cleanclip(
    model: DualEncoder,
    images: LabelledImages,
    config: CleanCLIPConfig | None = None,
    *,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    state_file: Path | None = None,
) -> ZeroShotClassifier:
    """Fine-tunes a copy of the suspect on clean pairs and returns its hand-written classifier.

    Bansal et al. 2023 (arXiv 2303.03323): InfoNCE between images and captions, plus InfoNCE between two
    views of every image and between two wordings of every caption, so that what only the poisoned pairs
    tied together comes apart. Another template with the same class name is the other wording here.

    Args:
        model: The suspect; left as it is.
        images: Clean labelled images.
        config: Settings.
        templates: Captions of the pairs, with {} for the class name.
        state_file: Training state to resume from and to keep.
    """
    config = config or CleanCLIPConfig()
    size = round(model.image_size * STORE_MARGIN)
    pairs = pairs_from_labels(
        images, model.tokenize, size, mode=model.resize_mode, templates=templates, class_bank=config.class_bank
    )
    tuned = copy.deepcopy(model).requires_grad_(True)
    wordings = pairs.token_ids.long().view(len(images.classes), len(templates), -1)

    def within_modalities(step: int, batch: PairBatch) -> torch.Tensor:
        generator = SECOND_VIEWS.generator(config.seed, step)
        again = random_crops(batch.images, model.image_size, min_scale=config.min_scale, generator=generator)
        first, second = (tuned.encode_images(x.to(tuned.device)) for x in (batch.images, again))
        loss = two_view_info_nce(first, second, tuned.logit_scale)
        chosen = torch.randint(len(templates), (2, len(wordings)), generator=generator)
        rows = torch.arange(len(wordings))
        first, second = (tuned.encode_token_ids(wordings[rows, pick].to(tuned.device)) for pick in chosen)
        return config.self_supervision * (loss + two_view_info_nce(first, second, tuned.logit_scale))

    finetune(
        tuned,
        pairs,
        config.training,
        min_scale=config.min_scale,
        seed=config.seed,
        extra_loss=within_modalities if config.self_supervision else None,
        description="clean fine-tuning",
        state_file=state_file,
    )
    return ZeroShotClassifier.from_templates(tuned.requires_grad_(False), images.classes, templates)


class CleanCLIP(Defense):
    """`cleanclip` with the learning rate that does best on held-out shots, then on all shots."""

    profile = PROFILES["cleanclip"]
    config_class = CleanCLIPConfig

    def apply(self, given: Given) -> Outcome:
        config: CleanCLIPConfig = self.config
        rate, tried = config.training.lr, {}
        if config.rates:
            kept, held = hold_out(given.shots, seed=config.seed)
            for candidate in sorted(config.rates):
                made = cleanclip(given.model, kept, config.at_rate(candidate), state_file=next_part())
                tried[f"{candidate:g}"] = clean_accuracy(made, held)
                if tried[f"{candidate:g}"] == max(tried.values()):
                    rate = candidate
        classifier = cleanclip(given.model, given.shots, config.at_rate(rate), state_file=next_part())
        trained = sum(parameter.numel() for parameter in given.model.parameters())
        details: dict[str, Any] = {"learning_rate": rate, "held_out_accuracy": tried}
        return Outcome(classifier, trained, details)


class FineTuning(CleanCLIP):
    """Without self-supervision: plain fine-tuning (FT)."""

    profile = PROFILES["finetune"]
    config_class = FineTuningConfig

"""NAD, neural attention distillation (Li et al. 2021, arXiv 2101.05930), on the image tower."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.tower_tuning import ShotsConfig, ShotTask, count, descend
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.image_tower import image_parameters, recorded, stages
from clip_antidote.prompts.classifier import ZeroShotClassifier


class NADConfig(ShotsConfig):
    """Settings; where a source is named, it is the authors' release.

    Attributes:
        teacher_steps: Steps that fine-tune the teacher.
        steps: Steps that distill it into the student.
        lr: Learning rate of AdamW, ours; the release takes SGD at 0.1, from the third epoch on at 0.01.
        weight: β, the weight of the distance of attention maps, ours; the release takes 500, 1000 and 1000 from the
            lowest of three stages to the highest, for a mean over places, here it is a sum over them.
        power: p of the attention map, a mean over channels of |a|^p; 2 as in the release.
        stages: From how many of the last stages (blocks of a ViT) attention is taken; 3 as in the release.
    """

    teacher_steps: int = Field(60, ge=1)
    steps: int = Field(100, ge=1)
    lr: float = Field(1e-4, gt=0)
    weight: float = Field(5.0, ge=0)
    power: float = Field(2.0, gt=0)
    stages: int = Field(3, ge=1)


def attention(activation: torch.Tensor, power: float) -> torch.Tensor:
    """Where a layer looks: channels of [N, C, h, w], or of tokens [N, L, C], summed up as |a|^p, unit rows [N, P]."""
    channels = 1 if activation.ndim == 4 else 2
    return F.normalize(activation.abs().pow(power).mean(dim=channels).flatten(1), dim=1)


class NAD(Defense):
    """Fine-tunes a copy on clean images as teacher, and draws the attention of the suspect to that of the teacher."""

    profile = PROFILES["nad"]
    config_class = NADConfig

    def apply(self, given: Given) -> Outcome:
        config: NADConfig = self.config
        task = ShotTask(given.model, given.shots, config)
        teacher = self._trainable(given.model)
        with teacher.evaluating():
            descend(
                torch.optim.AdamW(image_parameters(teacher), lr=config.lr),
                lambda step: task.loss(teacher, *task.batch(step)),
                steps=config.teacher_steps,
                description="NAD, the teacher",
            )
        student, offset = self._trainable(given.model), config.teacher_steps
        teacher.requires_grad_(False)

        def loss_of(step: int) -> torch.Tensor:
            images, labels = task.batch(offset + step)
            with torch.no_grad():
                _, wanted = self._seen(teacher, images)
            features, found = self._seen(student, images)
            distance = torch.stack(
                [(a - b).square().sum(dim=1).mean() for a, b in zip(found, wanted, strict=True)]
            ).sum()
            return F.cross_entropy(task.logits(features), labels) + config.weight * distance

        with student.evaluating(), teacher.evaluating():
            optimizer = torch.optim.AdamW(image_parameters(student), lr=config.lr)
            descend(optimizer, loss_of, steps=config.steps, description="NAD, distilling")
        classifier = ZeroShotClassifier(
            student.requires_grad_(False), task.weights.T.contiguous(), given.shots.classes
        )
        return Outcome(classifier, 2 * count(image_parameters(student)))

    def _trainable(self, model: DualEncoder) -> DualEncoder:
        copied = copy.deepcopy(model).requires_grad_(False)
        for parameter in image_parameters(copied):
            parameter.requires_grad_(True)
        return copied

    def _seen(self, model: DualEncoder, images: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Unit features, and the attention maps of the last stages."""
        config: NADConfig = self.config
        with recorded(stages(model)[-config.stages :]) as outputs:
            features = model.encode_images(images)
        return features, [attention(output, config.power) for output in outputs]

"""A model with fixed class weights: the zero-shot classifier as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import nn

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.other_views import Look, encode_views
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights


class Answer(NamedTuple):
    """What a classifier says of N images.

    Attributes:
        logits: Logits [N, C].
        triggered: Whether a gate stopped the image, bool [N]; never without gates.
    """

    logits: torch.Tensor
    triggered: torch.Tensor


class ZeroShotClassifier(nn.Module):
    """Classifies images by their similarity to one text feature per class.

    Args:
        model: The model; left as it is, and shared with the caller.
        classifier: Class weights [D, C], unit columns, in the order of `classes`.
        classes: Class names.

    Attributes:
        classifier: As given; what open_clip's zero-shot helpers call the zero-shot weights.
    """

    def __init__(self, model: DualEncoder, classifier: torch.Tensor, classes: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.classes = tuple(classes)
        self.register_buffer("classifier", classifier)
        self.classifier: torch.Tensor

    @classmethod
    def from_templates(
        cls, model: DualEncoder, classes: Sequence[str], templates: Sequence[str] = IMAGENET_TEMPLATES
    ) -> Self:
        """Makes the hand-written classifier, see `zero_shot_weights`."""
        return cls(model, zero_shot_weights(model, classes, templates).T.contiguous(), classes)

    @property
    def weights(self) -> torch.Tensor:
        """Class weights [C, D], one row per class."""
        return self.classifier.T.contiguous()

    def answer(self, features: torch.Tensor, look: Look | None = None) -> Answer:
        """Answers unit image features [N, D]: what `forward`, evaluation and export call once.

        Args:
            features: Unit features.
            look: Gives a second look at the images; not needed here, but by heads that ask for it.
        """
        scale = self.model.logit_scale.detach()
        logits = self.biased(scale * features.to(self.classifier) @ self.classifier)
        return Answer(logits, torch.zeros_like(logits[:, 0], dtype=torch.bool))

    def biased(self, logits: torch.Tensor) -> torch.Tensor:
        """Adds the bias that sigmoid models have."""
        bias = self.model.logit_bias
        return logits if bias is None else logits + bias.detach()

    def logits(self, features: torch.Tensor, look: Look | None = None) -> torch.Tensor:
        """Logits [N, C] of unit image features [N, D], see `answer`."""
        return self.answer(features, look).logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classifies images. Gradients reach the images, but not the model.

        Args:
            images: Float [N, 3, H, W] in [0, 1], of any size; resized and cropped inside.

        Returns:
            Logits [N, C] in the order of `classes`.
        """
        fitted = self.model.fit_images(images)
        with self.model.frozen():
            features = self.model.encode_images(fitted)
            return self.answer(features, lambda rows: encode_views(self.model, fitted[rows])).logits

    def predict(self, images: torch.Tensor) -> list[str]:
        """Returns the class names called on images, see `forward`."""
        with torch.inference_mode():
            return [self.classes[i] for i in self(images).argmax(-1).tolist()]

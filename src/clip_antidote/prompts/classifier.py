"""A model with fixed class weights: the zero-shot classifier as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.other_views import Look, encode_views
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights


class ZeroShotClassifier(nn.Module):
    """Classifies images by their similarity to one text feature per class.

    Args:
        model: The model; frozen by this.
        classifier: Class weights [D, C], unit columns, in the order of `classes`.
        classes: Class names.

    Attributes:
        classifier: As given; what open_clip's zero-shot helpers call the zero-shot weights.
    """

    def __init__(self, model: DualEncoder, classifier: torch.Tensor, classes: Sequence[str]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.register_buffer("classifier", classifier)
        self.classifier: torch.Tensor

    @classmethod
    def from_templates(
        cls, model: DualEncoder, classes: Sequence[str], templates: Sequence[str] = IMAGENET_TEMPLATES
    ) -> Self:
        """Makes the hand-written classifier, see `zero_shot_weights`."""
        return cls(model, zero_shot_weights(model, classes, templates).T.contiguous(), classes)

    def logits(self, features: torch.Tensor, look: Look | None = None) -> torch.Tensor:
        """Logits [N, C] of unit image features [N, D].

        Args:
            features: Unit features.
            look: Gives a second look at the images; not needed here, but by heads that ask for it.
        """
        out = self.model.logit_scale * features.to(self.classifier) @ self.classifier
        bias = self.model.logit_bias
        return out if bias is None else out + bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            images: Float [N, 3, H, W] in [0, 1], of any size; resized and cropped inside.

        Returns:
            Logits [N, C] in the order of `classes`.
        """
        fitted = self.model.fit_images(images)
        return self.logits(self.model.encode_images(fitted), lambda rows: encode_views(self.model, fitted[rows]))

    def predict(self, images: torch.Tensor) -> list[str]:
        """Returns the class names called on images, see `forward`."""
        with torch.inference_mode():
            return [self.classes[i] for i in self(images).argmax(-1).tolist()]

"""A model with fixed class weights: the zero-shot classifier as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clip_antidote.errors import UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import LayerFeatures, LayersAt
from clip_antidote.models.other_views import Look, encode_views
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights

_SLACK = 0.01
"""What an image may be outside of [0, 1], as resizing and rounding leave it."""


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
        self.training = False  # it answers in evaluation mode, always; tools that ask for the mode may know

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

    def answer(self, features: torch.Tensor, look: Look | None = None, layers: LayersAt | None = None) -> Answer:
        """Answers unit image features [N, D]: what `forward`, evaluation and export call once.

        Args:
            features: Unit features.
            look: Gives a second look at the images; not needed here, but by heads that ask for it.
            layers: Gives what inner layers say of the images; the same.
        """
        scale = self.model.logit_scale.detach()
        logits = self.biased(scale * features.to(self.classifier) @ self.classifier)
        return Answer(logits, torch.zeros_like(logits[:, 0], dtype=torch.bool))

    def biased(self, logits: torch.Tensor) -> torch.Tensor:
        """Adds the bias that sigmoid models have."""
        bias = self.model.logit_bias
        return logits if bias is None else logits + bias.detach()

    @property
    def reads_layers(self) -> bool:
        """Whether `answer` asks for inner layers."""
        return False

    def encode(self, images: torch.Tensor) -> LayerFeatures:
        """Encodes fitted images [N, 3, S, S] in [0, 1] to all that `answer` asks for, in one pass."""
        if self.reads_layers:
            return self.model.encode_layers(images)
        return LayerFeatures([], self.model.encode_images(images))

    def logits(
        self, features: torch.Tensor, look: Look | None = None, layers: LayersAt | None = None
    ) -> torch.Tensor:
        """Logits [N, C] of unit image features [N, D], see `answer`."""
        return self.answer(features, look, layers).logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classifies images. Gradients reach the images, but not the model.

        They are those of the logits that are returned: of the clean prompts where no gate stops the image, of its
        other views (computed in bf16 where the device has it) where one does, of the tuned prompts where there is no
        second look. Which of these it is, a gate decides by a comparison, which has no gradient (docs/tools.md).

        Args:
            images: Float [N, 3, H, W] in [0, 1], of any size; resized and cropped inside.

        Returns:
            Logits [N, C] in the order of `classes`.
        """
        fitted = self.model.fit_images(images)
        with self.model.frozen():
            encoded = self.encode(fitted)
            return self.logits(encoded.final, lambda rows: encode_views(self.model, fitted[rows]), encoded.at)

    @property
    def classes_(self) -> npt.NDArray[np.str_]:
        """Class names [C] as scikit-learn has them, in the order of the columns of `predict_proba`; not sorted."""
        return np.array(self.classes)

    def predict(self, images: torch.Tensor | npt.NDArray[Any]) -> list[str]:
        """Returns the class names called on images, see `predict_proba`."""
        with torch.inference_mode():
            return [self.classes[i] for i in self(self._given(images)).argmax(-1).tolist()]

    def predict_proba(self, images: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns class probabilities as scikit-learn does: the softmax of the logits of `forward`.

        They are as sure as the model's logit scale makes them and not calibrated: compare them with each other, or
        fit a temperature on images of your own. Where a gate stops an image, they are those of the answer that
        follows, by other views of it or by the tuned prompts; the target that it was called gets the least of all.

        Args:
            images: Floats [N, 3, H, W] in [0, 1], of any size, as a tensor or an array.

        Returns:
            Float32 [N, C], rows add up to 1, columns in the order of `classes_`.

        Raises:
            UsageError: These are no such images.
        """
        with torch.inference_mode():
            probabilities = self(self._given(images)).float().softmax(dim=-1)
        return probabilities.cpu().numpy()

    def _given(self, images: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
        """What callers hand over, as floats where the model is.

        Raises:
            UsageError: These are no images [N, 3, H, W] of floats in [0, 1].
        """
        given = torch.as_tensor(images)
        if given.ndim != 4 or given.shape[1] != 3 or not given.numel():
            raise UsageError(f"images must have the shape [N, 3, H, W], not {list(given.shape)}; make it so")
        if not given.is_floating_point():
            kind = str(given.dtype).removeprefix("torch.")
            raise UsageError(f"images must be floats in [0, 1], not {kind}; divide them by 255")
        if not (given.min() >= -_SLACK and given.max() <= 1 + _SLACK):  # NaN is neither
            ends = f"from {float(given.min()):g} to {float(given.max()):g}"
            raise UsageError(f"images must lie in [0, 1], these reach {ends}; the model normalizes them itself")
        return given.to(self.classifier)

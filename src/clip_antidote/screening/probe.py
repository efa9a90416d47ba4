"""Images as scores look at them: what one score has encoded is there for the next, and counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layer_encoding import encode_layers_of
from clip_antidote.models.layers import LayerFeatures
from clip_antidote.precision import autocast
from clip_antidote.progress import track


class Probe:
    """N images and what has been encoded of them.

    Args:
        model: The model, in evaluation mode.
        images: Float [N, 3, S, S] in [0, 1], N at least 1.
    """

    def __init__(self, model: DualEncoder, images: torch.Tensor) -> None:
        self.model = model
        self.images = images
        self._kept: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def layers(self) -> LayerFeatures:
        """Features of the images as they are, at all stages."""
        return encode_layers_of(self.model, self.images)

    @property
    def encodings(self) -> int:
        """How many encodings an image has cost beside the one that every image costs."""
        return sum(features.shape[1] for features in self._kept.values())

    @torch.no_grad()
    def changed(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Encodes changed forms of the images, in the precision of the second look; once for every name.

        Args:
            name: Names the change.
            change: From float images [n, 3, S, S] in [0, 1] to K forms of each, [n, K, 3, S, S] in [0, 1].

        Returns:
            Unit features [N, K, D].
        """
        if name not in self._kept:
            parts = []
            batches = self.images.split(16)
            with autocast(self.model.device, "auto"):
                for part in track(batches, name, total=len(batches)):
                    forms = change(part.to(self.model.device))
                    features = self.model.encode_images(forms.flatten(0, 1))
                    parts.append(features.unflatten(0, forms.shape[:2]).float().cpu())
            self._kept[name] = torch.cat(parts)
        return self._kept[name]

"""Features of all stages of an image tower, of images in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import LayerFeatures, whole_parts
from clip_antidote.precision import Precision, autocast
from clip_antidote.progress import track

BATCH = 128


@torch.no_grad()
def encode_layers_of(
    model: DualEncoder,
    images: torch.Tensor,
    *,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    precision: Precision = "fp32",
    description: str = "layers",
) -> LayerFeatures:
    """Encodes images to the features of all stages, on the CPU.

    Args:
        model: The model.
        images: Float [N, 3, S, S] in [0, 1], or uint8; N at least 1.
        transform: What is done to a batch in [0, 1] before.
        precision: What the image encoder runs in.
        description: Label of the progress bar.
    """
    parts = []
    batches = images.split(BATCH)
    for part in track(batches, description, total=len(batches)):
        batch = part.to(model.device)
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        with autocast(model.device, precision):
            found = model.encode_layers(transform(batch) if transform is not None else batch)
        parts.append(LayerFeatures([stage.cpu() for stage in found.stages], found.final.cpu()))
    return whole_parts(parts)

"""Encoding many images in memory, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast in bf16, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.no_grad()
def encode_uint8(
    model: DualEncoder,
    images: torch.Tensor,
    *,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    precision: str = "fp32",
    batch_size: int = 128,
    description: str = "encoding",
) -> torch.Tensor:
    """Encodes uint8 images [N, 3, S, S] to unit features [N, D], after an optional transform in [0, 1]."""
    parts = []
    batches = images.split(batch_size)
    for part in track(batches, description, total=len(batches)):
        batch = part.to(model.device).float() / 255
        with autocast(model.device, precision):
            parts.append(model.encode_images(transform(batch) if transform is not None else batch))
    return torch.cat(parts)

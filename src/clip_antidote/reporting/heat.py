"""A heat map laid over its image."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch


def heat_overlay(image: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Lays a heat map over a gray copy of its image: dark violet where nothing is, yellow where it is hottest.

    Args:
        image: Float [3, S, S] in [0, 1].
        heat: [S, S] in [0, 1].

    Returns:
        Float [3, S, S] in [0, 1].

    Raises:
        ValueError: The shapes do not fit.
    """
    if image.ndim != 3 or image.shape[0] != 3 or heat.shape != image.shape[1:]:
        raise ValueError(f"a heat map {tuple(heat.shape)} does not fit an image {tuple(image.shape)}")
    values = np.clip(heat.detach().cpu().numpy(), 0, 1)
    colors = torch.from_numpy(matplotlib.colormaps["inferno"](values)[..., :3]).permute(2, 0, 1).to(torch.float32)
    gray = image.detach().float().cpu().mean(dim=0, keepdim=True)
    return (0.45 * gray + 0.55 * colors).clamp(0, 1)

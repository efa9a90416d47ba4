"""One gate: a linear discriminant between the target's clean images and what dummy triggers make."""

from __future__ import annotations

import torch
from torch import nn


class Gate(nn.Module):
    """The guard of one suspected target, on features of one place.

    Args:
        directions: One direction per family of dummy triggers [D, G].
        offsets: Subtracted from the projections [G].
        target: Class index of the suspected target.
    """

    def __init__(self, directions: torch.Tensor, offsets: torch.Tensor, target: int) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("offsets", offsets)
        self.directions: torch.Tensor
        self.offsets: torch.Tensor
        self.target = target

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """How much unit features [N, D] are like the target's clean images: the least of all families, [N]."""
        return (features @ self.directions - self.offsets).amin(dim=1)

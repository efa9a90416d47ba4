"""Test images that are looked at again: other views of them, or what inner layers say, encoded when asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.other_views import encode_views
from clip_antidote.progress import track

KEPT = 2**28
"""Numbers that are kept of inner layers at most (1 GiB); what is beyond is encoded again when it is asked for."""


class SeenAgain:
    """Something of test images that is encoded when it is asked for, and kept.

    Args:
        model: The model.
        images: The test images.
        batch_size: Images per batch.
        change: Puts the trigger on a batch, given its number.
        encode: Encodes images [n, 3, S, S] in [0, 1] to rows [n, …].
        description: Label of the progress bar.
        most: Numbers that are kept at most.
    """

    def __init__(
        self,
        model: DualEncoder,
        images: LabelledImages,
        batch_size: int,
        change: Callable[[torch.Tensor, int], torch.Tensor],
        *,
        encode: Callable[[torch.Tensor], torch.Tensor],
        description: str,
        most: float = float("inf"),
    ) -> None:
        self.model = model
        self.images = images
        self.batch_size = batch_size
        self.change = change
        self.encode = encode
        self.description = description
        self.most = most
        self.known: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns what was encoded of the images at `rows` [n], as [n, …]."""
        asked = rows.tolist()
        missing = torch.tensor(sorted({row for row in asked if row not in self.known}), dtype=torch.long)
        numbers = (missing // self.batch_size).unique().tolist()
        found: dict[int, torch.Tensor] = {}
        for number in track(numbers, self.description, total=len(numbers)):
            first = number * self.batch_size
            part = self.images.subset(range(first, min(first + self.batch_size, len(self.images))))
            batch = part.tensor(self.model.image_size, mode=self.model.resize_mode).float() / 255
            batch = self.change(batch.to(self.model.device), number)
            wanted = missing[missing // self.batch_size == number]
            found.update(zip(wanted.tolist(), self.encode(batch[wanted - first]).cpu(), strict=True))
        picked = torch.stack([found[row] if row in found else self.known[row] for row in asked])
        for row, value in found.items():
            if (len(self.known) + 1) * value.numel() <= self.most:
                self.known[row] = value
        return picked.to(rows.device)


def second_look(
    model: DualEncoder,
    images: LabelledImages,
    batch_size: int,
    change: Callable[[torch.Tensor, int], torch.Tensor],
) -> SeenAgain:
    """Gives unit features [n, K, D] of other views of test images."""
    return SeenAgain(
        model, images, batch_size, change, encode=lambda part: encode_views(model, part), description="second look"
    )


class InnerLook:
    """Gives features of every stage of test images at rows [n], [n, D_l] each.

    Args:
        model: The model; its stages are known.
        images: The test images.
        batch_size: Images per batch.
        change: Puts the trigger on a batch, given its number.
    """

    def __init__(
        self,
        model: DualEncoder,
        images: LabelledImages,
        batch_size: int,
        change: Callable[[torch.Tensor, int], torch.Tensor],
    ) -> None:
        self.model = model
        self.widths: list[int] = []
        self.again = SeenAgain(
            model, images, batch_size, change, encode=self._encoded, description="inner layers", most=KEPT
        )

    def _encoded(self, images: torch.Tensor) -> torch.Tensor:
        stages = self.model.encode_layers(images).stages
        self.widths = [stage.shape[1] for stage in stages]
        return torch.cat(stages, dim=1)

    def __call__(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features of every stage of the images at `rows` [n], n at least 1."""
        together = self.again(rows)
        return list(together.split(self.widths, dim=1))

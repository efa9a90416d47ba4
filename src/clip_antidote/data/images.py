"""Labelled images: a class per folder, a CSV, or tensors; few-shot sampling."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clip_antidote.data.sources import ImageSource
from clip_antidote.errors import DataError


def resize_image(image: Image.Image, size: int, *, mode: str = "shortest") -> torch.Tensor:
    """Resizes like open_clip's evaluation transform and crops the center.

    Args:
        image: RGB image of any size.
        size: Side of the result in pixels.
        mode: "shortest" (resize the short side, crop the center) or "squash".

    Returns:
        uint8 tensor 3×size×size.
    """
    target = [size] if mode == "shortest" else [size, size]
    resized = vision.resize(image, target, interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: torch.Tensor = vision.pil_to_tensor(vision.center_crop(resized, [size, size]))
    return cropped


def decoder_threads() -> int:
    """How many threads decode images; the decoders let go of the interpreter while they work."""
    return min(8, os.cpu_count() or 1)


def decode_images(source: ImageSource, size: int, *, mode: str = "shortest") -> torch.Tensor:
    """Decodes and resizes all images of a source to uint8 [N, 3, size, size]."""
    out = torch.empty(len(source), 3, size, size, dtype=torch.uint8)

    def load(index: int) -> None:
        out[index] = resize_image(source.read(index), size, mode=mode)

    with ThreadPoolExecutor(max_workers=decoder_threads()) as pool:
        list(pool.map(load, range(len(source))))
    return out


@dataclass(frozen=True)
class LabelledImages:
    """Images with class labels.

    Attributes:
        source: Where the images are decoded from, N of them.
        labels: int64 [N], index into `classes`.
        classes: Class names in label order.
    """

    source: ImageSource
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.source) != len(self.labels):
            raise DataError(f"{len(self.source)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """What every image is called in its source, in order; see `ImageSource.name`."""
        return [self.source.name(i) for i in range(len(self))]

    def subset(self, indices: Sequence[int] | torch.Tensor) -> LabelledImages:
        """Returns the images at `indices`, in that order, with the same classes."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return LabelledImages(SubsetSource(self.source, chosen.tolist()), self.labels[chosen], self.classes)

    def without(self, others: LabelledImages) -> LabelledImages:
        """Returns the images that are not among `others`, by their names, in their order."""
        left_out = set(others.names)
        return self.subset([i for i, name in enumerate(self.names) if name not in left_out])

    def tensor(self, size: int, *, mode: str = "shortest") -> torch.Tensor:
        """Decodes and resizes all images to uint8 [N, 3, size, size]."""
        return decode_images(self.source, size, mode=mode)

    def example(self, size: int, *, mode: str = "shortest") -> torch.Tensor:
        """The first image, float [3, size, size] in [0, 1]: for pictures of triggers."""
        return self.subset([0]).tensor(size, mode=mode)[0].float() / 255

    def batches(
        self, size: int, batch_size: int = 256, *, mode: str = "shortest"
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields float images [n, 3, size, size] in [0, 1] and their labels, in order."""
        for start in range(0, len(self), batch_size):
            part = self.subset(range(start, min(start + batch_size, len(self))))
            yield part.tensor(size, mode=mode).float() / 255, part.labels

    def at_most(self, most: int | None, *, seed: int = 0) -> LabelledImages:
        """Draws at most `most` images, in their order; all of them with None."""
        if most is None or most >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:most].sort().values)

    def sample_shots(self, shots: int, *, seed: int = 0) -> LabelledImages:
        """Draws `shots` images of every class, without replacement.

        Raises:
            DataError: A class has fewer images than `shots`.
        """
        if shots < 1:
            raise DataError(f"shots must be at least 1, got {shots}")
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for label, name in enumerate(self.classes):
            pool = (self.labels == label).nonzero().flatten()
            if len(pool) < shots:
                raise DataError(
                    f"class '{name}' has {len(pool)} images, fewer than the {shots} shots asked for; "
                    "add images or lower --shots"
                )
            chosen.append(pool[torch.randperm(len(pool), generator=generator)[:shots]])
        return self.subset(torch.cat(chosen))


class SubsetSource:
    """A view of some images of another source."""

    def __init__(self, base: ImageSource, indices: list[int]) -> None:
        self.base: ImageSource = base
        self.indices = indices
        if isinstance(base, SubsetSource):  # views stay one level deep
            self.base = base.base
            self.indices = [base.indices[i] for i in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Image.Image:
        return self.base.read(self.indices[index])

    def name(self, index: int) -> str:
        return self.base.name(self.indices[index])

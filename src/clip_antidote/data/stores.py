"""Pixels of training images: all in memory, or decoded when a batch asks for them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from clip_antidote.data.images import decode_images, decoder_threads, resize_image
from clip_antidote.data.sources import ImageSource
from clip_antidote.errors import DataError

MEMORY_LIMIT = 2 * 2**30
"""Images that need more bytes than this once decoded are decoded on demand."""


class ImageStore(Protocol):
    """N images, asked for by their indices; a uint8 tensor [N, 3, S, S] is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        """Returns the images at `indices`, int64 [B], as uint8 [B, 3, S, S]."""
        ...


class LazyImages:
    """Images decoded and resized anew whenever they are asked for, by a few threads.

    Args:
        source: Where they come from.
        size: Side in pixels.
        mode: How they are resized, see `resize_image`.
    """

    def __init__(self, source: ImageSource, size: int, *, mode: str = "shortest") -> None:
        self.source = source
        self.size = size
        self.mode = mode
        self._pool = ThreadPoolExecutor(max_workers=decoder_threads())
        self._begun: dict[int, Future[torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        begun, self._begun = self._begun, {}
        images = [begun[i] if i in begun else self._pool.submit(self._decode, i) for i in indices.tolist()]
        if not images:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return torch.stack([image.result() for image in images])

    def prefetch(self, indices: torch.Tensor) -> None:
        """Begins to decode what the next call will ask for; returns at once."""
        self._begun = {i: self._pool.submit(self._decode, i) for i in indices.tolist()}

    def _decode(self, index: int) -> torch.Tensor:
        return resize_image(self.source.read(index), self.size, mode=self.mode)


class JoinedImages:
    """Two stores, one behind the other."""

    def __init__(self, first: ImageStore, second: ImageStore) -> None:
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        own = indices < len(self.first)
        first, second = self.first[indices[own]], self.second[indices[~own] - len(self.first)]
        out = first.new_empty(len(indices), *first.shape[1:])
        out[own], out[~own] = first, second
        return out

    def prefetch(self, indices: torch.Tensor) -> None:
        """See `LazyImages.prefetch`."""
        own = indices < len(self.first)
        prefetch(self.first, indices[own])
        prefetch(self.second, indices[~own] - len(self.first))


class ReplacedImages:
    """A store in which some images are replaced by others.

    Args:
        images: The store.
        rows: Which are replaced, int64 [R].
        others: What stands in their place, uint8 [R, 3, S, S].
    """

    def __init__(self, images: ImageStore, rows: torch.Tensor, others: torch.Tensor) -> None:
        self.images = images
        self.others = others
        self._place = torch.full((len(images),), -1, dtype=torch.long)
        self._place[rows] = torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        out, place = self.images[indices], self._place[indices]
        out[place >= 0] = self.others[place[place >= 0]]
        return out

    def prefetch(self, indices: torch.Tensor) -> None:
        """See `LazyImages.prefetch`."""
        prefetch(self.images, indices)


def store_images(source: ImageSource, size: int, *, mode: str = "shortest") -> ImageStore:
    """Decodes all images into memory, or on demand where they would need more than `MEMORY_LIMIT`."""
    if len(source) * 3 * size * size > MEMORY_LIMIT:
        return LazyImages(source, size, mode=mode)
    return decode_images(source, size, mode=mode)


def join_stores(first: ImageStore, second: ImageStore) -> ImageStore:
    """Puts two stores together; two tensors become one.

    Raises:
        DataError: Their images differ in size.
    """
    none = torch.zeros(0, dtype=torch.long)
    shapes = [tuple(store[none].shape[1:]) for store in (first, second)]
    if shapes[0] != shapes[1]:
        raise DataError(f"images of {shapes[0]} and {shapes[1]} cannot be trained on together")
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.cat([first, second])
    return JoinedImages(first, second)


def prefetch(store: ImageStore, indices: torch.Tensor) -> None:
    """Begins to decode where the store does so on demand."""
    if isinstance(store, LazyImages | JoinedImages):
        store.prefetch(indices)

"""Where images come from: files, a tar archive, or a tensor; all are read as RGB."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as vision

from clip_antidote.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
"""Names of files that are taken for images."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")
"""What such files may hold."""

MAX_PIXELS = 89_478_485
"""From here on Pillow warns of a decompression bomb: a quarter of a gigabyte as RGB, in each of several threads."""

MAX_RATIO = 100
"""Longest side to the shortest: resizing gives the short side the model's length, and the long one grows with it."""


class ImageSource(Protocol):
    """A sequence of images, decoded one at a time."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Returns image `index` as RGB; raises `DataError` where it cannot be decoded."""
        ...

    def name(self, index: int) -> str:
        """Returns a stable name of image `index` for messages and reports."""
        ...


def decode_image(data: bytes | Path, name: str, *, max_pixels: int | None = None) -> Image.Image:
    """Decodes one image file to RGB, upright; every image comes in through here.

    Only the formats that `IMAGE_SUFFIXES` promises are tried, whatever the name says: others of Pillow's readers
    start programs (Ghostscript for EPS) or have seen few eyes. Phones store photographs as the sensor saw them and
    say in the EXIF tag Orientation how they are meant; that is followed, as browsers and photo viewers do.

    Args:
        data: The file's bytes, or its path.
        name: What to call it in an error message.
        max_pixels: A limit below `MAX_PIXELS`.

    Raises:
        DataError: The file is missing, is not a readable image of these formats, or is too large or too long.
    """
    most = MAX_PIXELS if max_pixels is None else min(max_pixels, MAX_PIXELS)
    try:
        if isinstance(data, Path) and data.exists() and not data.is_file():  # a pipe would be waited for
            raise DataError(f"cannot read image {name}: it is no regular file; remove it")
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=IMAGE_FORMATS) as image:
            _check_size(image, name, most)
            image.load()
            _turn_upright(image)
            return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_too_large(name, most)) from error
    except DataError:
        raise
    except Exception as error:  # a crafted file can make a decoder fail in any way
        raise DataError(
            f"cannot read image {name}: {type(error).__name__}; remove it or replace it by a valid image file"
        ) from error


def _turn_upright(image: Image.Image) -> None:
    """Turns or mirrors an image in place as its EXIF orientation says; without one, nothing happens."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # EXIF that cannot be read, or written anew without the tag, is no fault of the pixels
        return


def _check_size(image: Image.Image, name: str, most: int) -> None:
    """Refuses an image by its header, before any pixel is decoded."""
    short, long = sorted(image.size)
    if short * long > most:
        raise DataError(_too_large(name, most))
    if long > MAX_RATIO * short:
        raise DataError(
            f"cannot read image {name}: it is {image.width}×{image.height} pixels, longer than {MAX_RATIO} to 1; "
            "crop it or remove it"
        )


def _too_large(name: str, most: int) -> str:
    pixels = f"{most // 10**6} million" if most >= 10**6 else str(most)
    return f"cannot read image {name}: it has more than {pixels} pixels; scale it down or remove it"


class FileSource:
    """Image files on disk."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        return decode_image(self.paths[index], str(self.paths[index]))

    def name(self, index: int) -> str:
        return str(self.paths[index])


def tar_spans(path: Path) -> dict[str, tuple[int, int]]:
    """Where the members of an uncompressed tar archive lie in it: offset and length of each, in bytes."""
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}


class TarSource:
    """Members of one uncompressed tar archive (a webdataset shard is one).

    Args:
        path: The archive.
        members: Names of the images in it.
        spans: What `tar_spans` says of the archive, where it is known already.
    """

    def __init__(
        self, path: Path, members: Sequence[str], spans: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.path = path
        self.members = list(members)
        found = tar_spans(path) if spans is None else spans
        self._spans = [found[name] for name in self.members]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> Image.Image:
        offset, size = self._spans[index]
        with self.path.open("rb") as file:
            file.seek(offset)
            return decode_image(file.read(size), self.name(index))

    def name(self, index: int) -> str:
        return self.members[index]


class TensorSource:
    """Images already in memory, uint8 N×3×H×W."""

    def __init__(self, images: torch.Tensor, names: Sequence[str] | None = None) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"images must be uint8 N×3×H×W, got {images.dtype} {tuple(images.shape)}")
        self.images = images
        self._names = list(names) if names is not None else None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        image: Image.Image = vision.to_pil_image(self.images[index])
        return image

    def name(self, index: int) -> str:
        return self._names[index] if self._names is not None else f"image {index}"

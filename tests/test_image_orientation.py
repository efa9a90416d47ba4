"""Photographs as phones store them: turned as their EXIF orientation says, and only then."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageOps

from clip_antidote.data.folders import load_images
from clip_antidote.data.sources import decode_image

Pixels = npt.NDArray[np.uint8]

STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}
"""How a file holds an upright image, by its orientation: the standard says which side row 0 and column 0 are."""


def read(data: bytes) -> Pixels:
    return np.asarray(decode_image(data, "x"))


def upright() -> Pixels:
    """An image that has no symmetry: its colors tell where a pixel belongs, JPEG leaves them almost as they are."""
    rows, columns = np.mgrid[0:16, 0:24]
    return np.stack([rows * 15, columns * 10, 0 * rows], axis=-1).astype(np.uint8)


def stored(pixels: Pixels, orientation: Any = None, form: str = "PNG", **more: Any) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    out, lossless = io.BytesIO(), {"quality": 95, "lossless": True} if form in ("JPEG", "WEBP") else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, form, **{"exif": exif, **lossless, **more})
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_read_upright(orientation: int, form: str) -> None:
    wanted = upright()
    got = read(stored(STORED[orientation](wanted), orientation, form))
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= (12 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [None, 0, 1, 9, 65535])
def test_images_that_say_nothing_are_read_as_they_are(orientation: int | None) -> None:
    data = stored(upright(), orientation, "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"]
)
def test_broken_exif_is_no_fault_of_the_image(exif: bytes) -> None:
    with_exif, without = (stored(upright(), form="JPEG", exif=block) for block in (exif, b""))
    assert np.array_equal(read(with_exif), read(without))


def test_a_tag_that_cannot_be_written_anew_does_not_keep_an_image_from_being_turned() -> None:
    tags = b"MM\0*\0\0\0\x08" + b"\0\x02"
    tags += bytes.fromhex("0112 0003 00000001 0006 0000") + bytes.fromhex("0100 0002 00000004 ffff0000") + bytes(4)
    data = stored(STORED[6](upright()), exif=b"Exif\0\0" + tags)
    with pytest.raises(struct.error), Image.open(io.BytesIO(data)) as image:
        ImageOps.exif_transpose(image)
    assert np.array_equal(read(data), upright())


def test_folders_of_photographs_are_upright(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for orientation, store in STORED.items():
            file = tmp_path / "photos" / name / f"{orientation}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(stored(store(upright()), orientation))
    pixels = load_images(tmp_path / "photos").tensor(16)
    assert bool((pixels == pixels[:1]).all())

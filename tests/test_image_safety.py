"""Images as untrusted input: no reader but those promised, no program started, no bomb decoded."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clip_antidote.data import sources
from clip_antidote.data.folders import load_images
from clip_antidote.data.shards import read_shards
from clip_antidote.data.sources import IMAGE_FORMATS, MAX_RATIO, FileSource, TarSource, decode_image
from clip_antidote.errors import DataError

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""


def encoded(form: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 20, 30)).save(buffer, form)
    return buffer.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG that says it is so large and holds a byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def packed(path: Path, data: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in (("1.png", data), ("1.txt", b"a caption")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def from_file(folder: Path, data: bytes) -> Image.Image:
    (folder / "1.png").write_bytes(data)
    return FileSource([folder / "1.png"]).read(0)


def from_tar(folder: Path, data: bytes) -> Image.Image:
    return TarSource(packed(folder / "a.tar", data), ["1.png"]).read(0)


def from_shard(folder: Path, data: bytes) -> Image.Image:
    return read_shards([packed(folder / "b.tar", data)])[0].read(0)


WAYS = [from_file, from_tar, from_shard]
Way = Callable[[Path, bytes], Image.Image]


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_what_the_suffixes_promise_is_read_by_content(form: str, tmp_path: Path) -> None:
    for way in WAYS:
        image = way(tmp_path, encoded(form))
        assert (image.mode, image.size) == ("RGB", (8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_no_image_starts_a_program(way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: started.append(args))
    with pytest.raises(DataError, match=r"cannot read image .*1\.png"):
        way(tmp_path, EPS)
    assert not started


@pytest.mark.parametrize("form", ["GIF", "ICO", "PCX", "TGA", "JPEG2000", "SGI"])
def test_other_readers_are_not_tried(form: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="remove it or replace it by a valid image file"):
        from_file(tmp_path, encoded(form, (16, 16)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(10_000, 9_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_header(way: Way, size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png: it has more than 89 million pixels; scale it down or remove it"):
        way(tmp_path, declared_png(*size))


def test_the_limit_is_that_of_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS == sources.MAX_PIXELS
    monkeypatch.setattr(sources, "MAX_PIXELS", 64)
    assert decode_image(encoded("PNG"), "a").size == (8, 8)
    with pytest.raises(DataError, match="more than"):
        decode_image(encoded("PNG", (8, 9)), "a")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_warning_that_is_an_error_is_a_sentence_too() -> None:
    with pytest.raises(DataError, match="a: it has more than"):
        decode_image(declared_png(10_000, 9_000), "a")


@pytest.mark.parametrize("size", [(1, MAX_RATIO + 1), (20 * MAX_RATIO + 1, 20), (80_000_000, 1)])
def test_threads_of_pixels_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"1\.png: it is {size[0]}×{size[1]} pixels, longer than 100 to 1; crop it"):
        from_file(tmp_path, declared_png(*size))
    assert decode_image(encoded("PNG", (MAX_RATIO, 1)), "a").size == (MAX_RATIO, 1)


def test_a_pipe_is_not_waited_for(tmp_path: Path, photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: it is no regular file"):
        load_images(photos).tensor(8)


def test_damage_of_any_kind_is_a_sentence() -> None:
    for form in IMAGE_FORMATS:
        whole = encoded(form, (64, 64))
        for cut in (1, 8, 20, len(whole) // 2):
            with pytest.raises(DataError, match="cannot read image a"):
                decode_image(whole[:cut], "a")

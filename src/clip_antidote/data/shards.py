"""Image–caption pairs in webdataset shards: plain tar files, read in place.

A pair is two members that share a key, the path up to the first dot of its last part: `KEY.jpg`
(or jpeg, png, webp) and `KEY.txt`, or `KEY.json` with an entry "caption". Nothing is unpacked, and
names of members serve to pair them and in messages only.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from clip_antidote.data.shard_index import IMAGE_EXTENSIONS, Sample, Span, indexed
from clip_antidote.data.sources import decode_image
from clip_antidote.errors import DataError, UsageError
from clip_antidote.progress import track

_MAX_SHARDS = 1_000_000
_MAX_CAPTION = 2**16
_MAX_JSON = 2**20
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_shards(spec: str) -> bool:
    """Whether a path names shards: a .tar file, a pattern of them, or a folder."""
    return re.search(r"\.(tar(\.\w+)?|tgz)$", spec) is not None or Path(spec).is_dir()


def expand_shards(spec: str) -> list[Path]:
    """Finds the shards a path stands for.

    Args:
        spec: A file, a folder with *.tar, or a pattern with braces (`{00000..00331}`, `{a,b}`) or with
            the wildcards of a shell.

    Raises:
        DataError: There are none, or one that the braces name is missing.
        UsageError: The braces cannot be read.
    """
    if Path(spec).is_dir():
        found = sorted(Path(spec).glob("*.tar"))
        if not found:
            raise DataError(f"the folder {spec} has no shards; it should hold .tar files")
        return found
    paths: list[Path] = []
    for name in _expand_braces(spec):
        if glob.has_magic(name) and not Path(name).exists():
            matches = sorted(Path(match) for match in glob.glob(name))
            if not matches:
                raise DataError(f"no shard fits the pattern {name}")
            paths += matches
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            raise DataError(f"there is no shard {name}")
    return paths


def _expand_braces(spec: str) -> list[str]:
    pieces = _BRACES.split(spec)
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise UsageError(f"the braces of {spec} do not match; write them like shard-{{00000..00331}}.tar")
    choices: list[Sequence[str]] = []
    total = 1
    for position, piece in enumerate(pieces):
        choices.append([piece] if position % 2 == 0 else _alternatives(piece, spec))
        total *= len(choices[-1])
        if total > _MAX_SHARDS:
            raise UsageError(f"{spec} names more than {_MAX_SHARDS} shards")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _alternatives(text: str, spec: str) -> Sequence[str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        if "," not in text:
            raise UsageError(f"{{{text}}} in {spec} is neither a range like {{00000..00331}} nor a list like {{a,b}}")
        return text.split(",")
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MAX_SHARDS:
        raise UsageError(f"the range {{{text}}} in {spec} is empty or too long")
    width = len(match[1]) if len(match[1]) > 1 and match[1].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


class ShardSource:
    """Images inside tar files, found by their offsets.

    Args:
        paths: The shards.
        shards: For every image, which of `paths` holds it.
        spans: For every image, name, offset and size of the member.
    """

    def __init__(self, paths: Sequence[Path], shards: Sequence[int], spans: Sequence[Span]) -> None:
        self.paths = list(paths)
        self._shards = list(shards)
        self._spans = list(spans)

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, index: int) -> Image.Image:
        _, offset, size = self._spans[index]
        path = self.paths[self._shards[index]]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise DataError(f"cannot read the shard {path}: {error.strerror}") from error
        return decode_image(data, self.name(index))

    def name(self, index: int) -> str:
        return f"{self.paths[self._shards[index]]}:{self._spans[index][0]}"


def read_shards(paths: Sequence[Path]) -> tuple[ShardSource, list[str]]:
    """Goes through shards once, for the places of their images and for the captions.

    Keys without an image or without a caption are passed over, as downloaders leave them behind. Of
    several images of a key the first in the order of `IMAGE_EXTENSIONS` counts.

    Args:
        paths: The shards.

    Returns:
        The images, and one caption for each.

    Raises:
        DataError: A shard is missing, compressed, damaged, or holds a caption that is not text; or there
            is no pair in any of them.
    """
    shards: list[int] = []
    spans: list[Span] = []
    captions: list[str] = []
    for number, path in enumerate(track(paths, "reading shards", total=len(paths))):
        for span, caption in _captioned(path):
            shards.append(number)
            spans.append(span)
            captions.append(caption)
    if not spans:
        shown = f"{paths[0]}" + (f" and {len(paths) - 1} more shards" if len(paths) > 1 else "")
        raise DataError(f"{shown}: no pairs of KEY.{'|'.join(IMAGE_EXTENSIONS)} with KEY.txt or KEY.json")
    return ShardSource(paths, shards, spans), captions


def _captioned(path: Path) -> Iterator[tuple[Span, str]]:
    for sample, file in indexed(path):
        span = next((sample.images[e] for e in IMAGE_EXTENSIONS if e in sample.images), None)
        caption = _caption(path, file, sample) if span is not None else ""
        if span is not None and caption:
            yield span, caption


def _caption(path: Path, file: BinaryIO, sample: Sample) -> str:
    """The caption in one line, empty where there is none."""
    span = sample.caption or sample.record
    if span is None:
        return ""
    name, offset, size = span
    limit = _MAX_CAPTION if sample.caption else _MAX_JSON
    if size > limit:
        raise DataError(f"{path}:{name} has {size} bytes, more than a caption can have ({limit})")
    file.seek(offset)
    try:
        text = file.read(size).decode("utf-8")
        if sample.caption is None:
            record = json.loads(text)
            value = record.get("caption") if isinstance(record, dict) else None
            if value is not None and not isinstance(value, str):
                raise DataError(f"{path}:{name} has a caption that is not a text")
            text = value or ""
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the caption {path}:{name}: {type(error).__name__}") from error
    return " ".join(text.split())

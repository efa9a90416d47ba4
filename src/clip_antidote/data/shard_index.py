"""What lies where in a webdataset shard: members by their keys, with their offsets."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from clip_antidote.errors import DataError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

Span = tuple[str, int, int]
"""Name, offset and size of a member."""


@dataclass
class Sample:
    """What a shard holds under one key: images by extension, a caption, a label and a JSON record."""

    images: dict[str, Span] = field(default_factory=dict)
    caption: Span | None = None
    label: Span | None = None
    record: Span | None = None


def indexed(path: Path) -> Iterator[tuple[Sample, BinaryIO]]:
    """Goes through a shard: its samples, each with the open file to read its small members from.

    Raises:
        DataError: The shard is missing, compressed or damaged.
    """
    try:
        with path.open("rb") as file:
            for sample in _samples(path, file).values():
                yield sample, file
    except DataError:
        raise
    except Exception as error:  # a crafted header can make tarfile fail in any way
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise DataError(f"cannot read the shard {path} ({reason}); it must be an uncompressed tar file") from error


def _samples(path: Path, file: BinaryIO) -> dict[str, Sample]:
    size = path.stat().st_size
    samples: dict[str, Sample] = {}
    last = -1
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            name = _printable(member.name)
            if member.size < 0 or member.offset <= last:
                raise DataError(f"the shard {path} is damaged at {name}; copy or download it again")
            last = member.offset
            if member.offset_data + member.size > size:
                raise DataError(f"the shard {path} is cut off inside {name}; copy or download it again")
            folder, _, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            if not member.isreg() or member.issparse() or not key:
                continue
            sample = samples.setdefault(f"{folder}/{key}", Sample())
            _put(sample, extension.lower(), (name, member.offset_data, member.size), path)
        # A damaged header ends the iteration without a word, so the end has to be looked at.
        file.seek(archive.offset)
        rest = file.read(tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise DataError(f"the shard {path} is damaged or cut off at byte {archive.offset}; copy or download it again")
    return samples


def _printable(name: str) -> str:
    """A name that can be shown and written, whatever its bytes."""
    return "".join(c if c.isprintable() else "?" for c in name[:200])


def _put(sample: Sample, extension: str, span: Span, path: Path) -> None:
    if extension in IMAGE_EXTENSIONS:
        known: Span | None = sample.images.get(extension)
        sample.images[extension] = span
    elif extension == "txt":
        known, sample.caption = sample.caption, span
    elif extension == "cls":
        known, sample.label = sample.label, span
    elif extension == "json":
        known, sample.record = sample.record, span
    else:
        return
    if known is not None:
        raise DataError(f"the shard {path} holds {span[0]} twice; keys must be unique")

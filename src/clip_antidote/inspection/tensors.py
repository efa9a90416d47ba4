"""The tensors of a checkpoint one after another: never all of them in memory, and never the file twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from clip_antidote.inspection import formats
from clip_antidote.inspection.outline import Outline, Place, outline_archive, outline_legacy
from clip_antidote.models.checkpoint import strip_prefixes
from clip_antidote.models.pickle_dry_run import ExcessError

_SAFETENSORS = dict(
    zip(
        ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"),
        ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        strict=True,
    )
)
"""Names of data types, as the format and as PyTorch write them."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: Its name, without what wrappers put before every one.
        shape: Its shape.
        dtype: Name of its data type, as PyTorch writes it.
        load: Reads it; None where its kind cannot be read here.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], torch.Tensor] | None


@contextmanager
def open_tensors(path: Path, kind: str) -> Iterator[list[StoredTensor]]:
    """Lists the tensors of a file of this format; their values are read inside of the block.

    Raises:
        ExcessError: The file is damaged or declares more than it holds.
    """
    if kind == formats.SAFETENSORS:
        with _open_safetensors(path) as found:
            yield _stripped(found)
        return
    try:
        outline = outline_legacy(path) if kind == formats.LEGACY else outline_archive(path)
    except ExcessError:
        raise
    except Exception as error:  # a crafted file can make the readers fail in any way
        raise ExcessError(f"{type(error).__name__}") from error
    with path.open("rb") as file:
        found = [
            StoredTensor(
                name,
                place.shape,
                str(place.dtype).removeprefix("torch."),
                _loader(file, place, outline) if place.dtype is not None else None,
            )
            for name, place in outline.tensors.items()
        ]
        yield _stripped(found)


@contextmanager
def _open_safetensors(path: Path) -> Iterator[list[StoredTensor]]:
    from safetensors import safe_open

    try:
        opened = safe_open(str(path), framework="pt", device="cpu")
    except Exception as error:  # the format's own error, or any that a crafted header causes
        raise ExcessError((str(error) or type(error).__name__).splitlines()[0][:200]) from error
    with opened as file:
        found = []
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            part = file.get_slice(name)
            kind = str(part.get_dtype())
            shape = tuple(part.get_shape())
            found.append(StoredTensor(name, shape, _SAFETENSORS.get(kind, kind), partial(file.get_tensor, name)))
        yield found


def _loader(file: BinaryIO, place: Place, outline: Outline) -> Callable[[], torch.Tensor]:
    def load() -> torch.Tensor:
        dtype, key, offset, shape, strides = place
        if dtype is None or key not in outline.storages:
            raise ExcessError("a tensor has no bytes in the file")
        begin, end = outline.storages[key]
        steps = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        length = (steps + 1) * dtype.itemsize if math.prod(shape) else 0
        if offset + length > end - begin:
            raise ExcessError("a tensor reaches beyond its bytes")
        if not length:
            return torch.empty(shape, dtype=dtype)
        file.seek(begin + offset)
        own = bytearray(length)
        if file.readinto(own) < length:  # type: ignore[attr-defined]
            raise ExcessError("a tensor reaches beyond the file")
        return torch.frombuffer(own, dtype=dtype).as_strided(shape, strides)

    return load


def _stripped(found: list[StoredTensor]) -> list[StoredTensor]:
    named = strip_prefixes({tensor.name: tensor for tensor in found})
    return [StoredTensor(name, tensor.shape, tensor.dtype, tensor.load) for name, tensor in named.items()]

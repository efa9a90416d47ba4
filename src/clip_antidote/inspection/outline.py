"""Names, shapes and places of the tensors of PyTorch's files, found with stand-ins: nothing in them is executed.

Takes what PyTorch's own reader refuses too, TorchScript and whole pickled models: what they name becomes an inert
object that keeps its state.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from clip_antidote.models.checkpoint import WRAPPERS
from clip_antidote.models.pickle_dry_run import DTYPES, DryRun, ExcessError, Kind, Ledger, Storage
from clip_antidote.models.pickle_scan import carry_out

_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_MOST_TENSORS = 200_000


class Place(NamedTuple):
    """Where a tensor lies; a tuple, since a pickle may set the attributes of anything else."""

    dtype: torch.dtype | None
    key: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Inventory(Ledger):
    """Keeps what is known of a tensor, instead of nothing; `offset` is in bytes."""

    def tensor(self, storage: Storage, kind: Kind, offset: int, shape: Any, strides: Any) -> Place:
        super().tensor(storage, kind, offset, shape, strides)
        found = DTYPES.get(kind.name) or getattr(torch, str(kind.name), None)
        dtype = found if isinstance(found, torch.dtype) else None
        start = storage.start + offset * kind.size
        return Place(dtype, storage.key, start, tuple(shape), tuple(strides))


class _Foreign:
    """Stands in for any object: keeps the state that it is given, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Foreign:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class _Outline(DryRun):
    """Follows a pickle to its tensors, whatever else it names."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        try:
            return super().find_class(module, name)
        except pickle.UnpicklingError:
            return type("Foreign", (_Foreign,), {})


class Outline(NamedTuple):
    """Tensors by name, and the bytes of every storage: beginning and end in the file, by key."""

    tensors: dict[str, Place]
    storages: Mapping[Any, tuple[int, int]]


def outline_archive(path: Path) -> Outline:
    """Finds the tensors of PyTorch's zip layout or of a TorchScript archive.

    Raises:
        ExcessError: It declares more than it holds, or its pickle cannot be followed.
        OSError: The file cannot be read; `zipfile.BadZipFile` where it is no archive.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        folder = archive.namelist()[0].partition("/")[0]
        entries = {entry.filename: entry for entry in archive.infolist()}
        held = {
            name.removeprefix(f"{folder}/data/"): entry_span(file, entry)
            for name, entry in entries.items()
            if name.startswith(f"{folder}/data/") and entry.compress_type == zipfile.ZIP_STORED
        }
        ledger = _Inventory(path.stat().st_size, lambda key: held[key][1] - held[key][0])
        with pickle_bytes(file, entries[f"{folder}/data.pkl"]) as data:
            content = carry_out(data, ledger, _Outline)
    return Outline(dict(_named_tensors(content)), held)


def outline_legacy(path: Path) -> Outline:
    """Finds the tensors of PyTorch's older layout, where storages follow five pickles; see `outline_archive`."""
    with path.open("rb") as file, mapped(file) as data:
        size = path.stat().st_size
        ledger = _Inventory(size)
        parts = [carry_out(cast(IO[bytes], data), ledger, _Outline) for _ in range(5)]
        content, keys = parts[3], parts[4]
        at, held = data.tell(), {}
        for key in keys if isinstance(keys, list) else []:
            if key not in ledger.storages:
                raise ExcessError("it names a storage that no tensor has")
            begin = at + 8  # the number of elements comes first
            at = begin + ledger.storages[key].length
            if at > size:
                raise ExcessError("it ends before its storages do")
            held[key] = (begin, at)
    return Outline(dict(_named_tensors(content)), held)


@contextmanager
def mapped(file: IO[bytes]) -> Iterator[mmap.mmap]:
    """Maps a file into memory, to read; it is not copied."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def entry_span(file: IO[bytes], entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Beginning and end of a stored entry's bytes in the archive.

    The checksum is not looked at, since PyTorch's own reader may not do so either.

    Raises:
        ExcessError: There is no such entry at that place.
    """
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise ExcessError(f"the entry {entry.filename} is not where the directory says")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin = entry.header_offset + 30 + lengths
    return begin, begin + entry.file_size


MOST_PICKLE = 2**28
"""Bytes of a pickle inside of an archive that are looked at: it has names and shapes only."""


@contextmanager
def pickle_bytes(file: IO[bytes], entry: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Opens a pickle inside of an archive, unpacked where it is packed.

    Raises:
        ExcessError: It is larger than any.
    """

    if entry.compress_type == zipfile.ZIP_STORED:
        begin, end = entry_span(file, entry)
        if end - begin > MOST_PICKLE:
            raise ExcessError(f"the pickle {entry.filename} is larger than any")
        file.seek(begin)
        yield io.BytesIO(file.read(end - begin))
        return
    with zipfile.ZipFile(file) as archive, archive.open(entry) as packed:
        data = packed.read(MOST_PICKLE + 1)
    if len(data) > MOST_PICKLE:
        raise ExcessError(f"the pickle {entry.filename} is larger than any")
    yield io.BytesIO(data)


def _named_tensors(content: Any) -> Iterator[tuple[str, Place]]:
    """Walks through dictionaries and states; every one once, whatever refers to it."""
    for _ in WRAPPERS:
        if isinstance(content, Mapping):
            inner = next((content[n] for n in WRAPPERS if isinstance(content.get(n), Mapping | _Foreign)), None)
            content = content if inner is None else inner
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    count = 0
    while waiting and count < _MOST_TENSORS:
        name, value = waiting.pop()
        if isinstance(value, Place):
            count += 1
            yield name, value
            continue
        value = value.state if isinstance(value, _Foreign) else value
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        inner_items = [(_joined(name, key), item) for key, item in value.items() if isinstance(key, str)]
        waiting += reversed(inner_items)


def _joined(name: str, key: str) -> str:
    if key in _MODULE_PARTS:
        return name
    return f"{name}.{key}"[:1000] if name else key[:1000]

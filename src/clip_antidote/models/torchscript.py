"""The weights of a TorchScript archive, such as OpenAI published for CLIP, read without running the archive.

Such an archive holds code and a pickle of the modules. Only the pickle is looked at, by the dry run that every
checkpoint passes: a stand-in for each module keeps its attributes, a note for each tensor says where its numbers lie.
The code is not opened, nothing that the pickle names is imported, and the numbers are copied out of the zip file.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clip_antidote.models.pickle_dry_run import DTYPES, SHARED, SLACK, DryRun, ExcessError, Ledger, Storage
from clip_antidote.models.pickle_scan import carry_out

_MOST_ATTRIBUTES, _DEEPEST = 200_000, 100
_MASK = "attn_mask"
"""A constant of OpenAI's text transformer, which every model makes itself."""

_TYPES = {name: kind for name, kind in DTYPES.items() if not kind.is_complex}
_LISTS = frozenset(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "tensor", "double", "bool"))


@dataclass(frozen=True)
class _Note:
    """Where the numbers of a tensor lie."""

    kind: str
    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Module:
    """Stands in for a module of the archive."""

    attributes: Mapping[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, Mapping):
            raise ExcessError("a module has a state that only its own code could read")
        self.attributes = state


class _ScriptRun(DryRun):
    """The dry run, which keeps modules and notes of tensors besides counting."""

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if f"{module}.{name}" in _LISTS:
            return self._copied
        return super().find_class(module, name)

    def _tensor(self, storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any) -> Any:
        super()._tensor(storage, offset, shape, strides, *rest)
        return _Note(storage.name, str(storage.key), offset, tuple(shape), tuple(strides))


def is_torchscript(names: Iterable[str]) -> bool:
    """Whether the entries of a zip file are those of a TorchScript archive."""
    return any(name.endswith("constants.pkl") or "/code/" in name for name in names)


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Reads parameters and buffers by their names, as CPU tensors; nothing of the archive is run.

    Args:
        path: A zip file with `data.pkl` and a folder `data` beside it.

    Raises:
        ExcessError: It would allocate more than the file holds, or is laid out in a way that is not known.
        pickle.UnpicklingError: It names objects that no module has; the message has GLOBAL and their name.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len({name.casefold() for name in entries}) != len(archive.infolist()):
            raise ExcessError("an entry stands in it twice")
        folder = next(iter(entries)).partition("/")[0]
        start, prefix = f"{folder}/data.pkl", f"{folder}/data/"
        read = [entry for name, entry in entries.items() if name == start or name.startswith(prefix)]
        if start not in entries or any(entry.compress_type != zipfile.ZIP_STORED for entry in read):
            raise ExcessError("its data.pkl is missing, or its numbers are compressed")
        if sum(entry.file_size for entry in read) > path.stat().st_size:
            raise ExcessError("its entries are declared larger than the file")
        with archive.open(start) as entry:
            ledger = Ledger(path.stat().st_size, lambda key: entries[f"{prefix}{key}"].file_size)
            root = carry_out(entry, ledger, _ScriptRun)
        return _read(archive, prefix, _tensors(root), SHARED * path.stat().st_size + SLACK)


def _tensors(root: Any) -> Iterator[tuple[str, _Note]]:
    """The tensors of a tree of modules, by their names."""
    if not isinstance(root, _Module):
        raise ExcessError("it holds no module")
    waiting: list[tuple[str, int, _Module]] = [("", 0, root)]
    seen = 0
    while waiting:
        prefix, depth, module = waiting.pop()
        seen += 1 + len(module.attributes)
        if depth > _DEEPEST or seen > _MOST_ATTRIBUTES:
            raise ExcessError("its modules nest without end")
        for name, value in module.attributes.items():
            if isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", depth + 1, value))
            elif isinstance(value, _Note) and name != _MASK:
                yield f"{prefix}{name}", value


def _read(
    archive: zipfile.ZipFile, prefix: str, tensors: Iterator[tuple[str, _Note]], most: int
) -> dict[str, torch.Tensor]:
    """Takes the numbers, `most` bytes in all, out of the archive; the dry run checked that each is in bounds."""
    flat: dict[str, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, note in tensors:
        if note.kind not in _TYPES:
            raise pickle.UnpicklingError(f"GLOBAL torch.{note.kind}Storage")
        kind = _TYPES[note.kind]
        most -= math.prod(note.shape) * kind.itemsize
        if most < 0:
            raise ExcessError("its tensors are declared far larger than the file")
        if note.key not in flat:
            content = bytearray(archive.read(f"{prefix}{note.key}"))
            flat[note.key] = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
        out[name] = flat[note.key].as_strided(note.shape, note.strides, note.offset)
    return out

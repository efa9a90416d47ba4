"""Looking into single files: facts, and what pickles and archives hold beside tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from clip_antidote.errors import ModelError
from clip_antidote.files import sha256_file
from clip_antidote.inspection import formats
from clip_antidote.inspection.outline import MOST_PICKLE, entry_span, mapped, pickle_bytes
from clip_antidote.inspection.pickle_globals import Named, list_globals
from clip_antidote.inspection.record import FileFacts, Finding, PickleGlobal
from clip_antidote.inspection.rules import finding
from clip_antidote.models.pickle_dry_run import ExcessError

MOST_LISTED = 200
"""Different Python objects that are listed of a file."""

_PICKLES_IN_A_ROW = 5  # as in PyTorch's older layout
_PICKLE_NAMES = (".pkl", ".pickle")


def file_facts(path: Path, *, weights: bool, quick: bool) -> FileFacts:
    """Returns size, format and, unless `quick`, the checksum of a file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        size, kind = path.stat().st_size, formats.tell_format(path)
        sha256 = None if quick else sha256_file(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    return FileFacts(name=str(path), format=kind, size=size, sha256=sha256, weights=weights)


def check_contents(path: Path, facts: FileFacts) -> tuple[list[PickleGlobal], list[Finding]]:
    """Reads the pickles of a file without following them, and the directory of an archive.

    Returns:
        The Python objects that are named, each once a pickle and in order, and what is wrong.
    """
    named: list[PickleGlobal] = []
    findings: list[Finding] = []
    if facts.format == formats.EMPTY:
        findings.append(finding("damaged", "the file is empty", facts.name))
    elif facts.format == formats.DAMAGED_ZIP:
        findings.append(finding("damaged", "the archive has no directory that can be read", facts.name))
    if facts.format not in formats.WITH_PICKLES:
        return named, findings
    try:
        for found in _walk(path, facts):
            (named if isinstance(found, PickleGlobal) else findings).append(found)  # type: ignore[arg-type]
    except Exception as error:  # a crafted file can make the readers fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        findings.append(finding("damaged", f"the file cannot be read: {reason:.200}", facts.name))
    listed = _once(named)
    return listed, [*findings, *_judge(listed)]


def _walk(path: Path, facts: FileFacts) -> Iterator[PickleGlobal | Finding]:
    with path.open("rb") as file:
        if facts.format not in (formats.ZIP, formats.TORCHSCRIPT, formats.ARCHIVE):
            with mapped(file) as data:
                yield from _pickles(cast(IO[bytes], data), facts.name, None, 0)
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        yield from _odd_entries(entries, facts)
        for entry in entries:
            if not _is_pickle(file, entry):
                continue
            stored = entry.compress_type == zipfile.ZIP_STORED
            try:
                start = entry_span(file, entry)[0] if stored else None
                with pickle_bytes(file, entry) as data:
                    yield from _pickles(data, facts.name, entry.filename, start)
            except ExcessError as error:
                yield finding("hidden-content", str(error), facts.name, entry=entry.filename)


def _odd_entries(entries: list[zipfile.ZipInfo], facts: FileFacts) -> Iterator[Finding]:
    """What PyTorch never writes: names that stand twice, packed tensors, encryption, more bytes than there are."""
    names = [entry.filename.casefold() for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield finding(
            "hidden-content", f"the entry {twice:.200} stands in the archive twice", facts.name, entry=twice
        )
    packed = next((e for e in entries if e.compress_type != zipfile.ZIP_STORED and "/code/" not in e.filename), None)
    if packed is not None and facts.format != formats.ARCHIVE:
        message = f"the entry {packed.filename:.200} is compressed, which PyTorch never does"
        yield finding("hidden-content", message, facts.name, entry=packed.filename)
    locked = next((entry for entry in entries if entry.flag_bits & 1), None)
    if locked is not None:
        yield finding("hidden-content", f"the entry {locked.filename:.200} is encrypted", facts.name)
    if facts.format == formats.ZIP and sum(entry.file_size for entry in entries) > facts.size:
        yield finding("hidden-content", "the archive declares more bytes than the file has", facts.name)
    if facts.format == formats.TORCHSCRIPT:
        code = sum("/code/" in entry.filename for entry in entries)
        yield finding("torchscript", f"the archive holds code ({code} files), which is never run here", facts.name)


def _is_pickle(file: IO[bytes], entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a pickle, by its name or, outside of the tensors' folder, by its beginning."""
    if entry.filename.lower().endswith(_PICKLE_NAMES):
        return True
    stored = entry.compress_type == zipfile.ZIP_STORED and 1 < entry.file_size <= MOST_PICKLE
    if "/data/" in entry.filename or not stored:
        return False
    try:
        file.seek(entry_span(file, entry)[0])
    except ExcessError:
        return False
    head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _pickles(data: IO[bytes], file: str, entry: str | None, start: int | None) -> Iterator[PickleGlobal | Finding]:
    """Reads pickles that follow one another."""
    for _ in range(_PICKLES_IN_A_ROW):
        begin = data.tell()
        for found in list_globals(data):
            if isinstance(found, Named):
                yield PickleGlobal(
                    module=found.module,
                    name=found.name,
                    verdict=found.verdict,
                    opcode=found.opcode,
                    file=file,
                    entry=entry,
                    offset=None if start is None else start + found.position,
                    in_pickle=found.position - begin,
                )
            else:
                message = f"a pickle cannot be followed to its end: {found}"
                yield finding(
                    "damaged-pickle", message, file, entry=entry, offset=None if start is None else start + begin
                )
                return
        at = data.tell()
        following = data.read(1)
        data.seek(at)
        if following != b"\x80":
            return


def _once(named: list[PickleGlobal]) -> list[PickleGlobal]:
    """Every object once a pickle, where it is named first: the dangerous ones first where there are too many."""
    first = {(item.entry, item.module, item.name): item for item in reversed(named)}
    order = ("unsafe", "foreign", "code", "plain")
    kept = sorted(first.values(), key=lambda item: (order.index(item.verdict), item.in_pickle))[:MOST_LISTED]
    return sorted(kept, key=lambda item: (item.entry or "", item.in_pickle))


def _judge(named: list[PickleGlobal]) -> list[Finding]:
    what = {
        "unsafe": ("unsafe-global", "can run programs, load code or reach files"),
        "foreign": ("foreign-global", "is no part of any weights"),
    }
    return [
        finding(
            what[item.verdict][0],
            f"the pickle names {item.module}.{item.name}, which {what[item.verdict][1]} ({_place(item)})",
            item.file,
            entry=item.entry,
            offset=item.offset,
            opcode=item.opcode,
        )
        for item in named
        if item.verdict in what
    ]


def _place(item: PickleGlobal) -> str:
    inside = f" of {item.entry}" if item.entry else ""
    whole = f", byte {item.offset} of the file" if item.entry and item.offset is not None else ""
    return f"{item.opcode} at byte {item.in_pickle}{inside}{whole}"

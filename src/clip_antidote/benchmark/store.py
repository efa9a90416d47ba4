"""The files of a benchmark folder: `runs.jsonl`, `suspects.json` and `settings.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from clip_antidote.benchmark.records import Key, RunRecord, SuspectRecord, compact, fingerprint
from clip_antidote.config import Record
from clip_antidote.errors import DataError
from clip_antidote.files import clear_temporaries, write_text
from clip_antidote.locks import Claim, claimed, wait_for_lock

R = TypeVar("R", bound=Record)

WAIT = 10.0
"""Seconds to wait where all that is left is being made by other processes, or waits for them."""


@contextmanager
def claim_work(folder: Path, name: str) -> Iterator[bool]:
    """Keeps a piece of work on a benchmark folder from other processes; gives False where another one has it.

    Where there are no locks (see `locks.claimed`) it gives True, and two processes may do the same work.

    Args:
        folder: The benchmark folder.
        name: Name of the work, which serves as file name.

    Raises:
        DataError: The folder cannot be written to.
    """
    with ExitStack() as held:
        try:
            claim = held.enter_context(claimed(folder / ".locks" / name))
        except OSError as error:
            raise DataError(f"cannot write {folder}: {error.strerror}; choose another output folder") from error
        yield claim is not Claim.TAKEN


def clear_claims(folder: Path) -> None:
    """Removes the lock files that killed processes left; those that are held stay."""
    for file in (folder / ".locks").glob("*"):
        with claim_work(folder, file.name):
            pass


class RunLog:
    """The runs of a benchmark folder, a line each; several processes may append to one.

    Attributes:
        runs: The runs that were read so far.

    Args:
        folder: The benchmark folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "runs.jsonl"
        self.settings_file = folder / "settings.json"
        self.runs: dict[Key, RunRecord] = {}
        self._read = self._line = 0

    def find(self, key: Key) -> RunRecord | None:
        """The run with this key, None where there is none yet; sees what other processes have appended."""
        self.refresh()
        return self.runs.get(key)

    def refresh(self) -> None:
        """Reads the lines that came since.

        A last line without its end is left alone: it is being written, or was cut off.

        Raises:
            DataError: A line is no record of a run.
        """
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._line += 1
            try:
                run = RunRecord.model_validate_json(line)
            except ValidationError as error:
                raise DataError(
                    f"line {self._line} of {self.file} is not the record of a run; remove the line, and the run is "
                    "made again"
                ) from error
            self.runs[run.key] = run
        self._read += len(whole)

    def append(
        self, run: RunRecord, *, settings: Mapping[str, Any] | None = None, versions: Mapping[str, Any] | None = None
    ) -> RunRecord:
        """Adds a run, its settings and versions by their keys, and returns it as it was written.

        Raises:
            DataError: The folder cannot be written to.
        """
        shared = {fingerprint(value): value for value in (settings, versions) if value is not None}
        changes = {"settings": settings and fingerprint(settings), "versions": versions and fingerprint(versions)}
        run = run.model_copy(update={name: key for name, key in changes.items() if key})
        with _locked(self.file) as file:
            known = read_settings(self.settings_file.parent)
            if not shared.keys() <= known.keys():
                clear_temporaries(self.file.parent, self.settings_file.name)
                write_lines(self.settings_file, {**known, **shared})
            _write_line(file, run.to_line(), self.file)
        return run


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file that several processes may append to, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    with _locked(path) as file:
        _write_line(file, line, path)


def read_typed_lines(path: Path, kind: type[R]) -> list[R]:
    """Reads the whole lines of such a file, without what a killed process left; DataError where one is broken."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            said = f"line {number} of {path} is not a record of this version; remove it, and it is made again"
            raise DataError(said) from error
    return records


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another output folder") from error
    try:
        wait_for_lock(file)
        yield file
    finally:
        os.close(file)


def _write_line(file: int, line: str, path: Path) -> None:
    _end_with_a_line(file)
    data = (line + "\n").encode()
    if os.write(file, data) != len(data):
        raise DataError(f"cannot write {path}: the disk is full")
    os.fsync(file)


def _end_with_a_line(file: int) -> None:
    """Cuts off what a killed process left of its line."""
    size = os.fstat(file).st_size
    content = os.pread(file, size, 0)
    os.ftruncate(file, content.rfind(b"\n") + 1)


def read_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings and library versions of the runs by their keys, empty where there are none."""
    file = folder / "settings.json"
    return _read_json(file) if file.exists() else {}


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {file} as JSON; remove it, or take it from a copy") from error


def read_runs(folder: Path, *, refused: bool = False) -> list[RunRecord]:
    """Reads the runs of a benchmark folder, or those refused or failed, ordered by suspect, defense, shots and seed.

    Raises:
        DataError: There are none at all, or a line is no record.
    """
    log = RunLog(folder)
    log.refresh()
    if not log.runs:
        raise DataError(f"there are no runs in {log.file}; run `clip-antidote benchmark run` first")
    suspects = {suspect.name: suspect for suspect in _suspects(folder)}

    def with_reference(run: RunRecord) -> RunRecord:
        suspect = suspects.get(run.suspect)
        return run.model_copy(update={"reference": suspect.clean}) if suspect and suspect.target else run

    runs = (log.runs[key] for key in sorted(log.runs))
    return [with_reference(run) for run in runs if run.done != refused]


def read_suspects(folder: Path) -> list[SuspectRecord]:
    """Reads the records of all models of a zoo, by name: from their folders, or where there are none `suspects.json`.

    Raises:
        DataError: There are neither.
    """
    found = _suspects(folder)
    if not found:
        raise DataError(f"there are no models in {folder / 'zoo'}; run `clip-antidote benchmark prepare` first")
    return found


def _suspects(folder: Path) -> list[SuspectRecord]:
    files = sorted([*(folder / "zoo").glob("*/attack.json"), *(folder / "zoo").glob("*/control.json")])
    if files:
        return [SuspectRecord.from_attack(f.parent.name, _read_json(f)) for f in files]
    file = folder / "suspects.json"
    if not file.exists():
        return []
    records = _read_json(file)
    try:
        return [SuspectRecord(name=name, **record) for name, record in sorted(records.items())]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} does not hold the records of suspects that this version writes") from error


def write_suspects(folder: Path, suspects: Iterable[SuspectRecord]) -> None:
    """Writes `suspects.json`, which stands for the models where they are too large to keep."""
    entries = {s.name: s.model_dump(mode="json", exclude_defaults=True) for s in suspects}
    write_lines(folder / "suspects.json", entries)


def write_lines(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with a line per entry, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(key, ensure_ascii=False)}: {compact(value)}" for key, value in values.items())
    write_text(path, f"{{\n{lines}\n}}\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], **facts: Any) -> None:
    """Writes a JSON object of facts and "rows", a line per row, whole or not at all."""
    head = "".join(f"{json.dumps(key)}: {compact(value)},\n" for key, value in facts.items())
    lines = ",\n".join(compact(row) for row in rows)
    write_text(path, f'{{\n{head}"rows": [\n{lines}\n]\n}}\n')

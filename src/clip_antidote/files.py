"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_antidote.errors import DataError


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, and removes what is there at the end.

    Raises:
        DataError: The place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another output folder") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` for a file that takes its place on success and is removed otherwise.

    Folders are for `outputs.result_folder`, which looks at what it replaces.

    Raises:
        DataError: The place cannot be written to, or is a folder.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, through a temporary name."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_folder(out: Path, settings: Any) -> Path:
    """The hidden folder beside `out` that keeps the state of unfinished work with these settings."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return out.parent / f".{out.name}.state-{key}"


def finished_record(file: Path, run: str) -> dict[str, Any] | None:
    """The record of an earlier run, None where there is none with these very settings.

    Args:
        file: Where the run writes its record, with the name of its state folder under "run".
        run: Name of the state folder, which stands for the settings.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("run") == run else None

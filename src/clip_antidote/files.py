"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_antidote.errors import DataError

if TYPE_CHECKING:
    import torch

_OPEN_FILE = re.compile(r"/dev/std(out|err)|/(?:dev|proc/self)/fd/(\d+)")
"""Names that stand for an open file of this process."""


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, and removes what is there at the end.

    Raises:
        DataError: The place cannot be written to, or a file that is read meanwhile cannot be read.
    """
    if path.name in {"", ".."}:
        raise DataError(f"the output {path} is a folder; name a file, or a new folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        other = error.filename is not None and path.parent not in Path(os.fsdecode(error.filename)).parents
        if other and not isinstance(error, NotADirectoryError | FileExistsError):
            raise DataError(storage_failure(error)) from error
        raise DataError(f"cannot write {path}: {_reason(error)}; choose another output folder") from error
    except Exception as error:
        # The libraries that write weights tell a full disk in their own ways.
        if any(sign in str(error) for sign in ("PytorchStreamWriter", "I/O error", "unexpected pos")):
            raise DataError(
                f"cannot write {path}: the disk took only a part of it; make room or choose another output folder"
            ) from error
        raise
    finally:
        remove_quietly(temporary)


def clear_temporaries(folder: Path, name: str = "*") -> None:
    """Removes the temporary files of killed processes; for who alone may write to the folder, or to `name` in it."""
    for left in folder.glob(f".{name}.*.tmp"):
        remove_quietly(left)


def remove_quietly(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it, as far as that is possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def storage_failure(error: OSError) -> str:
    """A sentence about a file or a folder that could not be read or written."""
    where = f" {os.fsdecode(error.filename)}" if error.filename is not None else ""
    return f"cannot read or write{where}: {_reason(error)}; check the path, its permissions and the free space"


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` for a file that takes its place on success and is removed otherwise.

    Folders are for `outputs.result_folder`, which looks at what it replaces. A link stays and the file behind it is
    replaced; what is no file, such as /dev/stdout, is written to.

    Raises:
        DataError: The place cannot be written to, or is a folder.
    """
    if os.path.isdir(path):
        raise DataError(f"cannot write {path}: it is a folder; name a file")
    if is_device(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "content"
            _write_through(Path(folder) / "content", path)
        return
    place = path.resolve() if os.path.islink(path) and os.path.exists(path) else path
    with temporary_beside(place) as temporary:
        yield temporary
        os.replace(temporary, place)


def is_device(path: Path) -> bool:
    """Whether there is something under a name that is neither file nor folder, or that stands for an open file."""
    # os.path says no where Path raises, as for names that are too long: those are told when they are written.
    stands = _OPEN_FILE.fullmatch(os.path.abspath(path))
    return os.path.exists(path) and not os.path.isdir(path) and bool(stands or not os.path.isfile(path))


def _write_through(file: Path, path: Path) -> None:
    """Writes the content of a file to a device or a pipe."""
    try:
        stands = _OPEN_FILE.fullmatch(os.path.abspath(path))
        if stands:  # opened anew it would be written from its beginning
            number = os.dup({"out": 1, "err": 2}.get(stands[1]) or int(stands[2]))
        else:
            number = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))  # fails where nobody reads a pipe
            os.set_blocking(number, True)
        with file.open("rb") as content, open(number, "wb") as out:
            shutil.copyfileobj(content, out)
    except OSError as error:
        raise DataError(f"cannot write {path}: {_reason(error)}; name a file") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text through a temporary name.

    Names of files may hold bytes that are no characters; they are written as escapes, which JSON reads again.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, indented, through a temporary name."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, readable for whom new files are; the library itself keeps it to its owner.

    Tensors may be on any device, and laid out in any way.
    """
    from safetensors.torch import save_file  # noqa: TID251

    path.touch()
    mode = path.stat().st_mode
    save_file({name: plain_tensor(value) for name, value in tensors.items()}, path, metadata=metadata)
    path.chmod(mode)


def plain_tensor(value: torch.Tensor) -> torch.Tensor:
    """Returns a tensor in the form that is written: without gradients, on the CPU, contiguous."""
    return value.detach().cpu().contiguous()


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
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("run") == run else None

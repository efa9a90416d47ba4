"""Result folders: made whole or not at all, and replacing nothing but an earlier result of the same kind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clip_antidote.errors import DataError, UsageError
from clip_antidote.files import is_device, remove_quietly, temporary_beside
from clip_antidote.locks import Claim, claimed

MARKER = ".clip-antidote.json"
"""The file that every result folder carries: which kind of result it is, and which files belong to it."""

FORMAT = 1
"""Of the marker."""

_CLUTTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What desktops leave in folders that somebody looked at; nobody's work."""


@contextmanager
def result_folder(path: Path, kind: str) -> Iterator[Path]:
    """Gives a new folder beside `path` that takes its place on success and is removed otherwise.

    Args:
        path: Where the result goes; see `check_output` for what may be there already.
        kind: What the result is, in words ("purified classifier").

    Raises:
        DataError: The place cannot be written to, something is there that is not ours to replace, or another process
            works on it.
    """
    place = _place(path)
    with sole_output(place, kind), temporary_beside(place) as temporary:
        temporary.mkdir()
        yield temporary
        files = {name: (temporary / name).lstat().st_size for name in _entries(temporary)}
        marker = {"tool": "clip-antidote", "format": FORMAT, "kind": kind, "files": files}
        (temporary / MARKER).write_text(json.dumps(marker, ensure_ascii=False) + "\n", encoding="utf-8")
        check_replaceable(place, kind)  # the work may have taken hours in which somebody put files there
        if place.is_dir():
            previous = place.with_name(f".{place.name}.{os.getpid()}.old")
            os.replace(place, previous)
            try:
                os.replace(temporary, place)
            except BaseException:
                os.replace(previous, place)
                raise
            os.replace(previous, temporary)  # which is removed, if need be by the next process
        else:
            os.replace(temporary, place)


@contextmanager
def sole_output(path: Path, kind: str | None = None) -> Iterator[None]:
    """Keeps other processes from working on the same output, and clears away what killed ones left of theirs.

    Where there are no locks (see `locks.claimed`), nothing is kept off and nothing cleared away.

    Args:
        path: A result folder, or a file.
        kind: What the result is, in words; None for a file.

    Raises:
        DataError: Another process works on it, it cannot be written to, or something is there that is not ours to
            replace.
    """
    place = _place(path)
    if kind is not None:
        check_replaceable(place, kind)
    elif os.path.isdir(place):
        raise DataError(f"the output {path} is a folder; name a file")
    if is_device(path):
        yield  # whoever else writes there is no concern of ours
        return
    with ExitStack() as held:
        try:
            claim = held.enter_context(claimed(place.with_name(f".{place.name}.lock")))
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}; choose another output folder") from error
        if claim is Claim.TAKEN:
            raise DataError(
                f"another clip-antidote works on the output {path}; wait until it has ended, or choose another output"
            )
        if claim is Claim.OURS:
            _clear(place, kind)
        if kind is not None:
            check_replaceable(place, kind)
        yield


@contextmanager
def sole_files(paths: Sequence[Path]) -> Iterator[None]:
    """Keeps other processes from working on several files, see `sole_output`.

    Raises:
        UsageError: Two of them are the same.
        DataError: As `sole_output`.
    """
    places = [os.path.realpath(path) for path in paths if not is_device(path)]
    twice = next((path for path in places if places.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"two outputs are to be written to {twice}; name a file for each")
    with ExitStack() as held:
        for path in paths:
            held.enter_context(sole_output(path))
        yield


def _clear(place: Path, kind: str | None) -> None:
    """Removes what killed processes left; an earlier result that one was just replacing comes back."""
    name = re.escape(place.name)
    work = re.compile(rf"\.{name}\.\d+\.(tmp|probe)|\.\.{name}\.state-[0-9a-f]{{16}}\.(lock|\d+\.(tmp|old))")
    earlier = re.compile(rf"\.{name}\.\d+\.old")
    with suppress(OSError, DataError):
        for left in sorted(place.parent.iterdir()):
            if work.fullmatch(left.name):
                remove_quietly(left)
            elif kind is not None and earlier.fullmatch(left.name) and _marked(left) is not None:
                if place.exists():
                    check_replaceable(left, kind)  # somebody may have put files there
                    remove_quietly(left)
                else:
                    os.replace(left, place)


def check_output(path: Path, kind: str) -> None:
    """Finds out before long work whether a result folder can be written.

    Raises:
        DataError: It cannot, or something is there that is not ours to replace; see `check_replaceable`.
    """
    place = _place(path)
    if place.exists() and not place.is_dir():
        raise DataError(f"the output {path} is a file, not a folder; choose another one")
    check_replaceable(place, kind)
    probe = place.parent / f".{place.name}.{os.getpid()}.probe"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to {path.parent}: {error.strerror}; choose another output folder") from error


def check_replaceable(path: Path, kind: str) -> None:
    """Makes sure that writing `path` destroys nothing but an earlier result of the same kind.

    An existing folder must be empty, or carry the marker of an earlier result and hold exactly the files that the
    marker lists.

    Raises:
        DataError: It holds something else.
    """
    here, place = Path.cwd().resolve(), path.resolve()
    if place == here or place in here.parents:
        raise DataError(
            f"the output {path} is the current folder or one above it, which is never replaced; name a folder of its "
            "own"
        )
    if not path.is_dir():
        return
    found = _entries(path)
    if not found:
        return
    otherwise = "nothing was touched; choose another output folder or move it away"
    known = _marked(path)
    if known is None:
        raise DataError(
            f"the folder {path} is not a result of clip-antidote (it holds {min(found)}) and will not be replaced; "
            f"{otherwise}"
        )
    made, files = known
    if made != kind:
        raise DataError(f"the folder {path} holds a {made}, not a {kind}, and will not be replaced; {otherwise}")
    foreign = sorted(name for name in found if files.get(name) != (path / name).lstat().st_size)
    if foreign:
        raise DataError(
            f"the folder {path} holds {foreign[0]}, which clip-antidote did not write or which was changed since; it "
            f"will not be replaced; {otherwise}"
        )


def _place(path: Path) -> Path:
    """The folder itself where `path` is a link to one: the link stays."""
    return path.resolve() if path.is_symlink() or path.name in {"", ".."} else path


def _entries(folder: Path) -> list[str]:
    """Relative names of everything in a folder but folders, marker and clutter; links are not followed."""
    names = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return [name for name in names if name != MARKER and Path(name).name not in _CLUTTER]


def _marked(folder: Path) -> tuple[str, dict[str, int]] | None:
    """Kind and files (with their sizes in bytes) of the result in a folder; None where it has no marker we know."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if marker["tool"] != "clip-antidote" or marker["format"] != FORMAT:
            return None
        return str(marker["kind"]), {str(name): int(size) for name, size in marker["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None

"""What no input may make the program do, told from Python's audit events. Needs the standard library alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

EXECUTIONS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.startfile", "pty.")
CONNECTIONS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"}
CONNECTIONS |= {"urllib.Request", "http.client.connect"}
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
_LIBRARIES = (["/sbin/ldconfig", "-p"], ["fc-list", "--help"], ["fc-list", "--format=%{file}\\n"])
"""What ctypes and matplotlib run when they are imported first, to find libraries and fonts, whatever the input."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _outside(path: Any, home: str, folder: int = -1, *, others: tuple[str, ...] = ()) -> bool:
    """Whether a path lies elsewhere than below `home` and the others.

    Args:
        path: The path, or what is none.
        home: A folder.
        folder: An open folder that the path is relative to, -1 for none.
        others: Beginnings of paths that are let through too.
    """
    if isinstance(path, int) or path is None:
        return False
    place = os.fsdecode(path)
    if folder >= 0:
        place = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), place)
    place = os.path.abspath(place)
    inside = place == home or place.startswith((f"{home}{os.sep}", *others))
    return not inside and "__pycache__" not in place


def breach(event: str, arguments: tuple[Any, ...], home: Path) -> str | None:
    """What an audit event means: "execution", "connection", "write" outside of `home`, or nothing.

    Args:
        event: Name of the event.
        arguments: Its arguments.
        home: The folder that may be written to; absolute.
    """
    if event.startswith(EXECUTIONS):
        return None if len(arguments) > 1 and arguments[1] in _LIBRARIES else "execution"
    if event in CONNECTIONS:
        return "connection"
    if event == "open":
        path, mode, flags = arguments
        written = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        return "write" if written and _outside(path, str(home), others=("/dev/", "/proc/")) else None
    if event == "os.mkdir" and os.path.isdir(arguments[0]):
        return None  # it fails
    if event in CHANGES:
        folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
        paths = [path for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
        return "write" if any(_outside(path, str(home), folder) for path in paths) else None
    return None


def record(home: Path, log: int) -> None:
    """Writes a line for every breach of this process from now on to an open file; connections and writes fail.

    Args:
        home: The folder that may be written to.
        log: Number of the open file.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        kind = breach(event, arguments, home)
        if kind is not None:
            os.write(log, f"{kind}: {event} {arguments!r:.300}\n".encode("utf-8", "backslashreplace"))
        if kind in ("connection", "write"):  # the machine is to outlive a fault of ours
            raise PermissionError(f"a fuzz case has tried {event}")

    sys.addaudithook(hook)

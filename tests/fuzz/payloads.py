"""Inputs that would run a program if anybody let them: each would make the canary file."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from test_checkpoint_bombs import BOMBS, archive, legacy, state
from test_image_safety import declared_png


class _Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def touch(canary: Path) -> str:
    """A shell command that makes the canary."""
    return f"touch {canary}"


def pickles(canary: Path) -> list[bytes]:
    """Pickles that run something."""
    import os
    import subprocess

    calls = [
        _Runs(os.system, touch(canary)),
        _Runs(eval, f"open({str(canary)!r}, 'w')"),
        _Runs(exec, f"open({str(canary)!r}, 'w')"),
        _Runs(subprocess.check_call, ["touch", str(canary)]),
        _Runs(open, str(canary), "w"),
        _Runs(Path.touch, canary),
        _Runs(__import__, "antigravity"),
        _Runs(torch.load, io.BytesIO, "cpu"),
    ]
    return [pickle.dumps({"w": call}, protocol) for call in calls for protocol in (0, 2, 4)]


def checkpoint(path: Path, canary: Path, draw: Random) -> None:
    """A checkpoint that would run something, or take all memory."""
    kind = draw.random()
    if kind < 0.4:
        value, _ = BOMBS[draw.choice(sorted(BOMBS))]
        draw.choice([archive, legacy])(path, state(value))
    elif kind < 0.6:
        archive(path, draw.choice(pickles(canary)))
    elif kind < 0.7:
        path.write_bytes(draw.choice(pickles(canary)))
    elif kind < 0.8:
        _torchscript(path, canary)
    elif kind < 0.9:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:  # opens to a thousand times its size
            file.writestr("m/data.pkl", state(b"N"))
            file.writestr("m/data/0", bytes(draw.choice([10**6, 3 * 10**8])))
    else:
        head = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        path.write_bytes(draw.choice([len(head), 2**63 - 1, 10**9]).to_bytes(8, "little") + head + bytes(64))


def _torchscript(path: Path, canary: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.jit.trace(module, torch.ones(1, 2)).save(str(path))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("extra/data.pkl", pickles(canary)[0])


def yaml_texts(canary: Path) -> list[bytes]:
    """YAML that names functions and modules."""
    run = touch(canary)
    return [
        f"seed: !!python/object/apply:os.system ['{run}']\n".encode(),
        f"!!python/object/apply:os.system ['{run}']\n".encode(),
        f"seed: !!python/object/new:os.system ['{run}']\n".encode(),
        f"? !!python/object/apply:subprocess.check_call [[touch, {canary}]]\n: 1\n".encode(),
        b"seed: !!python/module:antigravity\n",
        b"seed: !!python/name:os.system\n",
        f"seed: ${{{run}}} $({run}) `{run}`\n".encode(),
    ]


def images(canary: Path) -> list[tuple[str, bytes]]:
    """Names and contents of images that start Ghostscript, are no images, or take all memory."""
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%{touch(canary)}) (w) file\n%%EOF\n"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{canary}"/></svg>'
    return [
        ("a.png", eps.encode()),
        ("a.jpg", eps.encode()),
        ("a.png", svg.encode()),
        ("a.png", declared_png(1, 2**31 - 1)),
        ("a.png", declared_png(60_000, 60_000)),
        ("a.png", declared_png(100_000_000, 1)),
        ("a.png", b"#define x_width 100000\n#define x_height 100000\nstatic char x_bits[] = {\n"),
        ("a.webp", b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 40),
        ("a.bmp", b"BM" + b"\xff" * 60),
        ("a.tiff", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60),
        ("$(touch x).png", b""),
        ("-rf.png", b"P6 1000000 1000000 255\n"),
    ]


def odd_files(folder: Path, draw: Random) -> None:
    """Puts what is no file where an image is expected: links out and around, a pipe, a folder, a file without end."""
    import os

    kind = draw.randrange(6)
    place = folder / "odd.png"
    if kind == 0:
        place.symlink_to(draw.choice(["/dev/zero", "/dev/full", "/dev/stdin", "/etc/passwd", "/proc/self/mem"]))
    elif kind == 1:
        place.symlink_to(place)
    elif kind == 2:
        os.mkfifo(place)
    elif kind == 3:
        place.mkdir()
    elif kind == 4:
        (folder / "loop").symlink_to(folder)
    else:
        with place.open("wb") as file:
            file.truncate(2**33)  # takes no room on the disk


def hostile_tar(canary: Path, draw: Random) -> bytes:
    """A tar whose members point out of it, or claim to be devices and links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for number in range(draw.randint(1, 4)):
            name = draw.choice(
                [f"../../../../../..{canary}", str(canary), "a/../../x.jpg", f"{number}.jpg", "x/0.jpg"]
            )
            info = tarfile.TarInfo(name)
            info.type = draw.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S", b"x"])
            info.linkname = draw.choice([str(canary), "/etc/passwd", "..", name])
            info.size = draw.choice([0, 5]) if info.type == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(b"hello"))
    return out.getvalue()

"""Which format a file has, by its content."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

from clip_antidote.models.checkpoint import is_safetensors, is_torch_archive
from clip_antidote.models.torchscript import is_torchscript

SAFETENSORS, ZIP, TORCHSCRIPT = "safetensors", "PyTorch zip", "TorchScript"
LEGACY, PICKLE, EMPTY, ARCHIVE = "PyTorch legacy pickle", "pickle", "empty", "zip archive"
DAMAGED_ZIP = "damaged zip archive"
WITH_PICKLES = frozenset({ZIP, TORCHSCRIPT, LEGACY, PICKLE, ARCHIVE})
"""Formats that hold pickles."""

CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
"""Names of files that may be weights."""

_TORCH_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")  # PyTorch's magic number, a pickled integer
_OTHERS = {
    b"GGUF": "GGUF",
    b"\x89HDF": "HDF5",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7-Zip",
    b"\x93NUMPY": "NumPy",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"<": "HTML or XML",
    b"version https://git-lfs": "Git LFS pointer",
}
_SNIFFED, _SURE = 2**20, 100


def tell_format(path: Path) -> str:
    """Names the format of a file: one of the constants here, another kind's name, or "unknown".

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return EMPTY
    if is_safetensors(head[:9]):  # first, as the loader does: the length of the header may begin like the others
        return SAFETENSORS
    if head.startswith(b"PK"):
        return _zip_format(path)
    if head.startswith(b"\x80"):
        return LEGACY if _TORCH_MAGIC in head[:16] else PICKLE
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return name
    if _is_old_pickle(path):
        return PICKLE
    return SAFETENSORS if path.suffix == ".safetensors" else "unknown"


def _zip_format(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a crafted directory can make the reader fail in any way
        return DAMAGED_ZIP
    if is_torchscript(names):
        return TORCHSCRIPT
    return ZIP if is_torch_archive(names) else ARCHIVE


def _is_old_pickle(path: Path) -> bool:
    """Whether a file without magic number is a pickle of the first protocols: to its end, or for long enough."""
    count = 0
    with path.open("rb") as file:
        data = file.read(_SNIFFED)
    try:
        for _ in pickletools.genops(io.BytesIO(data)):
            count += 1
    except Exception:  # it ends elsewhere, or is none
        return count >= _SURE
    return count > 1

"""Reading checkpoints, which are untrusted input: tensors come in, nothing is ever executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from clip_antidote.errors import ModelError
from clip_antidote.models.pickle_dry_run import ExcessError
from clip_antidote.models.pickle_scan import scan_archive, scan_legacy
from clip_antidote.models.torchscript import is_torchscript, read_torchscript

T = TypeVar("T")

_MAX_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Reads the weights of a checkpoint without running any code from it.

    Takes safetensors, state dicts and training checkpoints of PyTorch (`state_dict`, `model` and
    `module.` are unwrapped), and TorchScript archives, of which the tensors are read and no code is run.
    The format is told from the content, not from the name.

    Args:
        path: The file.

    Returns:
        Dense CPU tensors by parameter name, in the data types of the file.

    Raises:
        ModelError: The file is missing, empty, a folder, damaged, holds anything but tensors, declares more than it
            holds, or could only be read by executing it.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"the checkpoint {path} is a folder; name a file, or write local-dir:{path}")
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
        raise ModelError(f"the checkpoint {path} is no regular file; name a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as error:
        raise ModelError(f"the checkpoint {path} does not exist; check the path") from error
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror}; check its permissions") from error
    if size == 0:
        raise ModelError(f"the checkpoint {path} is empty; copy or download it again")
    if is_safetensors(head) or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80"))):
        return _only_tensors(_read_safetensors(path), path)
    zipped = head.startswith(b"PK")
    script = zipped and _check_archive(path, size)
    if not zipped and not head.startswith(b"\x80"):
        raise ModelError(
            f"the checkpoint {path} is neither a safetensors nor a PyTorch file; export the state dict as safetensors"
        )
    return strip_prefixes(_only_tensors(_unwrap(_read_torch(path, zipped=zipped, script=script), path), path))


def is_safetensors(head: bytes) -> bool:
    """Whether the first bytes are a plausible header length and the start of a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return strip_prefixes(load_file(str(path), device="cpu"))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"the safetensors file {path} is damaged or truncated; copy or download it again") from error


def _check_archive(path: Path, size: int) -> bool:
    """Looks into PyTorch's zip layout before anything of it is loaded, and says whether it is TorchScript's."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"the checkpoint {path} is damaged or truncated; copy or download it again") from error
    names = [entry.filename for entry in entries]
    if not is_torch_archive(names):
        raise ModelError(f"{path} is a zip file but not a PyTorch checkpoint; export the state dict as safetensors")
    if is_torchscript(names):
        return True  # its code is compressed; what is read of it is looked at in torchscript.py
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > size:  # PyTorch never compresses: a zip bomb
        raise ModelError(f"the checkpoint {path} is compressed inside, which PyTorch never does; get it elsewhere")
    return False


def is_torch_archive(names: Sequence[str]) -> bool:
    """Whether the entries of a zip file are those of a PyTorch archive, TorchScript's included."""
    return bool(names) and f"{names[0].partition('/')[0]}/data.pkl" in names


def _read_torch(path: Path, *, zipped: bool, script: bool) -> object:
    try:
        if script:
            return read_torchscript(path)
        with path.open("rb") as file:  # by name, torch.load would go by the suffix
            if zipped:
                scan_archive(path)
            else:
                scan_legacy(file, path.stat().st_size)
                file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise ModelError(
            f"the checkpoint {path} holds {what}, and loading those can run code; save only its state dict, as "
            "safetensors, on a machine where you trust it"
        ) from error
    except Exception as error:  # a crafted file can make the reader fail in any way
        what = str(error) if isinstance(error, ExcessError) else type(error).__name__
        raise ModelError(
            f"the checkpoint {path} is damaged or truncated ({what}); copy or download it again"
        ) from error


def _unwrap(content: object, path: Path) -> Mapping[Any, Any]:
    """Finds the state dict in a training checkpoint."""
    for _ in WRAPPERS:
        if not isinstance(content, Mapping):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return content
        content = inner
    if isinstance(content, Mapping):
        return content
    raise ModelError(
        f"the checkpoint {path} holds a {type(content).__name__}, not a state dict; save model.state_dict()"
    )


def _only_tensors(state: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    if not state:
        raise ModelError(f"the checkpoint {path} holds no weights; save model.state_dict()")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ModelError(f"the checkpoint {path} has an entry named {name!r:.40}; save model.state_dict()")
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"entry '{name}' of the checkpoint {path} is a {type(value).__name__}, not a tensor; save only "
                "model.state_dict()"
            )
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ModelError(
                f"entry '{name}' of the checkpoint {path} is not a plain dense tensor; save the weights in fp32"
            )
    return dict(state)


def strip_prefixes(state: Mapping[str, T]) -> dict[str, T]:
    """Removes what wrappers put before every name."""
    result = dict(state)
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in result)), None):
        if not result:
            break
        result = {name[len(prefix) :]: value for name, value in result.items()}
    return result

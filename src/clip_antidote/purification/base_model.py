"""The model that an artefact names: whether that may be followed, since an artefact is untrusted."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.errors import ModelError, UsageError
from clip_antidote.files import sha256_file
from clip_antidote.models import downloads
from clip_antidote.models.whereabouts import weights_file
from clip_antidote.purification.artefact import BaseModelRef

_GIVE = "give --model SPEC (model= in Python) with a copy you trust"


def base_spec(base: BaseModelRef, folder: Path, *, allow_download: bool) -> str:
    """The spec of the model that an artefact names, if it may be followed.

    A local file is looked into only where its checksum is the recorded one: so an artefact can have no other file of
    this machine read as a model, and learns or tells nothing about it.

    Args:
        base: What the artefact names.
        folder: The artefact; a model folder that was moved together with it is found beside it.
        allow_download: Whether weights may come from the network.

    Raises:
        UsageError: They would have to, and may not; or the artefact names a model without a checksum.
        ModelError: What it names is another model, or no file.
    """
    if _elsewhere(base.spec) or (downloads(base.spec) and not allow_download):
        raise UsageError(
            f"{folder} names the model '{base.spec:.80}', which is not on this machine; {_GIVE}, or --allow-download "
            "(allow_download=True) to fetch it"
        )
    if not base.sha256:
        raise UsageError(f"{folder} names the model '{base.spec:.80}' without its checksum; {_GIVE}")
    spec = _moved(base.spec, folder)
    file = weights_file(spec)
    if file is not None and file.exists():
        if not file.is_file():
            raise ModelError(f"{folder} names {file} as its model, which is no regular file; {_GIVE}")
        try:
            check_base(base, sha256_file(file), folder)
        except OSError as error:
            raise ModelError(f"cannot read the model {file} that {folder} names: {error.strerror}") from error
    return spec


def check_base(base: BaseModelRef, sha256: str, folder: Path) -> None:
    """Makes sure that a model is the one that was purified, where its checksum is recorded.

    Raises:
        ModelError: It is another one.
    """
    if base.sha256 and sha256 != base.sha256:
        raise ModelError(
            f"{folder} was made for another checkpoint (sha256 {base.sha256[:12]}…, this one has {sha256[:12]}…); "
            "give the model it was purified from"
        )


def _elsewhere(spec: str) -> bool:
    """Whether a path in a spec is that of another machine: to try it would tell that machine who asks."""
    kind, separator, rest = spec.partition(":")
    path = rest.partition("@")[2] if kind == "open_clip" else rest if separator else spec
    return path.replace("\\", "/").startswith("//")


def _moved(spec: str, folder: Path) -> str:
    """Follows a local model folder that was moved together with the artefact."""
    kind, _, path = spec.partition(":")
    if kind in ("local-dir", "hf") and not Path(path).exists():
        beside = folder.parent / Path(path).name
        if beside.exists():
            return f"{kind}:{beside}"
    return spec

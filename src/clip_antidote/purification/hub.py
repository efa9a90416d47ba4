"""Purified classifiers on the Hugging Face Hub: what goes up, and what is fetched, of bounded size, no pickle."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_antidote.errors import ClipAntidoteError, DataError, UnsupportedError, UsageError
from clip_antidote.files import write_text
from clip_antidote.purification.artefact import Artefact, write_artefact
from clip_antidote.purification.hub_card import FOLDER, public_spec, short_card, with_license

PREFIX = "hf-hub:"
FILES = (
    "config.json",
    "README.md",
    "classifier.safetensors",
    "guard.safetensors",
    "prompts.safetensors",
    "triggers/*/trigger.json",
    "triggers/*/trigger.safetensors",
)
"""What an artefact needs of a repository; nothing else is fetched."""

LARGEST, MOST = 2_000_000_000, 1000
"""Most bytes and files that are fetched."""

_REPOSITORY = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


def local_folder(where: str | Path, *, allow_download: bool) -> Path:
    """The folder of an artefact on this machine; fetched where the name says so.

    `hf-hub:org/name` is fetched. `org/name` is a folder; where there is none, it is fetched if that is allowed.

    Raises:
        UsageError: It is neither a folder nor allowed to be fetched, or names no repository.
        DataError: It cannot be fetched, or is too large.
    """
    text = str(where)
    if text.startswith(PREFIX):
        return fetch_artefact(text.removeprefix(PREFIX))
    if Path(where).exists() or not _REPOSITORY.fullmatch(text):
        return Path(where)
    if allow_download:
        return fetch_artefact(text)
    raise UsageError(
        f"there is no folder {text}; for the classifier of that name on the Hugging Face Hub write {PREFIX}{text}, "
        "or allow_download=True to fetch its model too"
    )


def fetch_artefact(repo: str) -> Path:
    """Fetches what an artefact needs of a repository into the Hub's own cache, after a look at its sizes.

    Raises:
        UsageError: This is no name of a repository.
        UnsupportedError: The package huggingface_hub is missing.
        DataError: It cannot be had, or is larger than an artefact is.
    """
    _check_name(repo)
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise _missing() from error
    try:
        info = HfApi().model_info(repo, files_metadata=True)
        wanted = {one.rfilename: one.size for one in info.siblings or () if _matches(one.rfilename)}
    except Exception as error:  # requests, httpx and the Hub all fail differently
        raise _failure("fetch", repo, error) from error
    if "config.json" not in wanted or "classifier.safetensors" not in wanted:
        raise DataError(f"the repository {repo} holds no purified classifier; name another one")
    if len(wanted) > MOST or sum(LARGEST if size is None else size for size in wanted.values()) > LARGEST:
        raise DataError(f"the repository {repo} is larger than a purified classifier can be; nothing was fetched")
    try:  # by the commit that was looked at
        return Path(snapshot_download(repo, revision=info.sha, allow_patterns=sorted(wanted)))
    except Exception as error:
        raise _failure("fetch", repo, error) from error


def push_artefact(artefact: Artefact, repo: str, *, license_name: str | None = None, **options: Any) -> str:
    """Uploads an artefact by huggingface_hub's own mixin, with a model card and without folders in its model's name.

    Args:
        artefact: The artefact.
        repo: `org/name`; made where it does not exist.
        license_name: For the card, as the Hub calls it.
        options: Those of `ModelHubMixin.push_to_hub`.

    Returns:
        The address of the commit.

    Raises:
        UsageError: This is no name of a repository, or no license.
        UnsupportedError: The package huggingface_hub is missing.
        DataError: It cannot be uploaded.
    """
    _check_name(repo)
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError as error:
        raise _missing() from error
    base = artefact.base_model
    card = (artefact.card or short_card(base.spec, base.sha256, artefact.classes)).replace(FOLDER, PREFIX + repo)
    if license_name is not None:
        card = with_license(card, license_name)
    shared = replace(artefact, base_model=base.model_copy(update={"spec": public_spec(base.spec)}), card=None)

    class Upload(ModelHubMixin):
        def _save_pretrained(self, save_directory: Path) -> None:
            write_artefact(shared, save_directory)
            write_text(save_directory / "README.md", card)

    try:
        return str(Upload().push_to_hub(repo, ignore_patterns=["*.pt"], **options))
    except ClipAntidoteError:
        raise
    except Exception as error:
        raise _failure("upload", repo, error) from error


def _matches(name: str) -> bool:
    plain = re.fullmatch(r"[\w./-]+", name) is not None  # the Hub's client reads names as patterns once more
    return plain and ".." not in name.split("/") and any(fnmatch.fnmatchcase(name, pattern) for pattern in FILES)


def _check_name(repo: str) -> None:
    if not _REPOSITORY.fullmatch(repo):
        raise UsageError(f"'{repo}' does not name a repository of the Hugging Face Hub; write org/name")


def _missing() -> UnsupportedError:
    return UnsupportedError(
        "the Hugging Face Hub needs the package huggingface_hub; install it with: pip install 'clip-antidote[hub]'"
    )


def _failure(deed: str, repo: str, error: Exception) -> DataError:
    reason = next(iter(str(error).strip().splitlines()), "")
    return DataError(
        f"cannot {deed} the classifier {repo} at the Hugging Face Hub ({type(error).__name__}: {reason:.200}); check "
        "its name, the network and that you are logged in (hf auth login)"
    )

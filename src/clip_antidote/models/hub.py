"""Models on the Hugging Face hub: which files of a repository make a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models.hf_config import HF_CONFIG_NAME
from clip_antidote.models.hf_loading import HF_WEIGHTS, PREPROCESSORS
from clip_antidote.models.hf_tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILES
from clip_antidote.models.spec import CONFIG_NAME

_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

Fetch = Callable[[str], Path | None]
"""Takes the name of a file and gives where it lies here, None where the repository has none."""

_found: ContextVar[dict[str, Path] | None] = ContextVar("_found", default=None)


@contextmanager
def resolved_once() -> Iterator[None]:
    """Inside the block the hub is asked once for a repository: so what is inspected is also what is loaded."""
    token = _found.set({} if (known := _found.get()) is None else known)
    try:
        yield
    finally:
        _found.reset(token)


def hub_folder(repo: str) -> Path:
    """Downloads a model and gives the folder that it lies in.

    A repository may hold it in the format of open_clip, of transformers, or in both; open_clip's is taken first.
    See `resolved_once` for one that is asked for several times.

    Args:
        repo: org/repo.

    Raises:
        ModelError: The repository cannot be had, or holds neither format.
        UnsupportedError: huggingface_hub is missing.
    """
    known = _found.get()
    if known is None:
        return _download(repo)
    if repo not in known:
        known[repo] = _download(repo)
    return known[repo]


def _download(repo: str) -> Path:
    fetch = _fetcher(repo)
    config = fetch(CONFIG_NAME)
    if config is not None:
        _first(fetch, repo, _OPEN_CLIP_WEIGHTS)
        return config.parent
    config = fetch(HF_CONFIG_NAME)
    if config is None:
        raise ModelError(
            f"the repository {repo} has neither {CONFIG_NAME} nor {HF_CONFIG_NAME}; use one in the format of "
            "open_clip or transformers"
        )
    _first(fetch, repo, HF_WEIGHTS)
    for name in (*PREPROCESSORS, TOKENIZER_CONFIG, *TOKENIZER_FILES):
        fetch(name)
    return config.parent


def _first(fetch: Fetch, repo: str, names: tuple[str, ...]) -> None:
    if not any(fetch(name) is not None for name in names):
        raise ModelError(f"the repository {repo} has no {names[0]}; use one with its weights in one file")


def _fetcher(repo: str) -> Fetch:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UnsupportedError(
            "hf-hub: models need huggingface_hub; install it with: pip install 'clip-antidote[hub]'"
        ) from error

    def fetch(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo_id=repo, filename=name))
        except LocalEntryNotFoundError as error:
            raise _hub_error(repo, name, error) from error
        except EntryNotFoundError:
            return None
        except Exception as error:  # requests, httpx and the hub all fail differently
            raise _hub_error(repo, name, error) from error

    return fetch


def _hub_error(repo: str, name: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot download {name} of {repo} from the Hugging Face hub ({type(error).__name__}); check the name and "
        "the network, or write local-dir:PATH with a copy"
    )

"""Tokenizers, made on first use, from an open_clip configuration that may be untrusted."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import open_clip

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models.wrapped import Tokenizer

# Only these reach the tokenizer's constructor: transformers would take options that run code.
_HF_OPTIONS = frozenset({"clean", "strip_sep_token", "language"})
_SIMPLE_OPTIONS = frozenset({"clean", "reduction_mask"})
# open_clip's other masks of captions fetch data, or are for training only.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "clean": ("lower", "whitespace", "canonicalize", None),
    "reduction_mask": ("", "simple", None),
    "strip_sep_token": (True, False, None),
}
SIMPLE_VOCABULARY = 49408
_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def tokenizer_factory(model_cfg: dict[str, Any], folder: Path | None = None) -> Callable[[], Tokenizer]:
    """Returns what makes the tokenizer of a configuration; nothing is loaded before it is called.

    Args:
        model_cfg: `text_cfg` is read.
        folder: The model's folder, where its own tokenizer files may lie. Without them the configured name is used
            where its files are on this machine: nothing that a folder says is fetched. Without a folder it may be.

    Raises:
        ModelError: The tokenizer options are not a mapping.
        UnsupportedError: The configuration sets tokenizer options that are not known to be harmless.
            When called, the result raises it where transformers is missing, and ModelError where
            the tokenizer cannot be had.
    """
    text = model_cfg.get("text_cfg", {})
    name = text.get("hf_tokenizer_name")
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict):
        raise ModelError(
            "text_cfg.tokenizer_kwargs of the model configuration must be a mapping; correct or remove it"
        )
    _check_options(options, _HF_OPTIONS if name else _SIMPLE_OPTIONS)
    if name is not None and not isinstance(name, str):
        raise ModelError(f"text_cfg.hf_tokenizer_name of the model configuration is {name!r:.60}; it must be a name")
    length = text.get("context_length", 77)
    if not name:
        if text.get("vocab_size", SIMPLE_VOCABULARY) < SIMPLE_VOCABULARY:
            raise ModelError(
                f"the model configuration has a vocabulary of {text['vocab_size']}, open_clip's own tokenizer one of "
                f"{SIMPLE_VOCABULARY}; correct text_cfg.vocab_size or name its tokenizer"
            )
        return lambda: simple_tokenizer(length, **options)
    own = folder is not None and any((folder / file).is_file() for file in _TOKENIZER_FILES)

    def make() -> Tokenizer:
        if importlib.util.find_spec("transformers") is None:
            raise UnsupportedError(
                f"the tokenizer {name} of this model needs the transformers library; "
                "install it with: pip install 'clip-antidote[hf]'"
            )
        source = str(folder) if own else name if folder is None else _cached(name, folder)
        try:
            made: Tokenizer = open_clip.tokenizer.HFTokenizer(
                source, context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options
            )
        except Exception as error:  # transformers and the hub raise whatever they like
            raise ModelError(
                f"cannot load the tokenizer {source} ({type(error).__name__}); check the network, or put its "
                "files into the model's folder"
            ) from error
        return made

    return make


@cache
def simple_tokenizer(context_length: int, **options: str | None) -> Tokenizer:
    """Returns open_clip's own tokenizer, one for all models with these options; it changes by nothing but use."""
    made: Tokenizer = open_clip.SimpleTokenizer(context_length=context_length, **options)
    return made


def _cached(name: str, folder: Path) -> str:
    """Where this machine keeps the tokenizer that a folder names; what transformers takes itself asks the hub first.

    Raises:
        ModelError: It does not, or the name leads elsewhere.
    """
    from huggingface_hub import snapshot_download  # comes with transformers

    try:
        if not _REPOSITORY.fullmatch(name):
            raise ValueError("not the name of a repository")
        return str(snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub raises whatever it likes
        raise ModelError(
            f"the model folder {folder} names the tokenizer {name:.60}, which is not on this machine and is not "
            "fetched; put its files (tokenizer.json) into the folder"
        ) from error


def _check_options(options: dict[str, Any], known: frozenset[str]) -> None:
    """Refuses what is not known to be harmless, with UnsupportedError."""
    unknown = set(options) - known
    if unknown:
        raise UnsupportedError(
            f"the model configuration sets the tokenizer option '{min(unknown)}', which is not supported; remove "
            "it from text_cfg.tokenizer_kwargs"
        )
    odd = next((key for key, value in options.items() if value not in _KNOWN.get(key, (value,))), None)
    if odd is not None:
        raise UnsupportedError(
            f"the model configuration sets the tokenizer option '{odd}' to {options[odd]!r:.60}, which is not "
            "supported"
        )

"""Tokenizers, made on first use, from an open_clip configuration that may be untrusted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models.open_clip_backend import Tokenizer

# Only these reach the tokenizer's constructor: transformers would take options that run code.
_HF_OPTIONS = frozenset({"clean", "strip_sep_token", "language"})
_SIMPLE_OPTIONS = frozenset({"clean", "reduction_mask"})
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def tokenizer_factory(model_cfg: dict[str, Any], folder: Path | None = None) -> Callable[[], Tokenizer]:
    """Returns what makes the tokenizer of a configuration; nothing is loaded before it is called.

    Args:
        model_cfg: `text_cfg` is read.
        folder: Where the model's own tokenizer files may lie; the configured name is used otherwise.

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
    unknown = set(options) - (_HF_OPTIONS if name else _SIMPLE_OPTIONS)
    if unknown:
        raise UnsupportedError(
            f"the model configuration sets the tokenizer option '{min(unknown)}', which is not supported; remove "
            "it from text_cfg.tokenizer_kwargs"
        )
    length = text.get("context_length", 77)
    if not name:
        return lambda: open_clip.SimpleTokenizer(context_length=length, **options)
    own = folder is not None and any((folder / file).is_file() for file in _TOKENIZER_FILES)
    source = str(folder) if own else str(name)

    def make() -> Tokenizer:
        if importlib.util.find_spec("transformers") is None:
            raise UnsupportedError(
                f"the tokenizer {name} of this model needs the transformers library; "
                "install it with: pip install 'clip-antidote[hf]'"
            )
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

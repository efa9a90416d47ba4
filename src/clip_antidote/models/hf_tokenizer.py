"""Tokenizers of transformers, from a model folder that may be untrusted.

transformers hands every entry of `tokenizer_config.json` to the tokenizer, and some name other files or code. So the
tokenizer is made from a temporary copy of the files that describe it, with the harmless entries alone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clip_antidote.errors import ModelError, UnsupportedError
from clip_antidote.models.hf_config import LEGACY_END, quiet, read_json
from clip_antidote.models.wrapped import Tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "tokenizer.model",
)
_MOST_BYTES = 100_000_000
_TOKENS = frozenset({"bos_token", "eos_token", "unk_token", "pad_token", "mask_token"})
_FLAGS = frozenset(
    {
        *("add_bos_token", "add_eos_token", "do_lower_case", "clean_up_tokenization_spaces", "add_prefix_space"),
        *("spaces_between_special_tokens", "split_special_tokens", "legacy"),
    }
)
_CLASSES = {
    "clip": ("CLIPTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "siglip": (
        "SiglipTokenizer",
        "GemmaTokenizer",
        "Siglip2Tokenizer",
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    ),
}
"""Tokenizer classes by type of model, the usual one first."""


def hf_tokenizer_factory(folder: Path, config: Any) -> Callable[[], Tokenizer]:
    """Returns what makes the tokenizer of a model folder; nothing is loaded before it is called.

    Texts are padded on the right to the model's full length, as both kinds of model were trained. For SigLIP2's
    Gemma tokenizer they are lower-cased before, as in its training; SigLIP's own tokenizer does that itself and
    strips punctuation.

    Args:
        folder: Holds the tokenizer's files; nothing else is read, and there is no connection.
        config: Of the model, from `hf_config`.

    Raises:
        ModelError: When called: files are missing or damaged.
        UnsupportedError: When called: the tokenizer is of a class that is not known, or needs another package.
    """
    text = config.text_config
    length, size = text.max_position_embeddings, text.vocab_size
    end = text.eos_token_id if config.model_type == "clip" and text.eos_token_id != LEGACY_END else None

    def make() -> Tokenizer:
        name, own = _load(folder, config.model_type)
        lower = name in ("GemmaTokenizer", "Siglip2Tokenizer")

        def tokenize(texts: list[str]) -> torch.Tensor:
            given = [text.lower() for text in texts] if lower else texts
            ids: torch.Tensor = own(
                given, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            )["input_ids"]
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise ModelError(f"the tokenizer in {folder} has more tokens than the model's {size}; use its own")
            if end is not None and not bool((ids == end).any(dim=1).all()):
                raise ModelError(
                    f"the tokenizer in {folder} does not end a text with token {end}, as the model's config.json "
                    "says; use its own"
                )
            return ids

        return tokenize

    return make


def _load(folder: Path, kind: str) -> tuple[str, Any]:
    import transformers

    settings = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    stated = settings.get("tokenizer_class") or _CLASSES[kind][0]
    name = str(stated).removesuffix("Fast") if stated != "PreTrainedTokenizerFast" else str(stated)
    if name not in _CLASSES[kind]:
        raise UnsupportedError(
            f"{folder / TOKENIZER_CONFIG} asks for the tokenizer {stated!r:.60}, which is not known for this kind of "
            f"model; it must be one of {', '.join(_CLASSES[kind])}"
        )
    if name == "SiglipTokenizer":
        _need_sentencepiece(folder)
    found = getattr(transformers, f"{name}Fast", None) or getattr(transformers, name, None)
    if found is None:
        raise UnsupportedError(f"the tokenizer {name} of {folder} needs a newer transformers; upgrade it")
    with tempfile.TemporaryDirectory(prefix="clip-antidote-") as made:
        copy = Path(made)
        _copy_files(folder, copy, {"tokenizer_class": str(stated), **_harmless(settings)})
        try:
            with quiet():
                own = found.from_pretrained(str(copy), local_files_only=True, trust_remote_code=False)
            own.padding_side = own.truncation_side = "right"
            if own.pad_token_id is None:
                raise ValueError("it has no padding token")
            own(["a"], padding="max_length", truncation=True, max_length=8)
        except Exception as error:  # transformers and its parsers raise whatever they like
            reason = " ".join((str(error) or type(error).__name__).split())
            raise ModelError(
                f"cannot load the tokenizer in {folder} ({reason:.150}); copy all files of the tokenizer there"
            ) from error
    return name, own


def _need_sentencepiece(folder: Path) -> None:
    import importlib.util

    if any(importlib.util.find_spec(package) is None for package in ("sentencepiece", "google.protobuf")):
        raise UnsupportedError(
            f"the tokenizer in {folder} needs sentencepiece and protobuf; install them with: "
            "pip install 'clip-antidote[hf]'"
        )


def _harmless(settings: dict[str, Any]) -> dict[str, Any]:
    """The entries that say how text is cut, none that name code, files or templates."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if (name in _TOKENS and _is_token(value)) or (name in _FLAGS and isinstance(value, bool)):
            kept[name] = value
        elif name == "added_tokens_decoder" and isinstance(value, dict):
            kept[name] = {key: token for key, token in value.items() if key.isdigit() and _is_token(token)}
    return kept


def _is_token(value: Any) -> bool:
    """Whether it is the text of a token, or its description."""
    if not isinstance(value, dict):
        return isinstance(value, str) and len(value) <= 256
    flags = {key: item for key, item in value.items() if key not in ("content", "__type")}
    if value.get("__type", "AddedToken") != "AddedToken" or not all(
        isinstance(item, bool) for item in flags.values()
    ):
        return False
    return isinstance(value.get("content"), str) and len(value["content"]) <= 256


def _copy_files(folder: Path, copy: Path, settings: dict[str, Any]) -> None:
    found = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model"} & set(found):
        raise ModelError(f"the model folder {folder} has no tokenizer; put tokenizer.json or its other files there")
    for name in found:
        if (folder / name).stat().st_size > _MOST_BYTES:
            raise ModelError(f"{folder / name} has more than {_MOST_BYTES} bytes, which no tokenizer has")
        shutil.copyfile(folder / name, copy / name)
    (copy / TOKENIZER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")

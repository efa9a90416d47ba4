"""What a `config.json` of transformers may say: checked before memory is taken for it, since it may be untrusted.

Only the values listed here reach transformers, so that nothing in the file can name code, kernels or other files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_antidote.errors import ModelError, UnsupportedError

HF_CONFIG_NAME = "config.json"
LEGACY_END = 2
"""An `eos_token_id` that older configurations of CLIP have by mistake; transformers takes the largest id instead."""

_MOST_BYTES = 16_000_000
_SIZES = {
    "hidden_size": 16_384,
    "intermediate_size": 131_072,
    "num_hidden_layers": 512,
    "num_attention_heads": 256,
    "vocab_size": 4_000_000,
    "max_position_embeddings": 4096,
    "image_size": 4096,
    "patch_size": 4096,
    "num_channels": 3,
    "projection_dim": 16_384,
    "projection_size": 16_384,
}
"""Whole numbers from 1 and the largest of each: several times those of the largest models there are."""

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast")
_OLD_LAYOUTS = ("text_config_dict", "vision_config_dict")
_MOST_PARAMETERS = 20_000_000_000


def read_json(path: Path, *, most: int = _MOST_BYTES) -> dict[str, Any]:
    """Reads a JSON object of at most `most` bytes.

    Raises:
        ModelError: The file is missing, too large or no JSON object.
    """
    try:
        if path.stat().st_size > most:
            raise ModelError(f"{path} has more than {most} bytes, which no such file has; copy or download it again")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"the model folder {path.parent} has no {path.name}; add it or name another") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path} as JSON; copy or download it again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON object; copy or download it again")
    return values


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block transformers says nothing below an error: what matters of it we say ourselves."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def hf_config(path: Path) -> Any:
    """Reads the configuration of a `CLIPModel` or `SiglipModel` and checks its values.

    Args:
        path: The file `config.json` of a model folder.

    Returns:
        transformers' own configuration, `CLIPConfig` or `SiglipConfig`.

    Raises:
        ModelError: The file cannot be read, or a value makes no sense.
        UnsupportedError: It is of another kind of model, or transformers is missing.
    """
    values = read_json(path)
    kind = _kind(values, path)
    kept: dict[str, Any] = {}
    for part in ("text_config", "vision_config", *_OLD_LAYOUTS):
        inner = values.get(part)
        if inner is not None:
            if not isinstance(inner, dict):
                raise ModelError(f"{path} has a {part} that is no mapping; copy or download it again")
            kept[part] = _checked(inner, f"{part}.", path)
    kept |= {k: v for k, v in _checked(values, "", path).items() if k == "projection_dim"}
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            f"{path.parent} is a model of the transformers library; install it with: pip install 'clip-antidote[hf]'"
        ) from error
    try:
        with quiet():
            config = (transformers.CLIPConfig if kind == "clip" else transformers.SiglipConfig)(**kept)
    except Exception as error:  # its checks differ from version to version
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ModelError(f"{path} describes no model of transformers: {reason:.200}") from error
    _check_towers(config, path)
    return config


def _kind(values: Mapping[str, Any], path: Path) -> str:
    kind = values.get("model_type")
    if kind in ("clip", "siglip"):
        return str(kind)
    if kind == "siglip2":
        raise UnsupportedError(
            f"{path} is a SigLIP2 model of the NaFlex kind: its images have no fixed size, so triggers have no fixed "
            "place; use one with a fixed size, such as siglip2-base-patch16-224"
        )
    raise UnsupportedError(
        f"{path} describes a model of type {kind!r:.60}; of transformers' models, CLIPModel and SiglipModel (SigLIP "
        "and SigLIP2 of fixed size) are supported"
    )


def _checked(values: Mapping[str, Any], where: str, path: Path) -> dict[str, Any]:
    """The values that describe a tower, each of its type and in its range; all others are left out."""
    kept = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in _SIZES:
            good = type(value) is int and 1 <= value <= _SIZES[name]
            hint = f"it must be a whole number from 1 to {_SIZES[name]}"
        elif name == "layer_norm_eps":
            good, hint = isinstance(value, float) and 0 < value <= 1, "it must be between 0 and 1"
        elif name in _TOKENS:
            good = type(value) is int and 0 <= value < _SIZES["vocab_size"]
            hint = "it must be the number of a token"
        elif name == "hidden_act":
            good, hint = value in _ACTIVATIONS, f"it must be one of {', '.join(_ACTIVATIONS)}"
        elif name == "vision_use_head":
            good, hint = value is True, "only models with a pooling head give image features"
        else:
            continue
        if not good:
            raise ModelError(f"{path} has {where}{name} {value!r:.60}; {hint}")
        kept[name] = value
    return kept


def _check_towers(config: Any, path: Path) -> None:
    text, vision = config.text_config, config.vision_config
    for part, tower in (("text_config", text), ("vision_config", vision)):
        if tower.hidden_size % tower.num_attention_heads:
            raise ModelError(
                f"{path} has a {part}.hidden_size of {tower.hidden_size}, which its {tower.num_attention_heads} "
                "heads do not divide; correct one of them"
            )
    if text.max_position_embeddings < 8:
        raise ModelError(f"{path} has text_config.max_position_embeddings below 8, which holds no class name")
    if vision.image_size < vision.patch_size or vision.num_channels != 3:
        raise ModelError(
            f"{path} has images of {vision.num_channels} channels and {vision.image_size} pixels in patches of "
            f"{vision.patch_size}; color images of at least a patch are needed"
        )
    if config.model_type == "clip" and text.eos_token_id >= text.vocab_size:
        raise ModelError(f"{path} has text_config.eos_token_id {text.eos_token_id} beyond its vocabulary")
    count = hf_parameters(config)
    if count > _MOST_PARAMETERS:
        raise ModelError(f"{path} describes about {count:.0e} parameters; correct its sizes")


def hf_parameters(config: Any) -> float:
    """About how many parameters a configuration that `hf_config` took describes."""
    text, vision = config.text_config, config.vision_config
    count = float(text.hidden_size * (text.vocab_size + text.max_position_embeddings))
    side = vision.image_size / vision.patch_size
    count += vision.hidden_size * (3 * vision.patch_size**2 + side**2)
    for tower in (text, vision):
        width = tower.hidden_size
        count += tower.num_hidden_layers * width * (4.0 * width + 2.0 * tower.intermediate_size)
    return count

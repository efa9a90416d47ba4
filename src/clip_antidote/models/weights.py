"""Fitting a state dict to an open_clip model, strictly: every entry finds its place or it is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict

from clip_antidote.errors import ModelError
from clip_antidote.models.activation import OPENAI_KEYS

_TEXT_NAMES = re.compile(r"(text_projection|positional_embedding|token_embedding|transformer|ln_final)\b")


def load_weights(model: Any, state: dict[str, torch.Tensor], path: Path, arch: str) -> None:
    """Copies weights into a model, as fp32, after bringing older layouts to open_clip's present one.

    Positions are not interpolated: another image size is another model.

    Args:
        model: `open_clip.CLIP` or `open_clip.CustomTextCLIP`.
        state: The weights, of any float type.
        path: Where they come from, for messages.
        arch: What they should fit, for messages.

    Raises:
        ModelError: Entries are missing, left over or of another shape, or a weight is not finite or out of its range.
    """
    state = _present_layout(model, state, path)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        first = f"'{missing[0]}' is missing" if missing else f"'{unexpected[0]}' is left over"
        raise ModelError(
            f"the checkpoint {path} does not fit {arch}: {len(missing)} entries are missing and {len(unexpected)} "
            f"left over, for example {first}; name the architecture it was trained with"
        )
    wrong = [name for name in wanted if wanted[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        more = f" (and {len(wrong) - 1} more such entries)" if len(wrong) > 1 else ""
        raise ModelError(
            f"the checkpoint {path} has {name} of shape {_shape(state[name])}, {arch} needs {_shape(wanted[name])}"
            f"{more}; name the architecture it was trained with"
        )
    for name, value in state.items():
        if wanted[name].is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelError(f"the checkpoint {path} stores {name} as {kind}; save its weights in fp32")
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise ModelError(f"the checkpoint {path} has values in {name} that are not finite; take another one")
        _check_range(name, value, path)
    model.load_state_dict(state)


def _check_range(name: str, value: torch.Tensor, path: Path) -> None:
    """Refuses what is a number and still leaves no model; a few dead channels, of variance 0, many models have."""
    wrong = ""
    if name.endswith("running_var") and value.numel() and (value.min() < 0 or value.max() <= 0):
        wrong = "no channel varies" if value.min() >= 0 else "a variance below 0"
    elif name == "logit_scale" and not bool((value.float().exp().isfinite() & (value.float().exp() > 0)).all()):
        wrong = f"a logarithm of {float(value.flatten()[0]):g}, beyond all scales"
    if wrong:
        raise ModelError(f"the checkpoint {path} has in {name} what no training gives ({wrong}); take another one")


def _present_layout(model: Any, state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    dropped = (*OPENAI_KEYS, "attn_mask", "text.attn_mask")
    state = {k: v for k, v in state.items() if k not in dropped and not k.endswith(".position_ids")}
    try:
        state = convert_state_dict(model, state)  # Apple's MobileCLIP names
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"the checkpoint {path} looks like an Apple MobileCLIP one but cannot be converted; use the open_clip "
            "version of it"
        ) from error
    if hasattr(model, "text") and "positional_embedding" in state:
        state = {f"text.{k}" if _TEXT_NAMES.match(k) else k: v for k, v in state.items()}
    elif not hasattr(model, "text") and "text.positional_embedding" in state:
        state = {k.removeprefix("text."): v for k, v in state.items()}
    for name in ("logit_scale", "logit_bias"):  # a scalar in some versions, one-dimensional in others
        own = getattr(model, name, None)
        if own is not None and name in state and state[name].numel() == own.numel():
            state[name] = state[name].reshape(own.shape)
    return state


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a scalar"

"""Fitting a state dict to an open_clip model, strictly: every entry finds its place or it is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict

from clip_antidote.errors import ModelError
from clip_antidote.models.activation import OPENAI_KEYS

TEXT_NAMES = re.compile(r"(text_projection|positional_embedding|token_embedding|transformer|ln_final)\b")


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
        wrong_range = impossible_range(name, value)
        if wrong_range is not None:
            raise ModelError(
                f"the checkpoint {path} has in {name} what no training gives ({wrong_range}); take another one"
            )
    model.load_state_dict(state)


def stored_weights(model: torch.nn.Module, *, half: bool = False) -> dict[str, torch.Tensor]:
    """Returns a model's weights as a file holds them: copies that share no memory, in fp16 where `half`.

    Raises:
        ModelError: A weight is not finite, or too large for fp16.
    """
    state = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous().clone()
        for name, value in model.state_dict().items()
    }
    broken = next((n for n, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())), None)
    if broken is not None:
        raise ModelError(f"the model has values in {broken} that are not finite; train it with a lower learning rate")
    return state


def impossible_range(name: str, value: torch.Tensor) -> str | None:
    """Says what is wrong with a tensor of numbers that no training gives, None where nothing is.

    A few dead channels, of variance 0, many models have.
    """
    if name.endswith("running_var") and value.numel() and (value.min() < 0 or value.max() <= 0):
        return "no channel varies" if value.min() >= 0 else "a variance below 0"
    if name == "logit_scale" and not bool((value.float().exp().isfinite() & (value.float().exp() > 0)).all()):
        return f"a logarithm of {float(value.flatten()[0]):g}, beyond all scales"
    return None


def is_dropped(name: str) -> bool:
    """Whether an entry of older layouts takes no part in the model: sizes, masks and positions."""
    return name in (*OPENAI_KEYS, "attn_mask", "text.attn_mask") or name.endswith(".position_ids")


def without_tower(name: str) -> str:
    """The name of an entry as it is where the text tower is no module of its own."""
    plain = name.removeprefix("text.")
    return plain if TEXT_NAMES.match(plain) else name


def _present_layout(model: Any, state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    state = {k: v for k, v in state.items() if not is_dropped(k)}
    try:
        state = convert_state_dict(model, state)  # Apple's MobileCLIP names
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"the checkpoint {path} looks like an Apple MobileCLIP one but cannot be converted; use the open_clip "
            "version of it"
        ) from error
    if hasattr(model, "text") and "positional_embedding" in state:
        state = {f"text.{k}" if TEXT_NAMES.match(k) else k: v for k, v in state.items()}
    elif not hasattr(model, "text") and "text.positional_embedding" in state:
        state = {k.removeprefix("text."): v for k, v in state.items()}
    for name in ("logit_scale", "logit_bias"):  # a scalar in some versions, one-dimensional in others
        own = getattr(model, name, None)
        if own is not None and name in state and state[name].numel() == own.numel():
            state[name] = state[name].reshape(own.shape)
    return state


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a scalar"

"""Optimizer groups, the learning-rate schedule, and whether a kept state is one of an optimizer."""

import math
from typing import Any

import torch
from torch import nn


def build_adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.AdamW:
    """AdamW with CLIP's parameter groups: no decay for biases, norms and the logit scale."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim < 2 or "logit_scale" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)


def warmup_cosine(step: int, *, steps: int, warmup: int) -> float:
    """Factor on the learning rate at `step` (from 0): linear warm-up, then cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def misfit_of_state(kept: dict[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    """Why a kept state is none of an optimizer, None where it is one; all but the learning rates must be the same.

    Args:
        kept: What `state_dict` is said to have given; an error of any kind where it is no such thing.
        optimizer: The optimizer that would go on from it.
    """
    own = optimizer.state_dict()["param_groups"]
    if [_lasting(group) for group in kept["param_groups"]] != [_lasting(group) for group in own]:
        return "its optimizer has other settings"
    if not all(isinstance(group["lr"], float) for group in kept["param_groups"]):
        return "its optimizer has no learning rate"
    parameters = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in kept["state"].items():
        if not alike(moments, _moments_after_a_step(optimizer, *parameters[index])):
            return "its optimizer is that of another model"
    return None


def alike(tensors: Any, own: dict[str, torch.Tensor]) -> bool:
    """Whether tensors have the same names, shapes and types."""
    return (
        isinstance(tensors, dict)
        and tensors.keys() == own.keys()
        and all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        and all((tensors[name].shape, tensors[name].dtype) == (own[name].shape, own[name].dtype) for name in own)
    )


def _lasting(group: dict[str, Any]) -> dict[str, Any]:
    """What of a group of parameters stays the same during a training."""
    return {name: value for name, value in group.items() if name != "lr"}


def _moments_after_a_step(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, group: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """What such an optimizer keeps of such a parameter; shown by a step of its own kind on a stand-in."""
    stand_in = nn.Parameter(torch.zeros_like(parameter))
    stand_in.grad = torch.zeros_like(parameter)
    settings = {name: value for name, value in group.items() if name in optimizer.defaults}
    probe = type(optimizer)([{**settings, "params": [stand_in]}])  # type: ignore[call-arg]  # lr has a default in all
    probe.step()
    return probe.state[stand_in]

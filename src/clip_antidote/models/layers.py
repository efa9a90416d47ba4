"""What the inner layers of an image tower say of an image, taken by hooks in the pass that gives its feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from clip_antidote.errors import ModelError

Layout = Literal["NCHW", "NHWC", "NLC", "LNC"]
"""How a stage lays out its output: maps with channels first or last, tokens with images first or second."""


@dataclass(frozen=True)
class Stage:
    """One place in an image tower.

    Attributes:
        module: Its output is taken; a tuple counts by its first part.
        layout: How the output is laid out.
        prefix: Tokens in front of those of the patches, the class token first; 0 for maps.
    """

    module: nn.Module
    layout: Layout
    prefix: int = 0

    def pooled(self, output: torch.Tensor) -> torch.Tensor:
        """Pools an output to [N, D_l], fp32: class token if there is one, mean and largest value of every channel.

        A trigger in one place shows in the largest value, one that lies over the whole image in the mean.
        """
        if self.layout == "NCHW":
            tokens = output.flatten(2).transpose(1, 2)
        elif self.layout == "NHWC":
            tokens = output.flatten(1, 2)
        else:
            tokens = output.transpose(0, 1) if self.layout == "LNC" else output
        patches = tokens[:, self.prefix :]
        parts = [tokens[:, 0]] if self.prefix else []
        return torch.cat([*parts, patches.mean(dim=1), patches.amax(dim=1)], dim=1).float()


class LayerFeatures(NamedTuple):
    """Features of N images at every stage and at the end.

    Attributes:
        stages: One tensor [N, D_l] per stage, from the first to the last; not unit vectors.
        final: Unit features [N, D], those of `encode_images`.
    """

    stages: list[torch.Tensor]
    final: torch.Tensor

    def at(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Features of every stage at rows [n]."""
        return [stage[rows] for stage in self.stages]


LayersAt = Callable[[torch.Tensor], list[torch.Tensor]]
"""Takes row numbers [n] of images and gives their features of every stage, [n, D_l] each."""


def whole_parts(features: Sequence[LayerFeatures]) -> LayerFeatures:
    """Puts the features of several batches into one."""
    stages = [torch.cat(parts) for parts in zip(*(one.stages for one in features), strict=True)]
    return LayerFeatures(stages, torch.cat([one.final for one in features]))


@contextmanager
def watched(modules: Sequence[nn.Module], keep: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Inside the block, what these modules give is handed on as they run; no hook is left after it.

    Args:
        modules: The modules; of a tuple that one gives, the first part counts.
        keep: Takes the number of a module and what it gave.
    """

    def watch(number: int) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            keep(number, output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = []
    try:
        for number, module in enumerate(modules):
            hooks.append(module.register_forward_hook(watch(number)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def tapped(stages: Sequence[Stage]) -> Iterator[dict[int, torch.Tensor]]:
    """Inside the block, what the stages give is pooled and kept by their number."""
    taken: dict[int, torch.Tensor] = {}

    def keep(number: int, output: torch.Tensor) -> None:
        taken[number] = stages[number].pooled(output)

    with watched([stage.module for stage in stages], keep):
        yield taken


def in_order(taken: dict[int, torch.Tensor], count: int) -> list[torch.Tensor]:
    """The pooled features by the number of their stage.

    Raises:
        ModelError: Some stage was never run.
    """
    if len(taken) != count:
        raise ModelError(f"{count - len(taken)} of {count} stages of the image tower took no part in an encoding")
    return [taken[number] for number in range(count)]


def open_clip_stages(visual: Any) -> list[Stage]:
    """The stages of an open_clip image tower; none where it is of an unknown kind.

    Those of a timm tower are the ones that timm itself lists for feature extraction (`feature_info`).
    """
    if hasattr(visual, "trunk"):
        return timm_stages(visual.trunk)
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        layout: Layout = "NLC" if getattr(visual.transformer, "batch_first", True) else "LNC"
        return [Stage(block, layout, prefix=1) for block in visual.transformer.resblocks]
    names = ("avgpool", "layer1", "layer2", "layer3", "layer4")
    if all(hasattr(visual, name) for name in names):
        return [Stage(getattr(visual, name), "NCHW") for name in names]
    return []


def timm_stages(trunk: Any) -> list[Stage]:
    """The stages of a timm model, by its `feature_info`."""
    listed = getattr(trunk, "feature_info", None) or []
    names = list(dict.fromkeys(str(entry["module"]) for entry in listed if entry["module"]))
    modules = dict(trunk.named_modules())
    if not names or any(name not in modules for name in names):
        return []
    if hasattr(trunk, "patch_embed") and hasattr(trunk, "num_prefix_tokens"):
        prefix = int(trunk.num_prefix_tokens)
        return [Stage(modules[name], "NLC", prefix=prefix) for name in names]
    layout: Layout = "NHWC" if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else "NCHW"
    return [Stage(modules[name], layout) for name in names]

"""The interface of a trigger: how an image looks when it carries one."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file

from clip_antidote.config import Config
from clip_antidote.errors import DataError
from clip_antidote.files import write_json, write_tensors


class Trigger(ABC):
    """Maps images in [0, 1] to triggered images in [0, 1] of the same shape.

    One that its settings define overrides `_apply` only; one that learned something, `tensors` and `restore` too.

    Args:
        config: Settings; the defaults of `config_class` where None.

    Attributes:
        name: Registered name.
        config: Settings; together with `tensors()` they define the trigger completely.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[Config]]
    config: Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else self.config_class()

    @abstractmethod
    def _apply(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Returns the triggered images, before clamping."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns what was learned and cannot be made again from the settings."""
        return {}

    @classmethod
    def restore(cls, config: Any, tensors: dict[str, torch.Tensor]) -> Self:
        """Makes the trigger again from settings and tensors; by default it has none.

        Raises:
            DataError: A tensor is missing or has the wrong shape.
        """
        return cls(config)

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Applies the trigger.

        Args:
            images: Float [N, 3, H, W] in [0, 1], already at the model's input size.
            generator: CPU generator for triggers that draw something fresh; a fixed one by default.

        Returns:
            Float [N, 3, H, W] in [0, 1].

        Raises:
            DataError: The images have another shape or are not floats.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(f"a trigger takes float images N×3×H×W, got {images.dtype} {tuple(images.shape)}")
        return self._apply(images, generator).clamp(0, 1)

    def apply_text(self, text: str) -> str:
        """Puts the trigger into a caption or prompt; the same text where the trigger is in images only."""
        return text

    def save(self, folder: Path) -> None:
        """Writes `trigger.json` and, where something was learned, `trigger.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors()
        if tensors:
            write_tensors(folder / "trigger.safetensors", tensors)
        write_json(folder / "trigger.json", {"trigger": self.name, "config": self.config.model_dump(mode="json")})


def read_trigger_file(folder: Path) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Reads what `Trigger.save` wrote: name, settings, tensors.

    Raises:
        DataError: The folder holds no trigger.
    """
    try:
        record = json.loads((folder / "trigger.json").read_text(encoding="utf-8"))
        name, config = str(record["trigger"]), dict(record["config"])
        file = folder / "trigger.safetensors"
        tensors = load_file(file) if file.exists() else {}
    except FileNotFoundError as error:
        raise DataError(f"there is no trigger in {folder}: trigger.json is missing") from error
    except Exception as error:  # a broken file may fail in many ways; all mean the same to the user
        raise DataError(f"cannot read the trigger in {folder}: {error}") from error
    return name, config, tensors

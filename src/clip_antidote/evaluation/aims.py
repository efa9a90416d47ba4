"""What an attacker wants triggered images to be called: one class, or another one for every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.errors import UsageError


@dataclass(frozen=True)
class Aim:
    """What triggered images are to be called.

    Attributes:
        target: Name of the target class.
        all_to_all: Whether every class is sent to another one, as many places further in the list as the target is
            from its beginning, around the end: the first class becomes the target. With the second class as target,
            y becomes y + 1, as in Gu et al. 2017.
    """

    target: str
    all_to_all: bool = False

    @classmethod
    def of(cls, target: str | Aim | None) -> Aim | None:
        """Takes the name of a target class for the aim of sending all images there."""
        return cls(target) if isinstance(target, str) else target

    def goals(self, labels: torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
        """Says for images of classes `labels`, int64 [N], what each is to be called, int64 [N].

        Raises:
            UsageError: The target is not one of the classes, or all-to-all is to send every class to itself.
        """
        index = class_index(classes, self.target)
        if not self.all_to_all:
            return torch.full_like(labels, index)
        if index == 0:
            raise UsageError(
                f"all-to-all sends the first class, '{classes[0]}', to the target, so the target must be another one"
            )
        return (labels + index) % len(classes)


def class_index(classes: Sequence[str], name: str) -> int:
    """Finds a class by name; underscores read as spaces, case does not matter.

    Raises:
        UsageError: There is none.
    """
    wanted = name.replace("_", " ").strip().casefold()
    for index, known in enumerate(classes):
        if known.casefold() == wanted:
            return index
    listed = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    raise UsageError(f"the target '{name}' is not one of the {len(classes)} classes: {listed}")

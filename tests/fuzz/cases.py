"""What a case of the slow tier is made of."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from base import Base


@dataclass
class Case:
    """One case.

    Attributes:
        draw: Where everything random of it comes from.
        base: What it breaks.
        inputs: Its folder of inputs.
        work: Its current folder, with files of a user in it.
        canary: A file that nothing but a payload makes.
        changing: Names in the current folder that the command may change or remove.
        replaced: Names that it may replace where it ends well.
        finding: Whether it looks for something, and ends with status 1 where that is found.
    """

    draw: random.Random
    base: Base
    inputs: Path
    work: Path
    canary: Path
    changing: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    finding: bool = False

    @property
    def model(self) -> str:
        return f"local-dir:{self.base.model}"

    def copy(self, name: str) -> Path:
        """A copy of something of the base among the inputs."""
        return Path(shutil.copytree(self.base.folder / name, self.inputs / name))


Kind = Callable[[Case], list[str]]


def evaluate(case: Case, model: str | Path, *more: object) -> list[str]:
    return ["evaluate", str(model), "--data", str(case.base.problem), *map(str, more)]

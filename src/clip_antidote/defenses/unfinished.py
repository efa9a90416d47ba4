"""What a defense keeps of unfinished work, so that an interrupted one goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from clip_antidote.files import atomic_path
from clip_antidote.progress import tell
from clip_antidote.training.optim import misfit_of_state

EVERY = 30.0
"""Seconds between two states that are written while nobody interrupts."""


class Unfinished:
    """Where the parts of one run of a defense are kept, numbered in the order in which they begin.

    Args:
        folder: A folder of this run alone; made when there is something to keep.

    Attributes:
        folder: The same.
        resumed: Whether a part went on from what an earlier run left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.resumed = False
        self._parts = 0

    def next_part(self) -> Path:
        """Names the file of the next part; the same run with the same settings names the same files again."""
        self._parts += 1
        file = self.folder / f"part-{self._parts}.pt"
        self.resumed |= file.exists()
        return file


_unfinished: ContextVar[Unfinished | None] = ContextVar("unfinished_defense", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[Unfinished]:
    """Keeps the unfinished work of the defense that runs inside the block; elsewhere nothing is kept."""
    unfinished = Unfinished(folder)
    token = _unfinished.set(unfinished)
    try:
        yield unfinished
    finally:
        _unfinished.reset(token)


def kept_folder() -> Path | None:
    """The folder of the run that goes on; None where nothing is kept."""
    unfinished = _unfinished.get()
    return None if unfinished is None else unfinished.folder


def next_part() -> Path | None:
    """The file of the next part of the run that goes on; None where nothing is kept."""
    unfinished = _unfinished.get()
    return None if unfinished is None else unfinished.next_part()


class DescentState:
    """How far a descent has come, on disk where its file is not None.

    Args:
        file: Where it is kept.
        optimizer: Holds what is optimized.
        generators: Random generators that the loss draws from.
        memory: Tensors that the loss keeps from step to step.

    Attributes:
        losses: The loss of every step so far.
        done: Whether the descent has ended.
    """

    def __init__(
        self,
        file: Path | None,
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator] = (),
        memory: Sequence[torch.Tensor] = (),
    ) -> None:
        self.file = file
        self.losses: list[float] = []
        self.done = False
        self._optimizer, self._generators = optimizer, tuple(generators)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._tensors = [*parameters, *memory]
        self._written = time.monotonic()

    def load(self, *, steps: int) -> int:
        """Takes up what an earlier run left and returns how many steps it had done.

        What is cut off, or is none of this descent, is left aside, and this is said.

        Args:
            steps: Number of steps of the whole descent.
        """
        if self.file is None or not self.file.exists():
            return 0
        try:
            device = self._tensors[0].device
            with self.file.open("rb") as file:
                state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
            if not self._fits(state, steps):
                raise ValueError("it is of another run")
            losses, done = [float(loss) for loss in state["losses"]], bool(state["done"])
        except Exception as error:  # a broken file may fail in many ways; all mean the same
            tell(f"the unfinished work {self.file} cannot be used ({type(error).__name__}); it starts again")
            return 0
        with torch.no_grad():
            for own, kept in zip(self._tensors, state["tensors"], strict=True):
                own.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        for generator, kept in zip(self._generators, state["generators"], strict=True):
            generator.set_state(kept.cpu())
        self.losses, self.done = losses, done
        return len(self.losses)

    def _fits(self, state: dict[str, Any], steps: int) -> bool:
        """Whether a state is one of this descent; an error where it is no state at all."""
        return (
            _forms(state["tensors"]) == _forms(self._tensors)
            and _forms(state["generators"]) == _forms([generator.get_state() for generator in self._generators])
            and state["losses"].ndim == 1
            and len(state["losses"]) <= steps
            and misfit_of_state(state["optimizer"], self._optimizer) is None
        )

    def save(self) -> None:
        """Writes the state; to be called between two steps."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "tensors": [tensor.detach().clone() for tensor in self._tensors],
            "optimizer": self._optimizer.state_dict(),
            "generators": [generator.get_state() for generator in self._generators],
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "done": torch.tensor(self.done),
        }
        with atomic_path(self.file) as path:
            torch.save(state, path)
        self._written = time.monotonic()

    def save_sometimes(self) -> None:
        """Writes the state where the last one is old."""
        if time.monotonic() - self._written >= EVERY:
            self.save()


def _forms(tensors: Sequence[torch.Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]

"""The state of a training on disk: what an interrupted run goes on from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_antidote.files import atomic_path
from clip_antidote.progress import tell
from clip_antidote.training.distributed import Ranks
from clip_antidote.training.optim import alike, misfit_of_state


class TrainingState:
    """What a training needs to go on: weights, optimizer, step.

    Args:
        module: What is trained.
        optimizer: Its optimizer.
        file: Where the state is kept; None to keep none.
        device: Where the state is loaded to.
        ranks: The processes that train together; this one alone by default.
        memory: What else is kept, in its buffers; nothing by default.

    Attributes:
        step: How many steps are done; None in the middle of one, when nothing can be saved.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        file: Path | None,
        *,
        device: torch.device,
        ranks: Ranks | None = None,
        memory: nn.Module | None = None,
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.file = file
        self.device = device
        self.ranks = ranks or Ranks()
        self.memory = memory
        self.step: int | None = 0
        self._saved = 0

    def load(self, *, steps: int) -> int:
        """Takes up the saved state where there is one, the same in all processes, and returns its step.

        A state that is cut off, or that is none of this training, is left aside, and this is said.

        Args:
            steps: Number of steps of the whole training.
        """
        state = self._kept(steps) if self.ranks.first else None
        if self.ranks.count > 1:
            buffer = io.BytesIO()
            if self.ranks.first:
                torch.save(state or self._content(), buffer)
            buffer = io.BytesIO(self.ranks.share(buffer.getvalue()))
            state = torch.load(buffer, map_location=self.device, weights_only=True)
        if state is not None:
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.memory is not None:
                self.memory.load_state_dict(state["memory"])
            self.step = self._saved = int(state["step"])
        assert self.step is not None
        return self.step

    def _kept(self, steps: int) -> dict[str, Any] | None:
        """The saved state, None where there is none that this training can go on from."""
        if self.file is None or not self.file.exists():
            return None
        try:
            with self.file.open("rb") as file:
                state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
            reason = _misfit(state, self._content(), self.optimizer, steps)
        except Exception as error:  # a broken file may fail in many ways; all mean the same
            reason = f"it is damaged: {type(error).__name__}"
        if reason is None:
            return state
        tell(f"the training state {self.file} cannot be used ({reason}); the training starts again")
        return None

    def save(self) -> None:
        """Writes the state, unless it is half way between two steps or written already."""
        if self.file is None or self.step is None or self.step == self._saved or not self.ranks.first:
            return
        with atomic_path(self.file) as path:
            torch.save(self._content(), path)
        self._saved = self.step

    def _content(self) -> dict[str, Any]:
        content = {"step": self.step, "model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        return content if self.memory is None else {**content, "memory": self.memory.state_dict()}


def _misfit(state: Any, own: dict[str, Any], optimizer: torch.optim.Optimizer, steps: int) -> str | None:
    """Why a saved state is none of a training, None where it is one.

    Args:
        state: What was read from a file.
        own: The state of the training as it is now.
        optimizer: Its optimizer.
        steps: Number of steps of the whole training.
    """
    if not isinstance(state, dict) or state.keys() != own.keys():
        return "it is no state of a training"
    if type(state["step"]) is not int or not 0 <= state["step"] <= steps:
        return "its step is none of this training"
    if not alike(state["model"], own["model"]):
        return "its weights are those of another model"
    if "memory" in own and not alike(state["memory"], own["memory"]):
        return "what it remembers is of other data"
    return misfit_of_state(state["optimizer"], optimizer)

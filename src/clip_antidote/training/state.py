"""The state of a training on disk: what an interrupted run goes on from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_antidote.files import atomic_path
from clip_antidote.training.distributed import Ranks


class TrainingState:
    """What a training needs to go on: weights, optimizer, step.

    Args:
        module: What is trained.
        optimizer: Its optimizer.
        file: Where the state is kept; None to keep none.
        device: Where the state is loaded to.
        ranks: The processes that train together; this one alone by default.

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
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.file = file
        self.device = device
        self.ranks = ranks or Ranks()
        self.step: int | None = 0
        self._saved = 0

    def load(self) -> int:
        """Takes up the saved state where there is one, the same in all processes, and returns its step."""
        data: Path | io.BytesIO | None = None
        if self.ranks.count == 1:
            data = self.file if self.file is not None and self.file.exists() else None
        else:
            data = io.BytesIO(self.ranks.share(self._first_state() if self.ranks.first else b""))
        if data is not None:
            state = torch.load(data, map_location=self.device, weights_only=True)
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = self._saved = int(state["step"])
        assert self.step is not None
        return self.step

    def save(self) -> None:
        """Writes the state, unless it is half way between two steps or written already."""
        if self.file is None or self.step is None or self.step == self._saved or not self.ranks.first:
            return
        with atomic_path(self.file) as path:
            torch.save(self._content(), path)
        self._saved = self.step

    def _content(self) -> dict[str, Any]:
        return {"step": self.step, "model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _first_state(self) -> bytes:
        """The state that the first process begins with."""
        if self.file is not None and self.file.exists():
            return self.file.read_bytes()
        buffer = io.BytesIO()
        torch.save(self._content(), buffer)
        return buffer.getvalue()

"""Loss and learning rate of every training step, for TensorBoard or Weights & Biases; nowhere unless asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from clip_antidote.errors import UnsupportedError, UsageError

FORMS = "tensorboard:FOLDER or wandb:PROJECT"


class Sink(Protocol):
    """Where the numbers go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of a step, by name."""

    def close(self) -> None:
        """Is called once, after the last."""


_sink: ContextVar[Sink | None] = ContextVar("step_log", default=None)


class TensorBoardSink:
    """Event files that TensorBoard reads.

    Args:
        folder: Where they are written; those of earlier runs stay.

    Raises:
        UnsupportedError: The package is not installed.
    """

    def __init__(self, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UnsupportedError(
                "logging for TensorBoard needs it; install it with: pip install 'clip-antidote[tensorboard]'"
            ) from error
        self._writer: Any = SummaryWriter(folder)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A run of Weights & Biases, which sends the numbers over the network unless its settings say offline.

    Args:
        project: Name of the project.

    Raises:
        UnsupportedError: The package is not installed.
    """

    def __init__(self, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UnsupportedError(
                "logging to Weights & Biases needs wandb; install it with: pip install 'clip-antidote[wandb]'"
            ) from error
        self._run: Any = wandb.init(project=project)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


KINDS: dict[str, type[TensorBoardSink] | type[WandbSink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


@contextmanager
def logged_to(where: str | None) -> Iterator[None]:
    """Logs every training step inside the block; with None to nowhere.

    Args:
        where: "tensorboard:FOLDER" or "wandb:PROJECT".

    Raises:
        UsageError: It is neither.
        UnsupportedError: The package is not installed.
    """
    if where is None:
        yield
        return
    kind, _, name = where.partition(":")
    if kind not in KINDS or not name:
        raise UsageError(f"a log is {FORMS}, not '{where}'")
    sink: Sink = KINDS[kind](name)
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)
        sink.close()


def log_step(step: int, **values: float) -> None:
    """Hands on the numbers of a step, counted from 0, where a log was asked for."""
    sink = _sink.get()
    if sink is not None:
        sink.write(step, values)

"""What all jobs with a result folder share: checked before the work, resumable during it, written whole after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_antidote.files import clear_temporaries, finished_record, remove_quietly, state_folder
from clip_antidote.outputs import check_output, result_folder, sole_output


class Workplace:
    """Where one job works; made by `workplace`.

    Args:
        out: The result folder.
        kind: What the result is, in words.
    """

    def __init__(self, out: Path, kind: str) -> None:
        self.out = out
        self.kind = kind
        self._state: Path | None = None

    def resume(self, settings: Any) -> Path:
        """Names the folder that keeps unfinished work with these settings, and nobody else's.

        Args:
            settings: All that the result depends on, ready for JSON.

        Returns:
            The hidden folder beside the result; it may hold what an interrupted run left.
        """
        self._state = state_folder(self.out, settings)
        clear_temporaries(self._state)
        return self._state

    @property
    def state(self) -> Path:
        """The folder of unfinished work; `resume` comes first."""
        assert self._state is not None
        return self._state

    @property
    def run(self) -> str:
        """A name for the settings, which a result keeps to be known again."""
        return self.state.name

    def finished(self, name: str) -> dict[str, Any] | None:
        """The record `name` of an earlier run with these very settings, None where there is none.

        Where there is one, what its work left is removed: the run may have been killed when all was written.
        """
        record = finished_record(self.out / name, self.run)
        if record is not None:
            remove_quietly(self.state)
        return record

    @contextmanager
    def result(self) -> Iterator[Path]:
        """Gives a new folder that becomes the result; afterwards the unfinished work is gone."""
        with result_folder(self.out, self.kind) as folder:
            yield folder
        if self._state is not None:
            remove_quietly(self._state)


@contextmanager
def workplace(out: Path, kind: str, *, writes: bool = True) -> Iterator[Workplace]:
    """Checks that a result can be written, before any work, and keeps other processes from its place meanwhile.

    Args:
        out: The result folder.
        kind: What the result is, in words ("purified classifier").
        writes: False in a process that leaves the writing to another one.

    Raises:
        DataError: It cannot, something is there that is not ours to replace, or another process works on it.
    """
    if not writes:
        yield Workplace(out, kind)
        return
    check_output(out, kind)
    with sole_output(out, kind):
        yield Workplace(out, kind)

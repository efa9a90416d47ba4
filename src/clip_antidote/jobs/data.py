"""The jobs of `clip-antidote data`: the benchmark problem and the embedded photographs as folders."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.data.embedded import export_embedded
from clip_antidote.data.problem import KIND, prepare_problem
from clip_antidote.jobs.workplace import workplace

PHOTOGRAPHS = "set of embedded photographs"


def run_prepare(source: Path, out: Path) -> dict[str, int]:
    """Builds the 120-class benchmark problem from archives, see `prepare_problem`."""
    with workplace(out, KIND):
        return prepare_problem(source, out)


def run_export_photographs(name: str, out: Path) -> int:
    """Unpacks an embedded set into class folders and returns the number of photographs."""
    with workplace(out, PHOTOGRAPHS) as work, work.result() as folder:
        return sum(1 for _ in export_embedded(name, folder))

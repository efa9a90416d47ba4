"""A grid on two workers of Ray: the same records as by one process, and workers that are not there."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_antidote.benchmark.grid import GridConfig, SuspectConfig, all_runs, run_grid
from clip_antidote.benchmark.ray_workers import run_on_ray
from clip_antidote.benchmark.store import read_runs
from clip_antidote.errors import DataError, UnsupportedError, UsageError
from test_benchmark import FAST


@pytest.fixture
def grid(model_folder: str) -> GridConfig:
    return GridConfig(model=model_folder, shots=2, seeds=(0, 1), suspects=(SuspectConfig(attack="clean"),))


def test_without_ray_it_says_what_to_install(
    grid: GridConfig, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def no_ray(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(UnsupportedError, match=r"clip-antidote\[ray\]"):
        list(run_on_ray(grid, problem, tmp_path / "out"))
    with pytest.raises(UsageError, match="at least one worker"):
        list(run_on_ray(grid, problem, tmp_path / "out", workers=0))


@pytest.fixture
def no_cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="no workers were started: Ray (extra ray) is not installed")
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("no_cluster")
def test_two_workers_make_the_records_of_one_process(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    out, alone = tmp_path / "shared", tmp_path / "alone"
    made = list(run_on_ray(grid, problem, out, config=FAST, workers=2, wait=0.2))
    assert {record.key for record in made} == {run.key(2) for run in all_runs(grid)}
    wanted = {record.key: record.after for record in run_grid(grid, problem, alone, config=FAST)}
    assert {record.key: record.after for record in made} == wanted
    assert len(read_runs(out)) == len(wanted), "each once"
    again = list(run_on_ray(grid, problem, out, config=FAST, address="nowhere:1"))
    assert len(again) == len(wanted), "with nothing left to do no cluster is asked for"


@pytest.mark.usefixtures("no_cluster")
def test_relative_paths_start_where_the_command_was_given_and_errors_are_one_sentence(
    grid: GridConfig, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(problem).parent)
    one = grid.model_copy(update={"seeds": (0,), "defenses": grid.defenses[:1]})
    assert list(run_on_ray(one, Path(problem).name, tmp_path / "out", config=FAST, workers=1, wait=0.2))
    with pytest.raises(DataError) as caught:
        list(run_on_ray(one, "nowhere", tmp_path / "other", config=FAST, workers=1, wait=0.2))
    assert str(caught.value) == "there is no folder or file nowhere"


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_that_is_not_there(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no Ray cluster at 'auto'"):
        list(run_on_ray(grid, problem, tmp_path / "out", address="auto"))

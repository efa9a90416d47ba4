"""A cell that fails is tried twice and shown; costs and published numbers are kept; older lines are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from clip_antidote.benchmark.grid import DefenseChoice, GridConfig, SuspectConfig, run_grid
from clip_antidote.benchmark.published import Published, read_published
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.store import read_runs
from clip_antidote.benchmark.tables import refused_table
from clip_antidote.cli import benchmark as cli_benchmark
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.errors import DataError, ModelError, UsageError
from clip_antidote.memory import peak_memory
from clip_antidote.prompts.classifier import ZeroShotClassifier


class Flaky(Defense):
    """Fails as often as it is told to."""

    profile = PROFILES["none"]
    failures: ClassVar[list[Exception]] = []
    calls = 0

    def apply(self, given: Given) -> Outcome:
        Flaky.calls += 1
        if Flaky.failures:
            raise Flaky.failures.pop(0)
        return Outcome(ZeroShotClassifier.from_templates(given.model, given.shots.classes), trained=7)


@pytest.fixture
def grid(model_folder: str, monkeypatch: pytest.MonkeyPatch) -> GridConfig:
    monkeypatch.setitem(DEFENSES.entries, "flaky", (f"{__name__}:Flaky", "for this test"))
    Flaky.failures.clear()
    Flaky.calls = 0
    paper = Published(defense="cbpt", attack="mean", backbone="RN50", ca=58.86, asr=0.39, source="a <b> paper")
    return GridConfig(
        model=model_folder,
        shots=1,
        seeds=(0,),
        suspects=(SuspectConfig(attack="clean"),),
        defenses=(DefenseChoice(defense="flaky"), DefenseChoice(defense="none")),
        published=(paper,),
    )


def test_a_cell_that_fails_once_is_tried_again(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    Flaky.failures.append(RuntimeError("a passing fault"))
    flaky, none = run_grid(grid, problem, tmp_path)
    assert (flaky.done, flaky.failed, Flaky.calls, none.done) == (True, None, 2, True)
    assert flaky.trained == 7
    assert flaky.peak_memory["process"] > 50, "PyTorch alone is more"


def test_a_cell_that_fails_twice_is_kept_and_shown_and_the_rest_goes_on(
    grid: GridConfig, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Flaky.failures += [RuntimeError("first"), RuntimeError("not\nfinite | [x]")]
    flaky, none = run_grid(grid, problem, tmp_path)
    assert none.done
    assert flaky.failed is not None
    assert flaky.failed.startswith("RuntimeError: not finite | [x] (test_benchmark_failures.py, line ")
    assert [run.defense for run in read_runs(tmp_path)] == ["none"], "it is in no table of results"
    (shown,) = read_runs(tmp_path, refused=True)
    assert "| clean | flaky | failed: RuntimeError: not finite \\| [x]" in refused_table([shown])
    assert next(run_grid(grid, problem, tmp_path)).failed == flaky.failed, "it is not run again unasked"
    assert Flaky.calls == 2
    Flaky.failures += [ModelError("one sentence"), ModelError("one sentence")]
    assert next(run_grid(grid, problem, tmp_path, retry=True)).failed == "one sentence"
    again = list(run_grid(grid, problem, tmp_path, retry=True))
    assert [run.done for run in again] == [True, True]
    assert Flaky.calls == 5, "the other run was not made again"
    (tmp_path / "grid.yaml").write_text(grid.to_yaml())
    capsys.readouterr()
    cli_benchmark.run(tmp_path / "grid.yaml", problem, tmp_path)
    assert "clean flaky seed 0: CA" in capsys.readouterr().out


def test_what_no_cell_could_run_with_ends_the_grid(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than the 99 shots"):
        list(run_grid(grid.model_copy(update={"shots": 99}), problem, tmp_path))
    assert not (tmp_path / "runs.jsonl").exists()


def test_an_interruption_is_no_failure(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    Flaky.failures.append(KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        list(run_grid(grid, problem, tmp_path))
    assert not (tmp_path / "runs.jsonl").exists()


def test_published_numbers_have_a_field_of_their_own(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    list(run_grid(grid, problem, tmp_path))
    (row,) = read_published(tmp_path)
    assert row == grid.published[0]
    assert row.asr_counts == "not said"
    assert read_published(tmp_path / "nowhere") == []
    with pytest.raises(UsageError, match=r"published\.0\.source"):
        GridConfig.build({"suspects": [], "published": [{"defense": "a", "attack": "b", "backbone": "c"}]})
    (tmp_path / "published.json").write_text('{"rows": [{"defense": 3}]}')
    with pytest.raises(DataError, match="does not hold published numbers"):
        read_published(tmp_path)


def test_lines_of_earlier_versions_are_read() -> None:
    line = (Path(__file__).parents[1] / "docs/records/zoo_120/runs.jsonl").read_text().splitlines()[0]
    assert "peak_memory" not in json.loads(line)
    run = RunRecord.model_validate_json(line)
    assert (run.peak_memory, run.failed, run.done) == ({}, None, True)
    assert json.loads(run.to_line()) == json.loads(line), "and written as they were"


def test_the_peak_is_that_of_the_block() -> None:
    with peak_memory() as small:
        pass
    with peak_memory() as large:
        block = torch.ones(64 * 2**20)  # 256 MiB
        del block
    with peak_memory() as after:
        pass
    assert large["process"] - small["process"] == pytest.approx(256, abs=40)
    assert after["process"] - small["process"] == pytest.approx(0, abs=40), "earlier work does not count"

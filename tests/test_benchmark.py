from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_antidote.benchmark.grid import (
    GridConfig,
    SuspectConfig,
    all_runs,
    prepare_zoo,
    read_records,
    read_zoo,
    run_grid,
)
from clip_antidote.benchmark.tables import curve_table, results_table, summary_table, with_parts, zoo_table
from clip_antidote.errors import DataError, UsageError
from clip_antidote.purification.config import CBPTConfig
from conftest import draw_photos


@pytest.fixture
def problem(tmp_path: Path) -> str:
    for split, count in (("train", 4), ("test", 2)):
        draw_photos(tmp_path / "problem" / split, classes=("cat", "dog", "sea_horse"), count=count)
    return str(tmp_path / "problem")


@pytest.fixture
def grid(model_folder: str) -> GridConfig:
    settings = {"training": {"steps": 1, "batch_size": 4}}
    return GridConfig(
        model=model_folder,
        shots=2,
        seeds=(0, 1),
        suspects=(
            SuspectConfig(attack="badnet", target="cat", settings=settings),
            SuspectConfig(attack="clean"),
            SuspectConfig(attack="clean", label="again", settings={**settings, "seed": 1}),
        ),
        defenses=("cbpt", "oracle"),
    )


FAST = CBPTConfig.build(
    {
        "inversion": {"screen_steps": 1, "final_steps": 1, "batch_size": 4},
        "precision": "fp32",
        "tuning": {"steps": 1},
        "pool": 6,
    }
)


def test_a_grid_runs_resumes_and_makes_tables(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    zoo = list(prepare_zoo(grid, problem, out))
    assert [record["name"] for record in zoo] == ["badnet-cat", "clean-again"], "the model itself needs no training"
    assert zoo[1]["config"]["seed"] == 1
    assert (out / "zoo" / "clean-again" / "open_clip_model.safetensors").exists()
    assert "did not take" in zoo[0]["implant_check"], "one step implants nothing, and the record says so"
    records = list(run_grid(grid, problem, out, config=FAST))
    assert len(records) == len(all_runs(grid)) == 12
    poisoned = [r for r in records if r["target"] == "cat"]
    assert len(poisoned) == 4
    assert all({"asr", "asr_floor", "pa", "target_ca"} <= r["after"].keys() for r in poisoned)
    assert all("asr" not in r["after"] for r in records if r["target"] is None)
    first = out / "records" / all_runs(grid)[0].file
    first.write_text(json.dumps({**json.loads(first.read_text()), "seconds": 12345}))
    (out / "records" / all_runs(grid)[1].file).unlink()
    again = list(run_grid(grid, problem, out, config=FAST))
    assert again[0]["seconds"] == 12345, "what has a record is not run again"
    assert again[1]["after"] == records[1]["after"], "the same seed gives the same result"
    rows = zoo_table(read_zoo(out)).splitlines()
    assert rows[2].startswith("| badnet-cat | 20 % | 1 |")
    assert rows[3].startswith("| clean-again | – | 1 |")
    table = results_table(read_records(out))
    assert "| badnet-cat | cbpt |" in table
    assert "| clean | none |" in table
    assert "| clean-again | none |" in table
    written = (out / "zoo" / "clean-again" / "control.json").stat().st_mtime_ns
    list(prepare_zoo(grid, problem, out))
    assert (out / "zoo" / "clean-again" / "control.json").stat().st_mtime_ns == written, "nothing is made twice"
    assert "| oracle |" in summary_table(read_records(out))


def test_the_curve_by_hand() -> None:
    def run(*points: tuple[float, float, float]) -> dict[str, Any]:
        rows = [{"threshold": t, "asr": asr, "target_ca": kept, "ca": 0.5, "pa": 0.25} for t, asr, kept in points]
        return {"defense": "cbpt", "curve": rows}

    records = [run((0.0, 0.02, 0.8), (1.0, 0.0, 0.4)), run((0.0, 0.04, 0.6), (1.0, 0.001, 0.2)), {"defense": "cbpt"}]
    lines = curve_table(records).splitlines()
    assert lines[2] == "| 0 | 50.0 | 3.00 | 4.00 | 25.0 | 70.0 | 60.0 |"
    assert lines[3] == "| 1 | 50.0 | 0.05 | 0.10 | 25.0 | 30.0 | 20.0 |"
    assert curve_table([{"defense": "cbpt"}]) == ""


def test_wrong_grids_are_refused(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no defense 'nope'"):
        all_runs(grid.model_copy(update={"defenses": ("nope",)}))
    with pytest.raises(DataError, match="benchmark prepare"):
        list(run_grid(grid, problem, tmp_path / "empty", config=FAST))
    with pytest.raises(DataError, match="no records"):
        read_records(tmp_path)


def test_tables_show_the_same_run_with_less_of_the_defense() -> None:
    def rates(asr: float, pa: float) -> dict[str, float]:
        return {"ca": 0.7, "mean_per_class_recall": 0.5, "asr": asr, "asr_floor": 0.0, "pa": pa, "target_ca": 0.6}

    record = {
        "suspect": "badnet-cat",
        "target": "cat",
        "target_suspected": "cat",
        "defense": "cbpt",
        "seed": 0,
        "seconds": 1.0,
        "reference": rates(0.01, 0.8),
        "before": rates(0.99, 0.05),
        "after": rates(0.01, 0.6),
        "after_one_look": rates(0.01, 0.4),
        "after_single": rates(0.05, 0.2),
    }
    same = {**record, "seed": 1, "after_one_look": record["after"], "after_single": None}
    rows = with_parts([record, same])
    assert [row["defense"] for row in rows] == ["cbpt", "cbpt (one look)", "cbpt (one weight)", "cbpt"]
    lines = summary_table([record]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| none",
        "| cbpt",
        "| cbpt (one look)",
        "| cbpt (one weight)",
    ]
    assert lines[3].split(" | ")[2] == "50.0", "mean per-class recall"
    assert lines[4].split(" | ")[5] == "40.0", "PA"
    assert lines[3].split(" | ")[9] == "75.0", "PA as share of the clean model's"
    assert "one look" not in results_table([record])
    older = {**record, "after": {k: v for k, v in rates(0.01, 0.6).items() if k != "mean_per_class_recall"}}
    assert "mean recall" in summary_table([record])
    assert "mean recall" not in summary_table([record, older]), "a mean over some of the records tells nothing"

from __future__ import annotations

from pathlib import Path

import pytest

from clip_antidote.benchmark.grid import DefenseChoice, GridConfig, SuspectConfig, all_runs, prepare_zoo, run_grid
from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.store import read_runs, read_settings, read_suspects, write_suspects
from clip_antidote.benchmark.tables import curve_table, results_table, summary_table, with_parts, zoo_table
from clip_antidote.cli import benchmark as cli
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.purification.config import CBPTConfig


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
        defenses=(DefenseChoice(defense="cbpt"), DefenseChoice(defense="oracle")),
    )


FAST = CBPTConfig.build(
    {
        "inversion": {"survey": {"steps": 1, "wave_most": 1}, "final_steps": 1, "batch_size": 4},
        "precision": "fp32",
        "tuning": {"steps": 1},
        "pool": 6,
    }
)


def test_a_grid_runs_resumes_and_makes_tables(
    grid: GridConfig, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench"
    zoo = list(prepare_zoo(grid, problem, out))
    assert [suspect.name for suspect in zoo] == ["badnet-cat", "clean-again"], "the model itself needs no training"
    assert zoo[1].config["seed"] == 1
    assert (out / "zoo" / "clean-again" / "open_clip_model.safetensors").exists()
    assert "did not take" in zoo[0].implant_check, "one step implants nothing, and the record says so"
    records = list(run_grid(grid, problem, out, config=FAST))
    assert len(records) == len(all_runs(grid)) == 12
    poisoned = [r for r in records if r.target == "cat"]
    assert len(poisoned) == 4
    assert all(None not in (r.after.asr, r.after.asr_floor, r.after.pa, r.after.target_ca) for r in poisoned)
    assert all(r.after.asr is None for r in records if r.target is None)
    assert {*read_settings(out)} == {key for r in records for key in (r.settings, r.versions)}
    assert len({r.settings for r in records}) == 1, "settings are kept once, whatever the seed"
    lines = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    changed = records[0].model_copy(update={"seconds": 12345.0})
    (out / "runs.jsonl").write_text("".join([changed.to_line() + "\n", *lines[2:], lines[1][:100]]))
    again = list(run_grid(grid, problem, out, config=FAST))
    assert again[0].seconds == 12345, "what has a record is not run again"
    assert again[1].after.to_counts() == records[1].after.to_counts(), "the same seed gives the same result"
    rows = zoo_table(read_suspects(out)).splitlines()
    assert rows[2].startswith("| badnet-cat | 20 % | 1 |")
    assert rows[3].startswith("| clean-again | – | 1 |")
    table = results_table(read_runs(out))
    assert "| badnet-cat | cbpt |" in table
    assert "| badnet-cat | (clean model) |" in table
    assert "| clean | none |" in table
    assert "| clean-again | none |" in table
    written = (out / "zoo" / "clean-again" / "control.json").stat().st_mtime_ns
    list(prepare_zoo(grid, problem, out))
    assert (out / "zoo" / "clean-again" / "control.json").stat().st_mtime_ns == written, "nothing is made twice"
    assert "| oracle |" in summary_table(read_runs(out))
    write_suspects(out / "kept", read_suspects(out))
    (out / "kept" / "runs.jsonl").write_bytes((out / "runs.jsonl").read_bytes())
    assert results_table(read_runs(out / "kept")) == table, "the records alone give the same tables"
    assert zoo_table(read_suspects(out / "kept")).splitlines() == rows
    (tmp_path / "grid.yaml").write_text(grid.to_yaml())
    cli.prepare(tmp_path / "grid.yaml", problem, out)
    cli.run(tmp_path / "grid.yaml", problem, out)
    cli.zoo(out)
    cli.table(out)
    said = capsys.readouterr().out
    assert "badnet-cat: CA " in said
    assert "badnet-cat oracle seed 1: CA " in said
    assert table in said
    assert table in (out / "tables.md").read_text()
    assert (out / "suspects.json").read_bytes() == (out / "kept" / "suspects.json").read_bytes()


PERCENT = {"ca": 0.7, "mean_per_class_recall": 0.5, "asr_floor": 0.0, "target_ca": 0.6}


def rates(**values: float) -> Metrics:
    shares = {**PERCENT, **values}
    recall = shares.pop("mean_per_class_recall")
    return Metrics(
        **{key: Rate(round(1000 * share), 1000) for key, share in shares.items()},  # type: ignore[arg-type]
        mean_per_class_recall=recall,
    )


def run_record(**values: object) -> RunRecord:
    return RunRecord.model_validate(
        {
            "suspect": "badnet-cat",
            "attack": "badnet",
            "target": "cat",
            "targets_suspected": ["cat"],
            "defense": "cbpt",
            "seed": 0,
            "shots": 16,
            "seconds": 1.0,
            "reference": rates(asr=0.01, pa=0.8),
            "before": rates(asr=0.99, pa=0.05),
            "after": rates(asr=0.01, pa=0.6),
            **values,
        }
    )


def test_the_curve_by_hand() -> None:
    def run(*points: tuple[float, float, float], seed: int) -> RunRecord:
        curve = [(t, rates(asr=asr, target_ca=kept, ca=0.5, pa=0.25)) for t, asr, kept in points]
        return run_record(curve=curve, seed=seed)

    records = [
        run((0.0, 0.02, 0.8), (1.0, 0.0, 0.4), seed=0),
        run((0.0, 0.04, 0.6), (1.0, 0.001, 0.2), seed=1),
        run_record(seed=2),
    ]
    lines = curve_table(records).splitlines()
    assert lines[0].startswith(
        "| threshold | CA | mean recall | ASR | largest ASR | PA | target CA | lowest target CA |"
    )
    assert lines[2] == "| 0 | 50.0 | 50.0 | 3.00 | 4.00 | 25.0 | 70.0 | 60.0 |"
    assert lines[3] == "| 1 | 50.0 | 50.0 | 0.05 | 0.10 | 25.0 | 30.0 | 20.0 |"
    assert curve_table([run_record()]) == ""


def test_wrong_grids_are_refused(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no defense 'nope'"):
        all_runs(grid.model_copy(update={"defenses": (DefenseChoice(defense="nope"),)}))
    with pytest.raises(DataError, match="benchmark prepare"):
        list(run_grid(grid, problem, tmp_path / "empty", config=FAST))
    with pytest.raises(DataError, match="no runs"):
        read_runs(tmp_path)


@pytest.mark.parametrize("values", [{"target": "../../x"}, {"target": "a\\b"}, {"attack": ".."}, {"attack": "/etc"}])
def test_no_suspect_lies_outside_the_zoo(values: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"suspects\.0\..*becomes part of a folder's name.*rename it") as caught:
        GridConfig.build({"suspects": [{"attack": "badnet", "target": "cat", **values}]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "attack.json is missing; name another folder"),
        (b"", "no record of an attack"),
        (b"[1]", "no record of an attack"),
        (b"\xff{}", "no record of an attack"),
        (b"[" * 100_000, "no record of an attack"),
        (b'{"attack": "badnet"}', "no record of an attack"),
        (b'{"target": 3}', "names no target class"),
        (b'{"target": null}', "names no target class"),
    ],
)
def test_broken_records_of_an_attack_are_a_sentence(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "attack.json").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        PoisonedModel.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_tables_show_the_same_run_with_less_of_the_defense() -> None:
    parts = {"after_one_look": rates(asr=0.01, pa=0.4), "after_single": rates(asr=0.05, pa=0.2)}
    record = run_record(**parts)
    same = run_record(seed=1, after_one_look=record.after)
    rows = with_parts([record, same])
    assert [row.defense for row in rows] == ["cbpt", "cbpt (one look)", "cbpt (one weight)", "cbpt"]
    lines = summary_table([record]).splitlines()
    names = ["| none", "| cbpt", "| cbpt (one look)", "| cbpt (one weight)"]
    assert [line.split(" | ")[0] for line in lines[2:]] == names
    assert lines[3].split(" | ")[2] == "50.0", "mean per-class recall"
    assert lines[4].split(" | ")[5] == "40.0", "PA"
    assert lines[3].split(" | ")[9] == "75.0", "PA as share of the clean model's"
    assert lines[3].endswith("| 1.00 | 0.990 | 75.0 | 1/1 |"), "there is no column of an oracle that was not run"
    assert "one look" not in results_table([record])
    older = run_record(after=rates(asr=0.01, pa=0.6, mean_per_class_recall=None), seed=1)  # type: ignore[arg-type]
    assert "mean recall" in summary_table([record])
    assert "mean recall" not in summary_table([record, older]), "a mean over some of the records tells nothing"


def test_shares_of_the_oracle_and_shots_are_told_apart() -> None:
    oracle = run_record(defense="oracle", after=rates(asr=0.0, pa=0.75))
    line = summary_table([run_record(), oracle]).splitlines()[3]
    assert line.split(" | ")[9] == "80.0"
    few = results_table([run_record(), run_record(shots=2)])
    assert "| badnet-cat | cbpt, 2 shots |" in few
    assert "| badnet-cat | cbpt, 16 shots |" in few


def test_a_defense_of_a_grid_may_have_settings_of_its_own(grid: GridConfig, problem: str, tmp_path: Path) -> None:
    values = grid.model_dump(mode="json") | {"seeds": [0], "suspects": [{"attack": "clean"}]}
    chosen = [{"defense": "coop", "label": name, "settings": {"epochs": n}} for name, n in (("one", 1), ("two", 2))]
    small = GridConfig.build(values | {"defenses": ["none", *chosen]})
    assert GridConfig.build(small.model_dump(mode="json")) == small, "so it reaches the workers of a cluster"
    records = list(run_grid(small, problem, tmp_path))
    assert [record.defense for record in records] == ["none", "coop-one", "coop-two"]
    settings = read_settings(tmp_path)
    assert [settings.get(record.settings or "", {}).get("epochs") for record in records] == [None, 1, 2]
    for wrong, said in (
        ([{"defense": "coop", "settings": {"epochs": 1}}], "needs a label"),
        (["none", "none"], "twice"),
        ([{"defense": "coop", "label": "x", "settings": {"epoch": 1}}], "epoch"),
        (["nothing"], "nothing"),
    ):
        with pytest.raises(UsageError, match=said):
            all_runs(GridConfig.build(values | {"defenses": wrong}))

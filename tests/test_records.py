"""Records of benchmark runs: what is written comes back, half lines do no harm, and several may write at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from clip_antidote.benchmark.records import RunRecord, Score, SuspectRecord, best_scores
from clip_antidote.benchmark.store import (
    RunLog,
    read_runs,
    read_settings,
    read_suspects,
    write_rows,
    write_suspects,
)
from clip_antidote.errors import DataError
from clip_antidote.evaluation import Rate, wilson_interval
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.purification.record import ScoreRow

BEFORE = Metrics(Rate(6, 10), asr=Rate(7, 8), mean_per_class_recall=0.55)
AFTER = Metrics(Rate(5, 10), asr=Rate(0, 8))


def run(seed: int = 0, **values: object) -> RunRecord:
    return RunRecord.model_validate(
        {
            "suspect": "sig-hut",
            "attack": "sig",
            "target": "hut",
            "defense": "cbpt",
            "seed": seed,
            "shots": 16,
            "targets_suspected": ["hut", "barn"],
            "scores": [Score("hut", 4.5, 3.25, None)],
            "before": BEFORE,
            "after": AFTER,
            "curve": [(0.7, AFTER)],
            "seconds": 2.5,
            "stages": {"tuning": 1.5},
            **values,
        }
    )


def suspect() -> SuspectRecord:
    attack = {
        "attack": "sig",
        "target": "hut",
        "implant_check": "passed",
        "config": {"training": {"steps": 3}},
        "clean": AFTER.to_dict(),
        "poisoned": BEFORE.to_dict(),
        "modalities": {"image": {"clean": AFTER.to_dict(), "poisoned": BEFORE.to_dict()}},
        "seconds": 9.5,
        "model": {"spec": "tiny", "sha256": "ab"},
        "data": "photos",
        "measured_on": "10 test images",
        "run": "left out",
    }
    return SuspectRecord.from_attack("sig-hut", json.loads(json.dumps(attack)))


def test_a_run_comes_back_with_its_rates_intervals_and_settings(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    written = log.append(run(), settings={"pool": 6}, versions={"torch": "2"})
    (back,) = read_runs(tmp_path)
    assert back == written
    assert back.target_suspected == "hut"
    assert back.named
    assert back.scores == (Score("hut", 4.5, 3.25, None),)
    assert back.before.value("asr") == 7 / 8
    assert back.before.asr is not None
    assert back.before.asr.interval == wilson_interval(7, 8)
    assert back.curve[0][1].value("ca") == 0.5
    assert back.after_single is None
    assert read_settings(tmp_path)[back.settings or ""] == {"pool": 6}
    assert read_settings(tmp_path)[back.versions or ""] == {"torch": "2"}
    line = json.loads((tmp_path / "runs.jsonl").read_text())
    assert line["schema_version"] == 1
    assert line["before"]["asr"] == [7, 8]
    assert "after_single" not in line


def test_the_same_settings_are_kept_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for seed in range(3):
        log.append(run(seed), settings={"pool": 6}, versions={"torch": "2"})
    log.append(run(3), settings={"pool": 7}, versions={"torch": "2"})
    assert len(read_settings(tmp_path)) == 3


def test_half_a_line_is_ignored_and_cut_off_by_the_next(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append(run(0))
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write(run(1).to_line()[:80])
    assert [r.seed for r in read_runs(tmp_path)] == [0]
    assert log.find(run(1).key) is None
    log.append(run(1))
    assert log.find(run(1).key) == run(1)
    assert [r.seed for r in read_runs(tmp_path)] == [0, 1]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2


def test_a_log_sees_what_others_append_and_the_last_of_two_counts(tmp_path: Path) -> None:
    mine, other = RunLog(tmp_path), RunLog(tmp_path)
    assert mine.find(run().key) is None
    other.append(run())
    assert mine.find(run().key) == run()
    other.append(run(seconds=7.0))
    found = mine.find(run().key)
    assert found is not None
    assert found.seconds == 7.0
    assert mine.find(run(shots=2).key) is None, "another number of shots is another run"


def test_suspects_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'sig-hut' is none that this version wrote"):
        SuspectRecord.from_attack("sig-hut", {"attack": "sig", "gate": "passed"})
    (tmp_path / "suspects.json").write_text('{"sig-hut": {"attack": "sig"}}')
    with pytest.raises(DataError, match=r"suspects\.json does not hold"):
        read_suspects(tmp_path)


@pytest.mark.parametrize("line", ["{}", "no JSON", '{"schema_version": 2}', run().to_line().replace("[6,10]", "6")])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "runs.jsonl").write_text(f"{run().to_line()}\n{line}\n")
    with pytest.raises(DataError, match=r"line 2 of .*runs\.jsonl"):
        read_runs(tmp_path)


def _append(folder: str, first: int) -> None:
    log = RunLog(Path(folder))
    for seed in range(first, first + 20):
        log.append(run(seed), settings={"pool": seed % 5}, versions={"torch": "2"})


def test_processes_may_append_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(str(tmp_path), 20 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [r.seed for r in read_runs(tmp_path)] == list(range(60))
    assert len(read_settings(tmp_path)) == 6


def test_suspects_stand_for_their_folders_and_bring_the_clean_model(tmp_path: Path) -> None:
    RunLog(tmp_path).append(run())
    assert read_runs(tmp_path)[0].reference is None
    write_suspects(tmp_path, [suspect()])
    assert read_suspects(tmp_path) == [suspect().model_copy(update={"clean": AFTER, "poisoned": BEFORE})]
    assert read_runs(tmp_path)[0].reference == AFTER
    text = (tmp_path / "suspects.json").read_text()
    assert "left out" not in text
    assert len(text.splitlines()) == 3
    with pytest.raises(DataError, match="no models"):
        read_suspects(tmp_path / "elsewhere")


def test_rows_take_a_line_each(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.json", [{"a": 1}, {"a": "ü"}], seed=0, versions={"torch": "2"})
    text = (tmp_path / "rows.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"seed": 0, "versions": {"torch": "2"}, "rows": [{"a": 1}, {"a": "ü"}]}
    assert '\n{"a":"ü"}\n' in text


def test_the_best_scores_are_kept() -> None:
    rows = [ScoreRow(class_name=str(i), score=9.0 - i, alignment=0.0, inversion=1.0) for i in range(9)]
    assert [score.name for score in best_scores(rows)] == ["0", "1", "2", "3", "4"]

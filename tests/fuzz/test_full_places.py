"""Every command that writes: on a full disk, into a folder that takes nothing, with standard output closed."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from base import Base, make_base
from hostile_data import RECORDS
from inputs import problem_archives, tar
from processes import Ended, run_case

from clip_antidote.cli.app import main
from test_outputs import contents

SMALL, MIDDLE, LARGE = 300, 10_000, 100_000
"""Bytes that fit: less than a record, than a report, than weights."""

COMMANDS: dict[str, tuple[str, int]] = {
    "purify": ("purify {model} --data {problem} --shots 1 --config {base}/purify.yaml --out {out}", MIDDLE),
    "attack": ("attack {model} --data {problem} --target dog --config {base}/attack.yaml --out {out}", LARGE),
    "trigger-only": (
        "attack --trigger-only --trigger badnet --data {problem} --image-size 32 --out {out}",
        SMALL,
    ),
    "train": (
        "train --architecture {base}/model/open_clip_config.json --data {problem} --config {base}/train.yaml "
        "--out {out}",
        LARGE,
    ),
    "train-stego": ("train-stego --data {problem} --config {base}/stego.yaml --out {out}", LARGE),
    "defend": ("defend {model} --data {problem} --defense none --shots 1 --out {out}", SMALL),
    "export": ("export {base}/artefact --model {model} --out {out}", LARGE),
    "evaluate": ("evaluate {model} --data {problem} --json {out}", SMALL),
    "scan": ("scan {model} --data {problem} --shots 1 --html {out}", MIDDLE),
    "data prepare": ("data prepare --from {base}/archives --out {out}", SMALL),
    "data export": ("data export --out {out}", SMALL),
    "benchmark prepare": ("benchmark prepare {base}/grid.yaml --data {problem} --out {out}", LARGE),
    "benchmark run": (
        "benchmark run {base}/controls.yaml --data {problem} --config {base}/purify.yaml --out {out}",
        2 * SMALL,  # what is said on the way takes place too
    ),
    "benchmark table": ("benchmark table --out {records}", SMALL),
    "benchmark zoo": ("benchmark zoo --out {records}", SMALL),
}


SOON = sorted(set(COMMANDS) - {"export"})
"""Those that come to their end in seconds; an export writes its file as `evaluate` does."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    made = make_base(folder)
    (folder / "archives").mkdir()
    for name, members in problem_archives().items():
        (folder / "archives" / f"{name}.tar").write_bytes(tar(members))
    (folder / "stego.yaml").write_text("steps: 1\nimages: 4\nbatch_size: 2\nnetwork: {width: 4, bits: 8}\n")
    (folder / "controls.yaml").write_text(
        f"model: local-dir:{folder}/model\nshots: 1\nsuspects: [{{attack: clean}}]\n"
    )
    return made


def ran(
    name: str, base: Base, place: Path, monkeypatch: pytest.MonkeyPatch, out: str, before: Callable[[], None]
) -> Ended:
    """Runs a command as a process, which calls `before` first."""
    if not (place / "records").exists():
        shutil.copytree(RECORDS, place / "records")

    def command() -> None:
        before()
        main()

    monkeypatch.setattr("clip_antidote.cli.app.main", command)
    words = COMMANDS[name][0].split()
    known = {"model": f"local-dir:{base.model}", "problem": str(base.problem), "base": str(base.folder)}
    records = "records" if out == "out" else out
    return run_case([word.format(**known, out=out, records=records) for word in words], place.parent, place)


def told(ended: Ended) -> bool:
    """Whether it ended with status 2 and a sentence."""
    assert "Traceback" not in ended.err
    assert ended.status == 2, ended.err
    assert ended.err.count("error:") == 1, ended.err
    return True


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "case" / "work"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", SOON)
def test_a_full_disk(name: str, base: Base, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> None:
        most = COMMANDS[name][1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    shutil.copytree(RECORDS, place / "records")
    before = contents(place)
    ended = ran(name, base, place, monkeypatch, "out", fill)
    assert told(ended)
    assert "cannot write" in ended.err or "cannot read or write" in ended.err
    left = {key: what for key, what in contents(place).items() if ".state-" not in key and "runs.jsonl" not in key}
    assert left == {key: what for key, what in before.items() if "runs.jsonl" not in key}
    assert not list(place.rglob("*.tmp"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_takes_nothing(name: str, base: Base, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = place / "shut"
    if os.geteuid() == 0:  # whom permissions do not stop
        shut = Path("/proc/self")
    else:
        shut.mkdir(mode=0o555)
    if name in ("benchmark table", "benchmark zoo"):
        pytest.skip("reads from where it writes")
    ended = ran(name, base, place, monkeypatch, str(shut / "out"), lambda: None)
    assert told(ended)
    assert "cannot write" in ended.err


@pytest.mark.parametrize("name", SOON)
def test_standard_output_that_is_closed(name: str, base: Base, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def close() -> None:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115

    ended = ran(name, base, place, monkeypatch, "out", close)
    assert told(ended)
    assert "standard output was closed" in ended.err
    assert not list(place.rglob(".*.tmp"))
    if name in ("benchmark table", "benchmark zoo"):
        return
    assert (place / "out").exists(), "the work was done"

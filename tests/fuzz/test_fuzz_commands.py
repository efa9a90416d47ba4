"""Odd arguments for every command: a documented status, at most one line of error, nothing written beside."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from guard import fuzz
from mutations import HOSTILE

from conftest import exit_status

COMMANDS = [
    "purify MODEL --data DATA --shots NUMBER --out OUT --seed NUMBER",
    "purify MODEL --data DATA --config FILE --show-config",
    "evaluate MODEL --data DATA --target TEXT --trigger TEXT --json OUT",
    "inspect MODEL --json OUT --no-zero-shot",
    "inspect FILE --sarif OUT",
    "scan MODEL --data DATA --shots NUMBER --alarm NUMBER --sarif OUT",
    "scan MODEL --data DATA --classes FILE --html OUT --seed NUMBER",
    "evaluate MODEL --data DATA --classes FILE --device TEXT",
    "attack MODEL --data DATA --target TEXT --attack TEXT --out OUT --poison-rate NUMBER",
    "attack --trigger-only --trigger TEXT --data DATA --out OUT --image-size NUMBER",
    "export FILE --out OUT --threshold NUMBER",
    "data prepare --from FILE --out OUT",
    "data export TEXT --out OUT",
    "defend MODEL --data DATA --defense none --attack TEXT --shots NUMBER --out OUT",
    "train --architecture FILE --data DATA --out OUT --seed NUMBER",
    "train-stego --data DATA --measure FILE",
    "benchmark table --out FILE",
    "benchmark zoo --out FILE",
    "benchmark run FILE --data DATA --out OUT",
    "ls TEXT",
    "TEXT TEXT",
]
TEXTS = [text[:3000] for text in HOSTILE if isinstance(text, str) and text and "\0" not in text]
TEXTS += ["-", "--", "--help=x", "-1", "\udcff", "~", "*", "a b", "'", '"', "$(id)", "`id`", "x" * 300, "/" * 300]
OUTPUTS = [text for text in TEXTS if "/" not in text]  # where a user says, files are written
NUMBERS = ["0", "-1", "1", "nan", "inf", "1e400", "9" * 30, "1_000", "０", "0x10", "1.5", ""]


def arguments(draw: random.Random, good: dict[str, str]) -> list[str]:
    words = draw.choice(COMMANDS).split()
    slots = [number for number, word in enumerate(words) if word.isupper()]
    odd = set(draw.sample(slots, draw.randint(1, len(slots))))
    for number in slots:
        if number in odd or words[number] not in good:
            words[number] = draw.choice({"NUMBER": NUMBERS, "OUT": OUTPUTS}.get(words[number], TEXTS))
        else:
            words[number] = good[words[number]]
    return words


def test_commands(
    tmp_path: Path,
    photos: Path,
    model_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = {"MODEL": model_folder, "DATA": str(photos), "NUMBER": "1", "FILE": str(photos / "cat" / "0.png")}
    ended: set[int] = set()

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        words = arguments(draw, {**good, "OUT": str(folder / "out")})
        monkeypatch.chdir(folder)
        capsys.readouterr()

        def read() -> None:
            status = exit_status(*words)
            printed = capsys.readouterr()
            ended.add(status)
            assert status in (0, 1, 2, 3, 4), words
            assert status in (0, 1) or printed.err.count("error:") >= 1, words
            assert "\x1b" not in printed.err, words
            assert "Traceback" not in printed.err, words

        return read

    fuzz(150, tmp_path / "cases", case)
    assert {2, 4} <= ended

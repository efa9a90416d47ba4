"""No text of a user is read as markup, on the console or in a report, and none reaches the terminal raw."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from clip_antidote.cli import benchmark, common
from clip_antidote.cli.app import main
from clip_antidote.evaluation.metrics import compute_metrics
from clip_antidote.plain import plain
from clip_antidote.progress import show_progress, tell, track
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.record import PurificationRecord, ScoreRow, TriggerRow
from clip_antidote.reporting import (
    ClassChange,
    ModelFacts,
    Picture,
    PlantedAttack,
    Report,
    Sample,
    render_html,
    to_png,
)
from conftest import Cli

NASTY = ["[/x]", "[red]", "[link=a.b]c", ":smile:", "[bold]a[/bold]", "\\[x"]
WHERE: dict[str, Callable[[str], list[str]]] = {
    "data": lambda text: ["purify", "tiny", "--data", text],
    "model": lambda text: ["purify", text, "--data", "embedded:clothing", "--shots", "1"],
    "model folder": lambda text: ["evaluate", f"local-dir:{text}", "--data", "embedded:clothing"],
    "checkpoint": lambda text: ["evaluate", f"open_clip:RN50@./{text}.pt", "--data", "embedded:clothing"],
    "classes": lambda text: ["evaluate", "tiny", "--data", "embedded:clothing", "--classes", text],
    "target": lambda text: ["evaluate", "tiny", "--data", "embedded:clothing", "--target", text],
    "trigger": lambda text: ["evaluate", "tiny", "--data", "embedded:clothing", "--trigger", text],
    "attack": lambda text: ["attack", "tiny", "--data", "embedded:clothing", "--target", "hat", "--attack", text],
    "templates": lambda text: ["purify", "tiny", "--data", "embedded:clothing", "--templates", text],
    "config": lambda text: ["purify", "tiny", "--config", text],
    "scanned model": lambda text: ["scan", text, "--data", "embedded:clothing", "--shots", "1"],
    "scanned data": lambda text: ["scan", "tiny", "--data", text],
    "device": lambda text: ["evaluate", "tiny", "--data", "embedded:clothing", "--device", text],
    "artefact": lambda text: ["export", text],
    "archives": lambda text: ["data", "prepare", "--from", text, "--out", "out"],
    "embedded set": lambda text: ["data", "export", text, "--out", "out"],
    "kind": lambda text: ["ls", text],
    "grid": lambda text: ["benchmark", "run", text, "--data", "x", "--out", "y"],
    "benchmark folder": lambda text: ["benchmark", "table", "--out", text],
    "option": lambda text: ["export", "x", text],
    "command": lambda text: [text],
    "architecture": lambda text: ["train", "--architecture", f"{text}/c.json", "--data", "x", "--out", "y"],
    "networks": lambda text: ["train-stego", "--data", "embedded:clothing", "--measure", text],
}


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("where", WHERE)
def test_a_sentence_shows_what_was_given_as_it_is(where: str, text: str, cli: Cli) -> None:
    ran = cli(*WHERE[where](text))
    assert ran.status in (2, 3, 4)
    assert text in ran.err
    assert ran.err.startswith("error:")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("text", NASTY)
def test_classes_paths_and_triggers_are_printed_as_they_are(
    text: str, photos: Path, model_folder: str, tmp_path: Path, cli: Cli
) -> None:
    names = [f"{text}{end}" for end in "ab"]
    (tmp_path / "classes.txt").write_text("".join(f"{f} = {n}\n" for f, n in zip(("cat", "dog"), names, strict=True)))
    moved = tmp_path / text.replace("/", "-")
    photos.rename(moved)
    (tmp_path / "small").rename(tmp_path / "[m]")
    common_options = ["--data", moved, "--classes", "classes.txt"]
    ran = cli("evaluate", "local-dir:[m]", *common_options, "--target", names[0], "--trigger", "badnet")
    assert ran.status == 0, ran.err
    assert "local-dir:[m]" in ran.out
    inversion = "inversion: {survey: {steps: 1}, final_steps: 1, form_steps: 1}\n"
    settings = inversion + "tuning: {steps: 1}\nprecision: fp32\npool: 8\n"
    (tmp_path / "fast.yaml").write_text(settings)
    arguments = [
        "local-dir:[m]",
        *common_options,
        "--config",
        "fast.yaml",
        "--shots",
        2,
        "--out",
        moved.name + "out",
    ]
    ran = cli("purify", *arguments)
    assert ran.status == 0, ran.err
    assert f"report: {moved.name}out" in ran.out
    implant = "implant_asr: 0.0\nimplant_ca_drop: 1.0\ntraining: {batch_size: 4, steps: 1}\n"
    (tmp_path / "attack.yaml").write_text(implant)
    ran = cli("attack", "local-dir:[m]", *common_options, "--target", names[1], "--config", "attack.yaml")
    assert ran.status == 0, ran.err
    assert names[1].replace(" ", "") in re.sub(r"\s", "", ran.out), "a title may be broken into lines"


@pytest.mark.parametrize("text", NASTY)
def test_labels_of_bars_and_verdicts_are_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        shown = Console(file=io.StringIO(), force_terminal=terminal, width=200)
        with show_progress(shown):
            list(track(range(2), f"implanting {text}", total=2))
            tell(f"the state of {text} is unusable")
        assert isinstance(shown.file, io.StringIO)
        assert f"implanting {text}" in shown.file.getvalue()
        assert f"the state of {text} is" in shown.file.getvalue()
    out = Console(file=io.StringIO(), markup=False, emoji=False, width=200)
    monkeypatch.setattr(common, "console", out)
    monkeypatch.setattr(common.say, "__kwdefaults__", {"to": out})
    common.print_report(report_of(text), Path(text))
    assert isinstance(out.file, io.StringIO)
    printed = out.file.getvalue()
    for line in (
        f"measured on {text}",
        f"Suspected target: {text}",
        f"warning: {text}",
        f"True target of this demo: {text}",
    ):
        assert line in printed


def test_a_benchmark_table_on_a_terminal_links_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(benchmark, "console", out)
    benchmark._print_table("| a |\n|---|\n| [red]x[/y] [b](https://c.d) \x1b]0;t\x07 |", tmp_path / "t.md")
    assert isinstance(out.file, io.StringIO)
    printed = out.file.getvalue()
    assert "[red]x[/y]" in printed
    assert "\x1b]" not in printed, "neither a link nor a title of the terminal"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\ufffd[2Jb"),
        ("a\nb\tc", "a b c"),
        ("\udcff", "\ufffd"),
        ("é猫 x", "é猫 x"),
        ("\u202ex", "\ufffdx"),
    ],
)
def test_a_terminal_gets_one_line_of_printable_text(text: str, shown: str, cli: Cli) -> None:
    assert plain(text) == shown
    ran = cli("ls", text)
    assert ran.status == 4
    assert f"cannot list '{shown}'" in ran.err


def test_bytes_that_are_no_text_are_told_and_written(
    photos: Path, model_folder: str, tmp_path: Path, cli: Cli
) -> None:
    moved = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xffq"))
    photos.rename(moved)
    ran = cli("evaluate", model_folder, "--data", moved, "--json", "m.json")
    assert ran.status == 0, ran.err
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["data"] == str(moved)


def report_of(text: str) -> Report:
    """A report whose every text is `text`."""
    rates = compute_metrics(torch.tensor([0, 1]), torch.tensor([0, 1]), classes=(text, "b")).to_dict()
    return Report(
        tool=text,
        version=text,
        created=text,
        command=text,
        model=ModelFacts(spec=text, sha256=text, image_size=8, parameters=1),
        purification=PurificationRecord(
            method="cbpt-gate",
            targets_suspected=(text, text),
            shots=1,
            seed=0,
            settings=CBPTConfig(),
            scores=(ScoreRow(class_name=text, score=1.0, alignment=1.0, inversion=None),),
            triggers=(TriggerRow(name=text, family=text, hypothesis=text, flip_rate=None, size=None, file=text),),
            stages={text: 1.0},
            versions={text: text},
        ),
        classes=(text, "b"),
        data=text,
        measured_on=text,
        before=rates,
        after=rates,
        after_single=rates,
        reference=rates,
        per_class=(ClassChange(class_name=text, before=0.1, after=0.2, count=3),),
        warnings=(text,),
        caveat=text,
        target_true=text,
        attack=PlantedAttack(name=text, poison_rate=0.1, steps=1, seconds=1.0),
    )


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "{{ 7*7 }}", "</style>", *NASTY]
)
def test_every_text_of_a_report_is_escaped(text: str) -> None:
    png = to_png(torch.zeros(3, 2, 2))

    def tags(of: str) -> list[str]:
        page = render_html(report_of(of), [Picture(of, of, png)], [Sample(png, of, of, of, "dummy")])
        return [re.sub(r'"[^"]*"', '""', tag) for tag in re.findall(r"<[^>]*>", page)]

    assert tags(text) == tags("plain"), "the same elements with the same attributes, whatever the texts"


def test_every_text_of_a_report_is_shown() -> None:
    named: dict[str, Any] = {
        "data": "DATA-PATH",
        "measured_on": "MEASURED",
        "warnings": ("WARNED",),
        "target_true": "T",
    }
    page = render_html(report_of("x").model_copy(update=named), [], [])
    assert "MEASURED" in page
    assert "WARNED" in page


@pytest.mark.parametrize(
    "arguments", [["ls", "attacks"], ["ls", "models", "--json"], ["--help"], ["purify", "--help"]]
)
@pytest.mark.parametrize("output", ["full", "closed"])
def test_output_that_nobody_takes_is_told(arguments: list[str], output: str) -> None:
    if output == "full":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        target: Any = open("/dev/full", "w")  # noqa: SIM115
    else:
        read, write = os.pipe()
        os.close(read)
        target = os.fdopen(write, "w")
    code = "from clip_antidote.cli.app import main; main()"
    with target:
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments], stdout=target, stderr=subprocess.PIPE, text=True
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error:")
    assert ran.stderr.count("\n") == 1


def test_the_version_is_printed(cli: Cli) -> None:
    ran = cli("--version")
    assert ran.status == 0
    assert re.fullmatch(r"clip-antidote \d+\.\d+\S*\n", ran.out)
    assert callable(main)

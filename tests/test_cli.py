"""The commands with good and with wrong input: one sentence, the documented exit status, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clip_antidote.cli.common import resolve_device
from conftest import Cli

WRONG = [
    (["purify", "tiny", "--data", "{none}"], 2, "no folder or file"),
    (["purify", "tiny"], 4, "--data is needed"),
    (["purify", "tiny", "--data", "{photos}", "--shots", "9"], 2, "class 'cat' has 3 images, fewer than the 9"),
    (["purify", "tiny", "--data", "{photos}", "--shots", "0"], 4, "--shots"),
    (["purify", "open_clip:RN5@x.pt", "--data", "{photos}", "--shots", "1"], 4, "RN5"),
    (["purify", "open_clip:RN50@{none}", "--data", "{photos}", "--shots", "1"], 2, "missing"),
    (["purify", "{model}", "--data", "{photos}", "--shots", "1", "--out", "{photos}/cat/0.png"], 2, "is a file"),
    (
        ["purify", "{model}", "--data", "{photos}", "--shots", "1", "--out", "{photos}/cat/0.png/x"],
        2,
        "cannot write",
    ),
    (["purify", "{model}", "--data", "{photos}", "--config", "{none}"], 4, "cannot read the configuration"),
    (["evaluate", "{model}", "--data", "{photos}", "--target", "cow"], 4, "'cow' is not one of the 2 classes"),
    (["evaluate", "{model}", "--data", "{photos}", "--trigger", "nope"], 4, "no trigger 'nope'"),
    (["attack", "{model}", "--data", "{photos}", "--target", "cow"], 4, "'cow' is not one of the 2 classes"),
    (["attack", "{model}", "--data", "{photos}", "--attack", "nope", "--target", "cat"], 4, "no attack 'nope'"),
    (["attack", "{model}", "--data", "{photos}", "--target", "cat", "--poison-rate", "2"], 4, "poison_rate"),
    (["inspect", "{none}"], 2, "no file or folder"),
    (["inspect", "{photos}/cat/0.png"], 3, "no checkpoint that can be inspected"),
    (["inspect", "{photos}"], 3, "no weights to inspect"),
    (["inspect", "open_clip:RN5@x.pt"], 4, "RN5"),
    (["inspect"], 4, "Missing argument"),
    (["scan", "tiny"], 4, "--data is needed"),
    (["scan", "tiny", "--data", "{none}"], 2, "no folder or file"),
    (["scan", "{none}", "--data", "{photos}", "--shots", "1"], 2, "no file or folder"),
    (["scan", "open_clip:RN50@{none}", "--data", "{photos}", "--shots", "1"], 2, "missing"),
    (["scan", "{model}", "--data", "{photos}", "--shots", "0"], 4, "--shots"),
    (["scan", "{model}", "--data", "{photos}", "--shots", "9"], 2, "class 'cat' has 3 images, fewer than the 9"),
    (["scan", "{model}", "--data", "{photos}", "--alarm", "0"], 4, "above 0 and at most 1, not 0"),
    (["scan", "{model}", "--data", "{photos}", "--alarm", "2"], 4, "above 0 and at most 1, not 2"),
    (["scan", "{model}", "--data", "{photos}", "--alarm", "nan"], 4, "above 0 and at most 1, not nan"),
    (["scan", "{model}", "--data", "{photos}", "--alarm", "x"], 4, "--alarm"),
    (["scan", "{model}", "--data", "{photos}", "--seed", "9" * 30], 4, "too large"),
    (["scan", "{model}", "--data", "{photos}", "--templates", "{none}"], 2, "cannot read the templates"),
    (["scan", "{model}", "--data", "{photos}", "--classes", "{none}"], 2, "cannot read the class file"),
    (["scan", "{model}", "--data", "{photos}", "--shots", "1", "--device", "tpu7"], 4, "tpu7"),
    (["scan", "{model}", "--data", "{photos}", "--html", "{photos}/cat/0.png/x"], 2, "cannot write"),
    (["ls", "things"], 4, "cannot list 'things'"),
    (["data", "prepare", "--from", "{none}", "--out", "{none}2"], 2, "no imagenette.tar"),
    (["--nonsense"], 4, "nonsense"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"), WRONG, ids=lambda v: "-".join(v) if isinstance(v, list) else None
)
def test_wrong_input_gets_one_sentence(
    arguments: list[str],
    status: int,
    sentence: str,
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
) -> None:
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    filled = [a.format(none=tmp_path / "missing", photos=photos, model=model_folder) for a in arguments]
    ran = cli(*filled)
    assert ran.status == status
    assert sentence in ran.err
    assert ran.err.count("error:") == 1
    assert "Traceback" not in ran.err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before, "nothing may be left behind"


def test_a_corrupt_image_is_named(
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
) -> None:
    (photos / "dog" / "0.png").write_bytes(b"not a picture")
    ran = cli("purify", model_folder, "--data", photos, "--shots", 3)
    assert ran.status == 2
    assert "0.png" in ran.err
    assert not (tmp_path / "purified").exists()


def test_purify_evaluate_and_show_config(
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
) -> None:
    settings = tmp_path / "fast.yaml"
    settings.write_text(
        "inversion: {survey: {steps: 2}, final_steps: 2, form_steps: 2, guard_steps: 2}\n"
        "tuning: {steps: 3}\nprecision: fp32\npool: 12\n"
    )
    shown = cli("purify", model_folder, "--config", settings, "--show-config", "--seed", 5)
    assert shown.status == 0
    assert "steps: 2" in shown.out
    assert "seed: 5" in shown.out
    ran = cli("purify", model_folder, "--data", photos, "--shots", 2, "--config", settings, "--json")
    assert ran.status == 0
    report = ran.json()
    assert {"model", "classes", "before", "after", "purification"} <= report.keys()
    needed = {"version", "method", "targets_suspected", "settings", "scores", "seconds", "seed", "versions"}
    assert needed <= report["purification"].keys()
    assert report["classes"] == ["cat", "dog"]
    assert any("with fewer than 4 none can stand out" in sentence for sentence in report["warnings"])
    assert any("clean images per class: 2; with fewer than 4" in sentence for sentence in report["warnings"])
    assert 0 <= report["after"]["ca"] <= 1
    assert report == json.loads((tmp_path / "purified" / "report.json").read_text())
    for name in ("config.json", "prompts.safetensors", "classifier.safetensors", "report.html", "README.md"):
        assert (tmp_path / "purified" / name).stat().st_size > 0
    assert cli("evaluate", "purified", "--data", photos, "--json", "metrics.json").status == 0
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["ca"] <= 1
    arguments = ["--data", photos, "--trigger", "badnet", "--target", "dog", "--json", "m2.json"]
    assert cli("evaluate", "purified", *arguments).status == 0
    assert {"asr", "asr_all", "asr_floor", "pa", "target_ca"} <= json.loads((tmp_path / "m2.json").read_text()).keys()


def test_ctrl_c_leaves_nothing_half_written(
    photos: Path, model_folder: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    arguments = ["purify", model_folder, "--data", photos, "--shots", 2, "--config", "fast.yaml"]
    settings = "inversion: {survey: {steps: 1}, final_steps: 1, form_steps: 1}\nprecision: fp32\npool: 4\n"
    (tmp_path / "fast.yaml").write_text(settings)
    before = sorted(p.name for p in tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("clip_antidote.purification.pipeline.tune_prompts", interrupt)
        ran = cli(*arguments)
    assert ran.status == 130
    assert "interrupted" in ran.err
    after = sorted(p.name for p in tmp_path.iterdir())
    kept = [name for name in after if name.startswith(".purified.state-")]
    assert len(kept) == 1, "stage 1 was done and is kept"
    assert [name for name in after if name not in kept] == before
    monkeypatch.setattr("clip_antidote.jobs.purify.search_targets", interrupt)
    assert cli(*arguments).status == 0, "stage 1 is not run again"
    assert not list(tmp_path.glob(".purified*"))


@pytest.mark.parametrize(
    ("what", "entry"), [("attacks", "badnet"), ("defenses", "cbpt"), ("triggers", "mask"), ("models", "tiny")]
)
def test_ls(what: str, entry: str, cli: Cli) -> None:
    ran = cli("ls", what, "--json")
    assert ran.status == 0
    assert entry in ran.json()


def test_attack_writes_a_model_that_loads_again(
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
) -> None:
    (tmp_path / "c.yaml").write_text("implant_asr: 0.0\nimplant_ca_drop: 1.0\ntraining: {batch_size: 4}\n")
    attack = ["attack", model_folder, "--data", photos, "--target", "dog", "--config", "c.yaml", "--steps", 2]
    assert cli(*attack, "--out", "bad").status == 0
    record = json.loads((tmp_path / "bad" / "attack.json").read_text())
    assert record["target"] == "dog"
    assert record["config"]["training"]["steps"] == 2
    poisoned = json.loads((tmp_path / "bad" / "poisoned.json").read_text())
    assert len(poisoned) == record["poisoned_pairs"]
    assert all("cat" in name for name in poisoned)
    torch.manual_seed(0)
    arguments = ["--data", photos, "--trigger", "bad/trigger", "--target", "dog", "--json", "m.json"]
    assert cli("evaluate", "local-dir:bad", *arguments).status == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["asr"] == pytest.approx(record["poisoned"]["asr"], abs=1e-9)
    assert not list(tmp_path.glob(".*state*")), "the training state goes when the attack is done"
    weights = tmp_path / "bad" / "open_clip_model.safetensors"
    written = weights.stat().st_mtime_ns
    assert cli(*attack, "--out", "bad").status == 0
    assert weights.stat().st_mtime_ns == written, "a finished run is not repeated"


def test_a_failed_implant_check_is_said_and_the_model_is_kept(
    photos: Path,
    model_folder: str,
    tmp_path: Path,
    cli: Cli,
) -> None:
    (tmp_path / "c.yaml").write_text("implant_asr: 1.0\ntraining: {steps: 1, batch_size: 4, lr: 1.0e-9}\n")
    arguments = ["attack", model_folder, "--data", photos, "--config", "c.yaml", "--out", "bad"]
    missed = [ran for ran in (cli(*arguments, "--target", target) for target in ("cat", "dog")) if ran.status == 2]
    assert missed, "a model without accuracy calls at most one class everything"
    assert all("did not take" in ran.err for ran in missed)
    assert json.loads((tmp_path / "bad" / "attack.json").read_text())["poisoned"]


@pytest.mark.parametrize(
    ("asked", "gpu", "found"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("mps", False, "mps")],
)
def test_auto_is_the_gpu_where_there_is_one(
    asked: str, gpu: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device(asked) == found


def test_a_device_that_is_not_there_is_said(photos: Path, model_folder: str, cli: Cli) -> None:
    ran = cli("purify", model_folder, "--data", photos, "--shots", 2, "--device", "nonsense")
    assert ran.status == 4
    assert "the device 'nonsense' is not available here; use cpu" in ran.err


def test_a_full_gpu_is_one_sentence(
    photos: Path, model_folder: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("clip_antidote.jobs.purify.search_targets", full)
    ran = cli("purify", model_folder, "--data", photos, "--shots", 2)
    assert ran.status == 2
    assert ran.err.splitlines()[-1] == (
        "error: the GPU has too little memory left; close what else uses it, or compute elsewhere with --device cpu"
    )

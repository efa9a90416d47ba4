"""Shared fixtures: the embedded model and photographs, the model with a backdoor, purified once per run."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clip_antidote.attacks.implant import Implant
from clip_antidote.attacks.run import AttackResult, measure_under_trigger
from clip_antidote.cli.app import main
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.verdict import Verdict
from clip_antidote.evaluation.aims import Aim
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.pipeline import purify
from clip_antidote.purification.record import PurificationRecord, ScoreRow
from clip_antidote.runtime import keep_freed_memory
from clip_antidote.triggers import Trigger, load_trigger

keep_freed_memory()
os.environ["CLIP_ANTIDOTE_DEVICE"] = "cpu"  # as what they compare; test_on_device.py names another

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


ONE_PROCESS = {"adversarial", "demo_model", "explain", "golden", "inner_gates", "onnx", "purify", "second_look"}
"""Files whose tests share fixtures that take minutes."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divides the tests among processes by files; those of `ONE_PROCESS` stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "one process" if Path(file).stem.removeprefix("test_") in ONE_PROCESS else file

    return ByFile(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leaves what was imported out of later garbage collections, of which every measured peak of memory takes one."""
    gc.collect()
    gc.freeze()


# A shell that starts the tests in the background has Ctrl-C ignored, in all their processes; some tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Finished:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Finished]
"""Runs `clip-antidote` with arguments of any type; see the fixture `cli`."""


def exit_status(*arguments: object) -> int:
    """Runs `clip-antidote` with these arguments in this process and returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["clip-antidote", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, run in this process; the current directory becomes `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        capsys.readouterr()  # what was printed before belongs to no command
        status = exit_status(*arguments)
        return Finished(status, *capsys.readouterr())

    return run


def draw_photos(folder: Path, *, classes: Sequence[str] = ("cat", "dog"), count: int = 3) -> Path:
    """Makes a folder of PNG files, 40×40 and of one color each: `folder/CLASS/0.png` and so on."""
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 40), (80 * shade, 20 * i, 90)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of each of two classes."""
    return draw_photos(tmp_path / "photos")


@pytest.fixture
def small_model() -> OpenCLIPEncoder:
    """A minute model with random weights, for everything that needs no accuracy."""
    torch.manual_seed(0)
    return build_open_clip(SMALL)


@pytest.fixture(scope="session")
def tiny() -> DualEncoder:
    return load_model("tiny")


@pytest.fixture(scope="session")
def train_images() -> LabelledImages:
    return load_images("embedded:clothing", split="train")


@pytest.fixture(scope="session")
def test_images() -> LabelledImages:
    return load_images("embedded:clothing", split="test")


@pytest.fixture(scope="session")
def attacked(tiny: DualEncoder, test_images: LabelledImages) -> AttackResult:
    """The demo's BadNet backdoor, as the package carries it, and how well it works."""
    model, trigger = load_model("demo:badnet"), load_trigger("badnet")
    before, after = (measure_under_trigger(one, test_images, trigger, Aim(TARGET)) for one in (tiny, model))
    return AttackResult(Implant(model, trigger, TARGET, [], [], 0, 0), before, after)


@pytest.fixture
def model_folder(small_model: OpenCLIPEncoder, tmp_path: Path) -> str:
    """A random small model as a folder, by its spec."""
    folder = tmp_path / "small"
    folder.mkdir()
    save_open_clip(small_model, None, folder)
    return f"local-dir:{folder}"


def a_verdict(**changes: Any) -> Verdict:
    """A verdict on a model in which nothing was found."""
    facts = {
        "suspicious": bool(changes.get("targets")),
        "score": 1.0,
        "probability": 0.7,
        "p_value": 0.5,
        "needed": 4.0,
        "least_p": 0.05,
        "alarm": 0.05,
        "clean_models": 19,
        "towers": ("vit",),
        "classes": 10,
        "shots": 16.0,
        "targets": (),
        "ranking": (),
    }
    return Verdict.model_validate({**facts, **changes})


def two_gate_classifier(model: DualEncoder, triggers: dict[str, Trigger] | None = None) -> PurifiedCLIP:
    """A purified classifier of three classes with random weights, for a model of 16 features: two gates, a record."""
    generator = torch.Generator().manual_seed(0)
    clean, tuned = torch.nn.functional.normalize(torch.randn(2, 16, 3, generator=generator), dim=1)
    gates = [Gate(torch.randn(16, n, generator=generator), torch.randn(n, generator=generator), n) for n in (1, 2)]
    record = PurificationRecord(
        method="cbpt-gate",
        targets_suspected=("b", "c"),
        guarded=("b", "c"),
        shots=4,
        seed=0,
        settings=CBPTConfig.build({"gate": {"threshold": 0.4}}),
        scores=(ScoreRow(class_name="b", score=3.0, alignment=1.0, inversion=None),),
    )
    return PurifiedCLIP(
        model,
        tuned,
        ("a", "b", "c"),
        context=torch.zeros(3, 4, 16),
        record=record,
        triggers=triggers,
        guard=GuardedHead(clean, gates, threshold=0.4),
    )


def sorting_classifier(model: DualEncoder, images: torch.Tensor) -> PurifiedCLIP:
    """A purified classifier whose gate stops some of these images [N, 3, H, W] and lets others pass.

    A random model gives all images nearly the same features; weights and gate stand across what differs in them.
    """
    with torch.no_grad():
        features = model.encode_images(model.fit_images(images))
    directions = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)[2]
    sides = torch.stack([directions[0], -directions[0], directions[2]], dim=1)
    clean = (sides - features.mean(dim=0)[:, None] * (features.mean(dim=0) @ sides)).contiguous()
    gate = Gate(directions[1][:, None].contiguous(), (features @ directions[1]).median()[None], 1)
    tuned = torch.nn.functional.normalize(directions[3:6].T, dim=0).contiguous()
    guard = GuardedHead(clean, [gate], threshold=0.0)
    return PurifiedCLIP(model, tuned, ("a", "b", "c"), context=torch.zeros(3, 4, 16), guard=guard)


@pytest.fixture
def problem(tmp_path: Path) -> str:
    """A minute problem folder: three classes, with a train and a test split."""
    for split, count in (("train", 4), ("test", 2)):
        draw_photos(tmp_path / "problem" / split, classes=("cat", "dog", "sea_horse"), count=count)
    return str(tmp_path / "problem")


@pytest.fixture(scope="session")
def suspect(attacked: AttackResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The poisoned model as a folder."""
    folder = tmp_path_factory.mktemp("suspect") / "poisoned"
    folder.mkdir()
    assert isinstance(attacked.model, OpenCLIPEncoder)
    save_open_clip(attacked.model, None, folder)
    return folder


@pytest.fixture(scope="session")
def purified(suspect: Path, train_images: LabelledImages) -> PurifiedCLIP:
    """The poisoned model after blind purification with 16 shots, in fp32, whatever the machine computes in."""
    model = load_model(f"local-dir:{suspect}")
    return purify(model, train_images.sample_shots(16, seed=0), CBPTConfig(precision="fp32"))


@pytest.fixture(scope="session")
def purified_clean(tiny: DualEncoder, train_images: LabelledImages) -> PurifiedCLIP:
    """The embedded model itself after blind purification with 16 shots, in fp32."""
    return purify(tiny, train_images.sample_shots(16, seed=1), CBPTConfig(seed=1, precision="fp32"))

"""Everything that computes, on an accelerator: it runs there, and gives what the CPU gives.

Skipped where PyTorch finds no accelerator. `CLIP_ANTIDOTE_TEST_DEVICE` names one (`cpu` tries the tests themselves).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import clip_antidote as ca
from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.run import measure_under_trigger, run_attack
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.defend import defend
from clip_antidote.defenses.unfinished import kept_in
from clip_antidote.detection.scan import dummies_of, invert_targets
from clip_antidote.detectors import DETECTORS
from clip_antidote.detectors.detect import detect, make_detector
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.purification.pipeline import purify
from clip_antidote.screening import SCORES, material
from clip_antidote.screening.held_out import fit_scores
from clip_antidote.screening.material import gather_material
from clip_antidote.screening.probe import Probe
from clip_antidote.triggers import load_trigger
from conftest import SMALL, Cli, draw_photos
from test_defend_resume import interrupt_every_step
from test_defense_methods import CONVOLUTIONAL, DEEP_VIT, MODIFIED, QUICK
from test_detectors import SHORTEST
from test_registered import VARIANTS, make_trigger, noise, variant_name

FOUND = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
DEVICE = os.environ.get("CLIP_ANTIDOTE_TEST_DEVICE") or (FOUND.type if FOUND else "")

pytestmark = pytest.mark.skipif(not DEVICE, reason="there is no accelerator")

TOWERS = {"cnn": CONVOLUTIONAL, "modified": MODIFIED, "vit": DEEP_VIT}
CLASSES = ("cat", "dog", "cow")
FAST: dict[str, Any] = {
    "inversion": {
        "survey": {"steps": 2, "wave_most": 1},
        "final_steps": 3,
        "form_steps": 2,
        "guard_steps": 2,
        "batch_size": 8,
    },
    "tuning": {"steps": 3},
    "pool": 40,
    "triggered_views": 40,
    "guarded_views": 20,
    "precision": "fp32",
}


def twins(tower: str) -> tuple[OpenCLIPEncoder, OpenCLIPEncoder]:
    """A random model on the CPU and the same on the device."""
    made = []
    for place in ("cpu", DEVICE):
        torch.manual_seed(0)
        made.append(build_open_clip(TOWERS[tower]).to(place))
    return made[0], made[1]


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Six images of each of three classes."""
    return ca.load_images(str(draw_photos(tmp_path_factory.mktemp("shots") / "photos", classes=CLASSES, count=6)))


# Parts


def test_features_of_images_and_texts_are_those_of_the_cpu(tower: str) -> None:
    here, there = twins(tower)
    images, texts = noise(5, 3, 32, 32), ["a photo of a cat.", "a dog"]
    for one, other in (
        (here.encode_images(images), there.encode_images(images.to(DEVICE))),
        (here.encode_texts(texts), there.encode_texts(texts)),
    ):
        assert other.device.type == torch.device(DEVICE).type
        torch.testing.assert_close(other.detach().cpu(), one.detach(), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=variant_name)
def test_triggers_draw_what_they_draw_on_the_cpu(name: str, settings: dict[str, Any]) -> None:
    trigger, images = make_trigger(name, settings), noise(4, 3, 48, 48)
    here = trigger(images, torch.Generator().manual_seed(1))
    there = trigger(images.to(DEVICE), torch.Generator().manual_seed(1))
    assert there.device.type == torch.device(DEVICE).type
    torch.testing.assert_close(there.cpu(), here, atol=2e-3, rtol=0)


def test_what_is_measured_is_what_the_cpu_measures(test_images: LabelledImages) -> None:
    some, trigger = test_images.at_most(100, seed=0), load_trigger("badnet")
    here, there = (
        measure_under_trigger(load_model("demo:badnet", device=place), some, trigger, Aim(TARGET)).metrics
        for place in ("cpu", DEVICE)
    )
    for name in ("ca", "asr", "pa", "target_ca"):
        assert there.value(name) == pytest.approx(here.value(name), abs=0.02)


# Attacks, defenses, detectors, scores of images


@pytest.mark.parametrize("name", ATTACKS.names())
def test_attacks(name: str, shots: LabelledImages) -> None:
    attack_class = ATTACKS.get(name)
    settings: dict[str, Any] = {"training": {"steps": 2, "batch_size": 4, "warmup": 1}}
    if "optimization" in attack_class.config_class.model_fields:
        settings["optimization"] = {"steps": 2, "batch_size": 4}
    if name == "multi-target":
        settings["further"] = [{"trigger": "sig"}]
    _, there = twins("cnn")
    result = run_attack(there, attack_class(attack_class.config_class.build(settings)), shots, shots, "dog")
    assert result.model.device.type == torch.device(DEVICE).type
    assert 0 <= result.after.metrics.ca.value <= 1


@pytest.mark.parametrize(
    ("name", "tower"), [(name, tower) for name in QUICK for tower in (("vit",) if name == "rvpt" else ("cnn", "vit"))]
)
def test_defenses_run_and_go_on_where_they_were(
    name: str, tower: str, shots: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect, base = twins(tower)[1], twins(tower)[1]
    made = defend(suspect, shots, name, QUICK[name], seed=1, base=base)
    images = noise(2, 3, 32, 32).to(DEVICE)
    assert made.classifier(images).isfinite().all()
    interrupt_every_step(monkeypatch)
    for _ in range(30):
        try:
            with kept_in(tmp_path):
                again = defend(suspect, shots, name, QUICK[name], seed=1, base=base)
            break
        except KeyboardInterrupt:
            pass
    torch.testing.assert_close(again.classifier(images), made.classifier(images), atol=0.05, rtol=0.05)


def test_all_defenses_are_tried() -> None:
    elsewhere = {"none", "prompts", "oracle"} | {name for name in DEFENSES.names() if name.startswith("cbpt")}
    assert set(QUICK) | elsewhere == set(DEFENSES.names())


@pytest.mark.parametrize("name", DETECTORS.names())
def test_detectors(name: str, shots: LabelledImages) -> None:
    found = detect(twins("cnn")[1], shots, make_detector(name, SHORTEST[name]), templates=("a photo of a {}.",))
    assert found.decision is not None


def test_scores_of_images(train_images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "DUMMY_VIEWS", 30)
    model, config = load_model("demo:badnet", device=DEVICE), CBPTConfig.build({**FAST, "pool": 120})
    shots = train_images.sample_shots(4, seed=0)
    label = shots.classes.index(TARGET)
    with model.evaluating():
        seen = observe(model, shots, config)
        made = gather_material(
            seen, label, dummies_of(invert_targets(seen, [label], config.inversion, seed=0)), config
        )
        images = made.images[:12].float() / 255
        names = [name for name in SCORES.names() if SCORES.get(name).suits(model)]
        probe = Probe(model, images.to(DEVICE))
        for name, score in fit_scores(made, names).items():
            assert score.score(probe).isfinite().all(), name


# The main job


def test_a_purification_can_be_used_anywhere(shots: LabelledImages, tower: str, tmp_path: Path) -> None:
    _, there = twins(tower)
    folder = tmp_path / "suspect"
    folder.mkdir()
    save_open_clip(there, None, folder)
    made = purify(load_model(f"local-dir:{folder}", device=DEVICE), shots, CBPTConfig.build(FAST))
    images = noise(4, 3, 32, 32)
    answered = made(images.to(DEVICE))
    assert answered.device.type == torch.device(DEVICE).type
    made.save_pretrained(tmp_path / "purified")
    for place in ("cpu", DEVICE):
        loaded = PurifiedCLIP.from_pretrained(tmp_path / "purified", device=place)
        torch.testing.assert_close(loaded(images.to(place)).cpu(), answered.cpu(), atol=0.05, rtol=0.01)
        assert loaded.predict(images) == made.predict(images)
        assert loaded.predict_proba(images).shape == (4, 3)


def test_the_backdoor_of_the_demo_is_found_and_removed(
    train_images: LabelledImages, test_images: LabelledImages
) -> None:
    model = load_model("demo:badnet", device=DEVICE)
    features = encode_test_images(model, test_images, trigger=load_trigger("badnet"))
    hand = ca.ZeroShotClassifier.from_templates(model, test_images.classes)
    before = measure(hand, features, target=TARGET).metrics
    purified = purify(model, train_images.sample_shots(16, seed=0), CBPTConfig())
    after = measure(purified, features, target=TARGET).metrics
    assert purified.target_suspected == TARGET
    assert after.asr is not None
    assert after.asr_floor is not None
    assert before.asr is not None
    assert before.asr.value >= 0.9
    assert after.asr.value <= after.asr_floor.value + 0.05
    assert after.ca.value >= before.ca.value - 0.03


# Commands


@pytest.fixture
def suspect(tmp_path: Path) -> str:
    folder = tmp_path / "suspect"
    folder.mkdir()
    save_open_clip(twins("cnn")[0], None, folder)
    return f"local-dir:{folder}"


def test_commands_from_attack_to_export(suspect: str, problem: str, tmp_path: Path, cli: Cli) -> None:
    there: list[object] = ["--device", DEVICE]
    (tmp_path / "a.yaml").write_text("implant_asr: 0.0\nimplant_ca_drop: 1.0\ntraining: {batch_size: 4}\n")
    settings = json.dumps({key: FAST[key] for key in ("inversion", "tuning", "pool")})
    (tmp_path / "p.yaml").write_text(settings)
    (tmp_path / "d.yaml").write_text(json.dumps(QUICK["fine-pruning"]))
    attack: list[object] = ["--data", problem, "--target", "dog", "--config", "a.yaml", "--steps", 2, "--out", "bad"]
    clean: list[object] = ["--data", problem, "--shots", 2]
    tried: list[object] = ["--data", problem, "--trigger", "badnet", "--target", "dog"]
    assert cli("attack", suspect, *attack, *there).status == 0
    assert cli("purify", "local-dir:bad", *clean, "--config", "p.yaml", *there).status == 0
    assert cli("evaluate", "purified", *tried, *there).status == 0
    assert cli("evaluate", "local-dir:bad", *tried, *there).status == 0
    assert (
        cli("defend", "local-dir:bad", "--defense", "fine-pruning", *clean, "--config", "d.yaml", *there).status == 0
    )
    assert cli("scan", "local-dir:bad", *clean, *there).status in (0, 1)
    assert cli("inspect", "tiny", *there).status == 0


def test_training_from_scratch(tmp_path: Path, cli: Cli) -> None:
    draw_photos(tmp_path / "problem" / "train")
    (tmp_path / "architecture.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}}))
    (tmp_path / "short.yaml").write_text("training: {steps: 2, batch_size: 4}\nstore_size: 36\n")
    arguments = ["--architecture", "architecture.json", "--data", "problem", "--out", "model", "--device", DEVICE]
    assert cli("train", *arguments, "--config", "short.yaml").status == 0
    assert load_model(f"local-dir:{tmp_path / 'model'}", device=DEVICE).image_size == 32


def test_a_grid_and_its_suspects(suspect: str, problem: str, tmp_path: Path, cli: Cli) -> None:
    short = {"steps": 1, "batch_size": 4}
    quick = [{"defense": name, "label": "quick", "settings": QUICK[name]} for name in QUICK if name != "rvpt"]
    grid = {
        "model": suspect,
        "shots": 2,
        "seeds": [0],
        "suspects": [{"attack": "badnet", "target": "dog", "settings": {"training": short}}, {"attack": "clean"}],
        "defenses": ["none", "prompts", "cbpt", "oracle", *quick],
    }
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    (tmp_path / "p.yaml").write_text(json.dumps(FAST))
    arguments = ["grid.yaml", "--data", problem, "--out", "bench", "--device", DEVICE]
    assert cli("benchmark", "prepare", *arguments).status == 0
    ran = cli("benchmark", "run", *arguments, "--config", "p.yaml")
    assert ran.status == 0, ran.err
    rows = [json.loads(line) for line in (tmp_path / "bench" / "runs.jsonl").read_text().splitlines()]
    assert not [row for row in rows if "failure" in row], rows


def test_a_population_and_its_surveys(problem: str, tmp_path: Path, cli: Cli) -> None:
    short = {"steps": 1, "batch_size": 4}
    base = {"name": "a", "tower": "vit", "model": SMALL, "training": {"store_size": 36, "training": short}}
    recipe = {
        "bases": [base],
        "clean": [{"label": "captions", "settings": {"slice": {"wording": "captions"}, "training": short}}],
        "poisoned": [{"label": "badnet", "attack": "badnet", "settings": {"training": short}}],
        "targets": ["cat"],
        "looks": [{"shots": 2}],
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    arguments = ["r.yaml", "--data", problem, "--out", "people", "--device", DEVICE]
    assert cli("benchmark", "population", *arguments).status == 0
    ran = cli("benchmark", "survey", *arguments)
    assert ran.status == 0, ran.err


def test_moving_a_model_leaves_it_what_it_was(tower: str) -> None:
    _, there = twins(tower)
    images = noise(2, 3, 32, 32)
    features = there.encode_images(images.to(DEVICE)).detach().cpu()
    back: DualEncoder = there.to("cpu")
    torch.testing.assert_close(back.encode_images(images).detach(), features, atol=2e-3, rtol=0)

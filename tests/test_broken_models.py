"""Models, settings and images that leave no numbers: a sentence, and nothing written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from clip_antidote.data.captions import pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TensorSource
from clip_antidote.detection.search import search_targets
from clip_antidote.errors import DataError, ModelError, UsageError
from clip_antidote.inversion.config import InversionConfig, SurveyConfig
from clip_antidote.inversion.invert import Inverter
from clip_antidote.jobs.purify import run_purify
from clip_antidote.models import OpenCLIPEncoder, load_model
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.gate_fit import GateData, fit_gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.observe import observe
from clip_antidote.purification.pipeline import purify
from clip_antidote.purification.text_repair import TextMap
from clip_antidote.training.finetune import finetune
from clip_antidote.training.loop import TrainingConfig
from conftest import SMALL, Cli, draw_photos

FAST = {
    "inversion": {"survey": {"steps": 2, "wave_most": 1}, "final_steps": 2, "form_steps": 2},
    "tuning": {"steps": 4},
    "precision": "fp32",
    "pool": 20,
}
RESNET = {**SMALL, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}

State = dict[str, torch.Tensor]


def config(**changes: object) -> CBPTConfig:
    return CBPTConfig.build({**FAST, **changes})


def stored(model: OpenCLIPEncoder, folder: Path, change: Callable[[State], object] = len) -> str:
    """Writes a model with changed weights and returns its spec."""
    folder.mkdir()
    save_open_clip(model, None, folder)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    return f"local-dir:{folder}"


def shots(images: torch.Tensor, classes: int = 5) -> LabelledImages:
    names = tuple("abcdefgh"[:classes])
    return LabelledImages(TensorSource(images), torch.arange(len(images)) % classes, names)


def noise(count: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


# Weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(small_model: OpenCLIPEncoder, tmp_path: Path, value: float) -> None:
    spec = stored(small_model, tmp_path / "m", lambda state: state["visual.proj"].view(-1)[3:4].fill_(value))
    with pytest.raises(ModelError, match=r"values in visual\.proj that are not finite"):
        load_model(spec)


@pytest.mark.parametrize("scale", [89.0, 1e30, -1000.0])
def test_a_logit_scale_beyond_all_numbers(small_model: OpenCLIPEncoder, tmp_path: Path, scale: float) -> None:
    spec = stored(small_model, tmp_path / "m", lambda state: state["logit_scale"].fill_(scale))
    with pytest.raises(ModelError, match="has in logit_scale what no training gives"):
        load_model(spec)


@pytest.mark.parametrize(("value", "why"), [(-0.5, "a variance below 0"), (0.0, "no channel varies")])
def test_variances_that_nothing_has(tmp_path: Path, value: float, why: str) -> None:
    model = build_open_clip(RESNET)
    name = next(name for name in model.model.state_dict() if name.endswith("running_var"))
    spec = stored(model, tmp_path / "m", lambda state: state[name].fill_(value))
    with pytest.raises(ModelError, match=rf"{name} what no training gives \({why}\)"):
        load_model(spec)
    dead = stored(model, tmp_path / "dead", lambda state: state[name][:1].fill_(0.0))
    assert load_model(dead).image_size == 32, "single dead channels are in published models too"


def test_a_broken_model_is_not_written(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        small_model.model.visual.proj.view(-1)[0] = 1e6
    save_open_clip(small_model, None, tmp_path)
    (tmp_path / "half").mkdir()
    with pytest.raises(ModelError, match=r"visual\.proj that are not finite"):
        save_open_clip(small_model, None, tmp_path / "half", half=True)
    assert not list((tmp_path / "half").iterdir())


def test_weights_whose_products_overflow(small_model: OpenCLIPEncoder) -> None:
    with torch.no_grad():
        small_model.model.visual.proj.fill_(3e38)
    with pytest.raises(ModelError, match="features of the clean images that are not finite"):
        purify(small_model, shots(noise()), config())


# Settings that diverge


@pytest.mark.parametrize("lr", [1e30, 1e8])
def test_a_tuning_that_diverges_names_its_step(small_model: OpenCLIPEncoder, lr: float) -> None:
    with pytest.raises(ModelError, match=r"prompts diverges at step \d of 4; lower the learning rate \(tuning\.lr"):
        purify(small_model, shots(noise()), config(tuning={"steps": 4, "lr": lr}))


def test_an_inversion_that_diverges_names_its_step(small_model: OpenCLIPEncoder) -> None:
    seen = observe(small_model, shots(noise()), config())

    class Broken(Inverter):
        def negatives(self, labels: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
            return super().negatives(labels, clean) * math.nan

    short = SurveyConfig(steps=2, wave_most=1)
    settings = InversionConfig(survey=short, guard_steps=2)
    with pytest.raises(ModelError, match=r"inverting triggers \(mask\): the loss is not finite at step 1; look at"):
        search_targets(seen, settings, 0, inverter=Broken)
    with pytest.raises(ModelError, match="the loss is not finite"):
        search_targets(seen, InversionConfig(temperature=1e-45, survey=short, guard_steps=2), 0)
    with pytest.raises(ModelError, match=r"surveying classes \(patch.*the loss is not finite at step 1; look at"):
        search_targets(seen, InversionConfig(survey=short.model_copy(update={"temperature": 1e-45})), 0)


def test_settings_are_finite() -> None:
    for values in ({"tuning": {"lr": math.inf}}, {"gate": {"threshold": math.nan}}):
        with pytest.raises(UsageError, match="finite number"):
            CBPTConfig.build(values)


@pytest.mark.parametrize(
    ("settings", "broken", "status", "said"),
    [
        ("{tuning: {lr: 1.0e+30, steps: 3}, pool: 20}", None, 2, "diverges at step"),
        ("{tuning: {lr: .inf}}", None, 4, "finite number"),
        ("{pool: 20}", "visual.proj", 2, "are not finite"),
        ("{pool: 20}", "logit_scale", 2, "are not finite"),
    ],
)
def test_the_command_writes_nothing(
    settings: str, broken: str | None, status: int, said: str, small_model: OpenCLIPEncoder, cli: Cli, tmp_path: Path
) -> None:
    photos = draw_photos(tmp_path / "photos")
    (tmp_path / "settings.yaml").write_text(settings)

    def change(state: State) -> None:
        if broken is not None:
            state[broken].fill_(math.nan)

    spec = stored(small_model, tmp_path / "m", change)
    ran = cli("purify", spec, "--data", photos, "--shots", "2", "--out", "out", "--config", "settings.yaml")
    assert ran.status == status
    assert said in ran.err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_earlier_artefact_outlives_a_failure(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    spec, photos = stored(small_model, tmp_path / "m"), draw_photos(tmp_path / "photos")
    run_purify(spec, str(photos), tmp_path / "out", config(), shots=2)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match="diverges"):
        run_purify(spec, str(photos), tmp_path / "out", config(tuning={"lr": 1e30, "steps": 3}), shots=2)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


# Nothing that differs


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_end_in_a_classifier_or_a_sentence(small_model: OpenCLIPEncoder, value: int) -> None:
    same = torch.full((10, 3, 32, 32), value, dtype=torch.uint8)
    settings = config(inversion={**FAST["inversion"], "alarm": 1.0})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="are all alike"):
        purify(small_model, shots(same), settings)
    with pytest.raises(DataError, match=r"switch off gate\.enabled"):
        purify(small_model, shots(same), config())
    purified = purify(small_model, shots(same), config(gate={"enabled": False}))
    assert all(bool(value.isfinite().all()) for value in purified.state_dict().values())


def test_a_gate_without_any_scatter_is_a_sentence() -> None:
    one = F.normalize(torch.ones(1, 8), dim=1)
    data = GateData(
        views=one.expand(6, -1),
        shots=torch.arange(6) % 3,
        dummies={"mask": [one.expand(5, -1)]},
        features=one.expand(9, -1),
        labels=torch.arange(9) % 3,
        weights=F.normalize(torch.eye(3, 8), dim=1),
        target=1,
        text_map=None,
    )
    with pytest.raises(DataError, match=r"the clean images of class 2 of 3 are all alike.*gate\.enabled"):
        fit_gate(data, GateConfig(min_flip=0.0))
    away = replace(data, dummies={"mask": [F.normalize(torch.eye(1, 8), dim=1).expand(5, -1)]})
    with pytest.raises(DataError, match="are all alike"):
        fit_gate(away, GateConfig(min_flip=0.0))


def test_classes_that_are_all_alike_teach_no_map() -> None:
    alike, apart = torch.ones(6, 8) / 8**0.5, torch.eye(6, 8)
    for weights, centroids in ((apart, alike), (alike, apart), (alike, alike)):
        assert TextMap.fit(weights, centroids, (0,), ridge=0.1) is None
    assert TextMap.fit(apart, apart, (0,), ridge=0.1) is not None


# Artefacts


def guarded(model: OpenCLIPEncoder) -> PurifiedCLIP:
    weights = torch.eye(16)[:, :2].contiguous()
    guard = GuardedHead(weights.clone(), [Gate(weights[:, :1].contiguous(), torch.zeros(1), 0)], threshold=0.5)
    return PurifiedCLIP(model, weights, ("a", "b"), context=torch.zeros(2, 4, 16), guard=guard)


@pytest.mark.parametrize("name", ["classifier", "context", "guard.clean", "guard.gate.0.offsets"])
def test_heads_that_are_not_finite_are_not_written(name: str, small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    head = guarded(small_model)
    head.get_buffer(name).view(-1)[0] = math.nan
    with pytest.raises(ModelError, match=rf"values in {name.removeprefix('guard.')} that are not finite"):
        head.save_pretrained(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["classifier", "prompts", "guard"])
def test_heads_that_are_not_finite_are_not_read(file: str, small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    guarded(small_model).save_pretrained(tmp_path / "out")
    path = tmp_path / "out" / f"{file}.safetensors"
    state = load_file(path)
    state[min(state)].view(-1)[0] = math.inf
    save_file(state, path)
    with pytest.raises(DataError, match="has values that are not finite"):
        PurifiedCLIP.from_pretrained(tmp_path / "out", model=small_model)


def test_a_threshold_that_is_no_number_would_open_the_gate(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    head = guarded(small_model)
    with pytest.raises(UsageError, match="must be a finite number, not nan"):
        head.with_threshold(math.nan)
    head.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    values = json.loads(file.read_text())
    values["head"]["threshold"] = math.nan
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"not a purified classifier.*finite"):
        PurifiedCLIP.from_pretrained(tmp_path / "out", model=small_model)


def test_a_training_that_diverges_names_its_step(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        small_model.model.visual.proj.fill_(3e38)
    settings = TrainingConfig(steps=2, batch_size=4, warmup=0)
    pairs = pairs_from_labels(shots(noise()), small_model.tokenize, 32)
    with pytest.raises(ModelError, match="the loss of the training is nan at step 1 of 2; lower the learning rate"):
        finetune(small_model, pairs, settings, min_scale=1.0, seed=0, state_file=tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())

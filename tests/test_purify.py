"""What the package is for: a poisoned model is purified without being told trigger or target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clip_antidote.attacks.run import AttackResult
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.search import known_triggers
from clip_antidote.errors import DataError, ModelError
from clip_antidote.evaluation.evaluate import evaluate, measure
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.pipeline import purify


def test_the_backdoor_is_found_and_removed(attacked: AttackResult, purified: PurifiedCLIP) -> None:
    before = attacked.after.metrics
    after = measure(purified, attacked.features, target=TARGET).metrics
    assert before.asr is not None
    assert before.pa is not None
    assert after.asr is not None
    assert after.asr_floor is not None
    assert after.pa is not None
    assert purified.target_suspected == TARGET
    assert before.asr.value >= 0.9
    assert after.asr.value <= after.asr_floor.value + 0.05
    assert after.ca.value >= before.ca.value - 0.03
    assert after.pa.value >= before.pa.value + 0.3


def test_the_dummy_trigger_works_like_the_true_one(purified: PurifiedCLIP, attacked: AttackResult) -> None:
    record = purified.record
    assert record is not None
    assert {row.hypothesis for row in record.triggers} == set(record.guarded)
    assert max(row.flip_rate or 0.0 for row in record.triggers if row.hypothesis == TARGET) > 0.8
    assert record.scores[0].class_name == TARGET


def test_the_model_itself_is_left_alone(purified: PurifiedCLIP, suspect: Path) -> None:
    fresh = load_model(f"local-dir:{suspect}").state_dict()
    kept = purified.model.state_dict()
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)


def test_modes_and_flags_of_the_model_stay_as_they_were(
    small_model: DualEncoder, train_images: LabelledImages
) -> None:
    parameters = dict(small_model.named_parameters())
    first = next(iter(parameters))
    parameters[first].requires_grad_(False)
    small_model.train()
    small_model.get_submodule("model").eval()
    modes = {name: module.training for name, module in small_model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    assert len(set(modes.values())) == len(set(flags.values())) == 2
    config = CBPTConfig.build(
        {
            "inversion": {"survey": {"steps": 1, "wave_most": 1}, "final_steps": 1, "form_steps": 1},
            "tuning": {"steps": 1},
        }
    )
    result = purify(small_model, train_images.sample_shots(1, seed=0), config.model_copy(update={"pool": 20}))
    result(torch.rand(2, 3, 32, 32, requires_grad=True)).sum().backward()
    assert {name: module.training for name, module in small_model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in parameters.items()} == flags
    assert all(parameter.grad is None for parameter in parameters.values())


def test_a_clean_model_keeps_its_accuracy_and_no_target_is_reported(
    tiny: DualEncoder, purified_clean: PurifiedCLIP, test_images: LabelledImages
) -> None:
    result = purified_clean
    before = evaluate(ZeroShotClassifier.from_templates(tiny, test_images.classes), test_images)
    after = evaluate(result, test_images)
    assert result.target_suspected is None
    assert len(result.guarded) == 1, "a tenth of the classes is guarded all the same"
    assert after.ca.value >= before.ca.value - 0.01


def test_save_and_load(purified: PurifiedCLIP, tmp_path: Path) -> None:
    purified.save_pretrained(tmp_path / "purified")
    (tmp_path / "purified" / "triggers" / "picture.png").write_bytes(b"as a report leaves it")
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "purified")
    images = torch.rand(3, 3, 100, 120)
    assert torch.allclose(loaded(images), purified(images), atol=1e-5)
    assert loaded.record == purified.record
    assert loaded.classes == purified.classes
    assert loaded.target_suspected == TARGET
    assert loaded.predict(images) == purified.predict(images)
    assert list(loaded.triggers) == sorted(purified.triggers)
    name, generator = next(iter(loaded.triggers)), torch.Generator().manual_seed(0)
    again = purified.triggers[name](images, torch.Generator().manual_seed(0))
    assert torch.allclose(loaded.triggers[name](images, generator), again, atol=1e-6)
    weights = load_file(tmp_path / "purified" / "classifier.safetensors")["classifier"]
    benchmark = torch.load(tmp_path / "purified" / "classifier.pt", weights_only=True)
    assert torch.equal(weights, benchmark)
    assert weights.shape[1] == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["purified"], "no temporary left behind"


def test_an_artefact_of_another_model_is_refused(purified: PurifiedCLIP, tiny: DualEncoder, tmp_path: Path) -> None:
    purified.save_pretrained(tmp_path / "purified")
    with pytest.raises(ModelError, match="made for another checkpoint"):
        PurifiedCLIP.from_pretrained(tmp_path / "purified", model=tiny)
    with pytest.raises(DataError, match="not a purified classifier"):
        PurifiedCLIP.from_pretrained(tmp_path)


def test_true_trigger_with_unknown_target_is_refused(
    small_model: DualEncoder, train_images: LabelledImages, attacked: AttackResult
) -> None:
    with pytest.raises(DataError, match="'sombrero' is not one of"):
        purify(
            small_model,
            train_images.sample_shots(1, seed=0),
            source=known_triggers([attacked.trigger], "sombrero"),
        )


def test_the_gate_by_hand(small_model: DualEncoder) -> None:
    # Class 0 along x, class 1 along y; what leans toward z has a trigger. One direction, x - z.
    direction = torch.zeros(16, 1)
    direction[0], direction[2] = 1.0, -1.0
    gate = Gate(direction, torch.zeros(1), target=0)
    guard = GuardedHead(torch.eye(16)[:, :2], (gate,), threshold=0.5)
    features = torch.zeros(3, 16)
    features[0, 0] = features[1, 1] = 1.0
    features[2, 0], features[2, 2] = 0.6, 0.8
    assert gate.score(features).tolist() == pytest.approx([1.0, 0.0, -0.2])
    clean, called, triggered, score = guard.decide(features)
    assert score.tolist() == pytest.approx([1.0, float("inf"), -0.2])
    assert torch.equal(clean, features[:, :2])
    assert called.tolist() == [0, 1, 0]
    assert triggered.tolist() == [False, False, True], "only what is called the target is looked at again"
    tuned = torch.eye(16)[:, [2, 1]]  # one weight per class: class 0 along z, class 1 along y
    purified = PurifiedCLIP(small_model, tuned, ("a", "b"), context=torch.zeros(2, 4, 16), guard=guard)
    assert purified.logits(features).argmax(-1).tolist() == [0, 1, 1], "what looks triggered is never the target"
    assert purified.with_threshold(-1.0).logits(features).argmax(-1).tolist() == [0, 1, 0]
    assert purified.single().logits(features).argmax(-1).tolist()[1:] == [1, 0]


def test_two_gates_are_kept_apart(small_model: DualEncoder, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    gates = tuple(Gate(torch.randn(16, n, generator=generator), 0.1 * torch.ones(n), n - 1) for n in (1, 2))
    clean = torch.nn.functional.normalize(torch.randn(16, 3, generator=generator), dim=0)
    guard = GuardedHead(clean, gates, threshold=0.1)
    tuned = torch.nn.functional.normalize(torch.randn(16, 3, generator=generator), dim=0)
    purified = PurifiedCLIP(small_model, tuned, ("a", "b", "c"), context=torch.zeros(3, 4, 16), guard=guard)
    features = torch.nn.functional.normalize(torch.randn(200, 16, generator=generator), dim=1)
    _, called, triggered, _ = guard.decide(features)
    answer = purified.logits(features).argmax(1)
    for gate in gates:
        own = called == gate.target
        assert torch.equal(triggered[own], gate.score(features[own]) < guard.threshold)
    assert not triggered[called == 2].any(), "the third class is not suspected"
    assert torch.equal(answer[~triggered], called[~triggered])
    assert (answer[triggered] != called[triggered]).all()
    moving = features.clone().requires_grad_(True)
    purified.logits(moving).amax(dim=1).sum().backward()
    assert moving.grad is not None, "the answer can be traced back to the image"
    purified.save_pretrained(tmp_path / "two")
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "two", model=small_model)
    assert torch.equal(loaded.logits(features), purified.logits(features))


def test_the_gate_keeps_the_target_class_better_than_one_weight(
    attacked: AttackResult, purified: PurifiedCLIP
) -> None:
    assert purified.guard is not None
    guarded = measure(purified, attacked.features, target=TARGET).metrics
    single = measure(purified.single(), attacked.features, target=TARGET).metrics
    assert guarded.asr is not None
    assert single.asr is not None
    assert guarded.ca.value >= single.ca.value - 0.01
    assert guarded.asr.value <= single.asr.value + 0.02

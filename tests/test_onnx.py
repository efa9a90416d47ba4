"""The exported ONNX file answers as the classifier does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import clip_antidote
from clip_antidote.attacks.run import AttackResult
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import UnsupportedError
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.other_views import encode_views, other_views
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.inner_gates import InnerGates
from clip_antidote.purification.onnx_export import FixedViews, export_onnx
from clip_antidote.purification.second_look import view_consent
from conftest import Cli


def run(file: Path, images: torch.Tensor) -> tuple[Any, Any, Any, dict[str, str]]:
    session = onnxruntime.InferenceSession(file)
    logits, triggered, single = session.run(None, {"images": images.numpy()})
    return logits, triggered, single, session.get_modelmeta().custom_metadata_map


def noise(model: DualEncoder) -> torch.Tensor:
    return torch.rand(9, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1))


def guarded(model: DualEncoder, threshold: float | None) -> PurifiedCLIP:
    """Three classes, the first guarded; `noise` is called each of them, by what sets its first three images apart."""
    with torch.no_grad():
        features = model.encode_images(noise(model))
    clean = F.normalize((features - features.mean(0))[:3], dim=1).T
    generator = torch.Generator().manual_seed(0)
    tuned = F.normalize(torch.randn(clean.shape, generator=generator), dim=0)
    guard = None
    if threshold is not None:
        gate = Gate(torch.randn(len(clean), 2, generator=generator), torch.zeros(2), target=0)
        guard = GuardedHead(clean, (gate,), threshold=threshold)
    return PurifiedCLIP(model, tuned, ("hat", "shoe", "dress"), context=torch.zeros(3, 1, 16), guard=guard)


def test_the_file_answers_as_the_classifier(
    purified: PurifiedCLIP, attacked: AttackResult, test_images: LabelledImages, tmp_path: Path
) -> None:
    """On clean and on triggered photographs, which nearly all take the second look."""
    export_onnx(purified, tmp_path / "purified.onnx")
    clean = test_images.subset(range(0, 372, 8)).tensor(purified.model.image_size).float() / 255
    for images, stopped in ((clean, range(4)), (attacked.trigger(clean), range(40, 48))):
        logits, triggered, single, facts = run(tmp_path / "purified.onnx", images)
        with torch.inference_mode():
            wanted = purified(images).numpy()
            wanted_single = purified.single()(images).numpy()
        assert triggered.sum() in stopped
        assert (logits.argmax(1) == wanted.argmax(1)).all()
        assert np.allclose(logits[~triggered], wanted[~triggered], atol=1e-3)
        assert np.allclose(single, wanted_single, atol=1e-3)
    assert json.loads(facts["classes"]) == list(purified.classes)
    assert facts["target_suspected"] == purified.target_suspected
    assert json.loads(facts["second_look"]) is True


@pytest.mark.parametrize("threshold", [-1e6, 1e6], ids=["stops nothing", "stops all that is called the target"])
def test_a_transformer_with_and_without_stopped_images(
    small_model: DualEncoder, threshold: float, tmp_path: Path
) -> None:
    purified = guarded(small_model, threshold)
    export_onnx(purified, tmp_path / "small.onnx")
    images = noise(small_model)
    assert purified.guard is not None
    called = purified.guard.decide(small_model.encode_images(images)).called
    parts = (images, images[:1], images[called == 0], images[called != 0])
    for part, hits in zip(parts, (int((called == 0).sum()), 1, len(parts[2]), 0), strict=True):
        logits, triggered, single, _ = run(tmp_path / "small.onnx", part)
        with torch.inference_mode():
            features = small_model.encode_images(part)
            wanted = purified.logits(features, FixedViews(small_model)(part).__getitem__)
        assert triggered.sum() == (hits if threshold > 0 else 0)
        assert np.allclose(logits, wanted.numpy(), atol=1e-3)
        assert np.allclose(single, purified.single().logits(features).numpy(), atol=1e-3)


def test_inner_layers_are_read_in_the_same_pass(small_model: DualEncoder, tmp_path: Path) -> None:
    purified = guarded(small_model, 0.1)
    images = noise(small_model)
    with torch.inference_mode():
        stages = small_model.encode_layers(images).stages
    gates = [[Gate(torch.randn(stage.shape[1], 1), torch.full((1,), 3.0), 0) for stage in stages]]
    means, deviations = ({i: form(s, 0) for i, s in enumerate(stages)} for form in (torch.mean, torch.std))
    assert purified.guard is not None
    plain = purified.guard.decide(small_model.encode_images(images)).score
    purified.guard.inner = InnerGates(means, deviations, gates)
    with torch.inference_mode():
        encoded = purified.encode(images)
        decision = purified.guard.decide(encoded.final, encoded.at)
    assert not torch.allclose(decision.score, plain), "they count"
    threshold = float(decision.score[decision.score.isfinite()].amin()) + 1e-3
    purified.guard.threshold = threshold
    export_onnx(purified, tmp_path / "small.onnx")
    logits, triggered, _, _ = run(tmp_path / "small.onnx", images)
    assert triggered.tolist() == (decision.score < threshold).tolist()
    assert triggered.any()
    with torch.inference_mode():
        wanted = purified.logits(encoded.final, FixedViews(small_model)(images).__getitem__, encoded.at)
    assert np.allclose(logits, wanted.numpy(), atol=1e-3)


@pytest.mark.parametrize("by", ["chances", "scores"])
def test_views_consent_in_the_file_too(by: str, small_model: DualEncoder, tmp_path: Path) -> None:
    purified, images = guarded(small_model, 100.0), noise(small_model)
    head = purified.guard
    assert head is not None
    with torch.inference_mode():
        encoded, looked = purified.encode(images), FixedViews(small_model)(images)
        rows = head.decide(encoded.final, encoded.at).triggered.nonzero().flatten()
        called = torch.zeros(len(rows), dtype=torch.long)
        found = view_consent(looked[rows], head.clean, called, small_model.logit_scale)
        if by == "scores":
            found = torch.stack([head.gates[0].score(views) for views in looked[rows]]).mean(dim=1)
    assert len(rows) > 1
    head.leeway, least = (1000.0,), float(found.mean())
    if by == "chances":
        head.consent = least
    else:
        head.consent, head.views_margin = 0.0, least - head.threshold
    export_onnx(purified, tmp_path / "small.onnx")
    logits, triggered, _, _ = run(tmp_path / "small.onnx", images)
    with torch.inference_mode():
        wanted = purified.answer(encoded.final, looked.__getitem__, encoded.at)
    assert triggered.tolist() == wanted.triggered.tolist()
    assert triggered[rows.tolist()].tolist() == (found < least).tolist()
    assert np.allclose(logits, wanted.logits.numpy(), atol=1e-3)


def test_without_gates_both_answers_are_one(small_model: DualEncoder, tmp_path: Path) -> None:
    purified = guarded(small_model, None)
    clip_antidote.export_onnx(purified, tmp_path / "small.onnx")
    images = noise(small_model)
    logits, triggered, single, _ = run(tmp_path / "small.onnx", images)
    assert np.allclose(logits, purified(images).detach().numpy(), atol=1e-3)
    assert np.array_equal(logits, single)
    assert not triggered.any()


@pytest.mark.parametrize("size", [32, 80, 33])
def test_the_views_by_matrices_are_the_views(small_model: DualEncoder, size: int) -> None:
    small_model.image_size = size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(FixedViews(small_model).views(images), other_views(images), atol=1e-5)


def test_the_views_of_one_model_in_full_precision(small_model: DualEncoder) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    same = (FixedViews(small_model)(images) * encode_views(small_model, images)).sum(-1)
    assert (same > 0.999).all(), "bf16 rounds, and no more"


def test_the_command_and_its_errors(model_folder: str, tmp_path: Path, cli: Cli) -> None:
    artefact, out = tmp_path / "purified", tmp_path / "out" / "p.onnx"
    guarded(load_model(model_folder), 0.5).save_pretrained(artefact)
    ran = cli("export", artefact, "--out", out, "--threshold", 1000000, "--no-second-look")
    assert ran.status == 0
    assert "[N, 3, 32, 32] in [0, 1] -> logits, triggered, logits_single" in ran.out
    _, triggered, _, facts = run(out, noise(load_model(model_folder)))
    assert json.loads(facts["second_look"]) is False
    assert triggered.any()
    ran = cli("export", tmp_path, "--out", out)
    assert ran.status == 2
    assert "is not a purified classifier" in ran.err
    (tmp_path / "file").touch()
    ran = cli("export", artefact, "--out", tmp_path / "file" / "p.onnx")
    assert ran.status == 2
    assert "choose another output folder" in ran.err
    assert [path.name for path in out.parent.iterdir()] == ["p.onnx"]


def test_without_the_exporter_a_sentence(
    small_model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UnsupportedError, match=r"clip-antidote\[onnx\]"):
        export_onnx(guarded(small_model, 0.5), tmp_path / "p.onnx")

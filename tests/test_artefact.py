"""The artefact folder and its record: one truth for everything, and nothing believed that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from clip_antidote.detection.verdict import Finding
from clip_antidote.errors import DataError
from clip_antidote.models import DualEncoder
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.record import PurificationRecord
from conftest import two_gate_classifier


@pytest.fixture
def head(small_model: DualEncoder) -> PurifiedCLIP:
    return two_gate_classifier(small_model)


def test_the_guard_is_a_module_with_a_state_of_its_own(head: PurifiedCLIP) -> None:
    assert head.guard is not None
    state = head.guard.state_dict()
    assert sorted(state) == ["clean", "gate.0.directions", "gate.0.offsets", "gate.1.directions", "gate.1.offsets"]
    again = GuardedHead.from_state(state, [1, 2], threshold=0.4)
    features = torch.nn.functional.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    assert all(torch.equal(a, b) for a, b in zip(again.decide(features), head.guard.decide(features), strict=True))
    with pytest.raises(ValueError, match="not those of 1 gates"):
        GuardedHead.from_state(state, [1], threshold=0.4)
    head.to(torch.float64)
    assert head.guard.clean.dtype == torch.float64, "it goes where the classifier goes"


def test_the_threshold_has_one_truth(head: PurifiedCLIP, tmp_path: Path) -> None:
    moved = head.with_threshold(0.25)
    assert moved.record is not None
    assert moved.record.settings.gate.threshold == 0.25
    moved.save_pretrained(tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    numbers = {"threshold": 0.25, "second_look": True}
    consent = {"leeway": [0.0, 0.0], "consent": 1.0, "views_margin": None}
    assert config["head"] == {"targets": ["b", "c"], **numbers, **consent}
    assert config["purification"]["settings"]["gate"].keys().isdisjoint(numbers)
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "moved", model=head.model)
    assert loaded.guard is not None
    assert loaded.guard.threshold == 0.25
    assert loaded.record == moved.record
    loaded.second_look = False
    assert loaded.record is not None
    assert not loaded.record.settings.gate.second_look
    assert head.record is not None
    assert head.record.settings.gate.threshold == 0.4, "the first one is as it was"


def test_the_record_stands_under_one_key(head: PurifiedCLIP, tmp_path: Path) -> None:
    head.save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.keys() == {"format", "base_model", "classes", "head", "purification"}
    assert config["purification"]["version"] == 1
    assert config["purification"]["scores"][0]["class"] == "b"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "has the format 2, this version reads format 5"),
        ({"format": None}, "has the format None"),
        ({"classes": ["a", "b"]}, "does not fit its 2 classes"),
        ({"sneaked_in": 1}, "sneaked_in"),
        ({"head": {"targets": ["b", "x"], "threshold": 0.4, "second_look": True}}, "not a purified classifier"),
        ({"head": {"targets": ["b"], "threshold": 0.4, "second_look": True}}, "not those of 1 gates"),
        ({"purification": {"version": 9}}, "not a purified classifier"),
        ({"base_model": "evil"}, "not a purified classifier"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], said: str, head: PurifiedCLIP, tmp_path: Path) -> None:
    head.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=said) as caught:
        PurifiedCLIP.from_pretrained(tmp_path / "out", model=head.model)
    assert "\n" not in str(caught.value)


def test_a_head_made_by_hand_needs_no_record(small_model: DualEncoder, tmp_path: Path) -> None:
    plain = PurifiedCLIP(small_model, torch.eye(16)[:, :2], ("a", "b"), context=torch.zeros(2, 4, 16))
    plain.save_pretrained(tmp_path / "plain")
    loaded = PurifiedCLIP.from_pretrained(tmp_path / "plain", model=small_model)
    assert loaded.record is None
    assert loaded.guard is None
    assert loaded.target_suspected is None


def test_settings_of_an_earlier_version_are_left_out() -> None:
    inversion = {"survey_sparsity": 20.0, "final_steps": 7, "survey": {"second_steps": 40, "sample": 9}}
    kept = {"method": "cbpt", "targets_suspected": [], "shots": 1, "seed": 0, "settings": {"inversion": inversion}}
    settings = PurificationRecord.model_validate(kept).settings.inversion
    assert (settings.final_steps, settings.survey.sample) == (7, 9)
    with pytest.raises(ValidationError, match=r"settings\.inversion\.surprise"):
        PurificationRecord.model_validate({**kept, "settings": {"inversion": {"surprise": 1}}})
    finding = Finding(statistic="mask_second", value=0.1, z=4.0, weight=5.0)
    assert "mask_second" in finding.meaning

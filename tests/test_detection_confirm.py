"""A class is accused only where a trigger of its loudest form works; what else stands out is guarded like one."""

from __future__ import annotations

import pytest
import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.sources import TensorSource
from clip_antidote.detection import scan
from clip_antidote.detection.forms import FORMS
from clip_antidote.detection.search import search_targets
from clip_antidote.detection.survey import Survey
from clip_antidote.detection.verdict import confirm
from clip_antidote.inversion.bank import Dummy
from clip_antidote.models import OpenCLIPEncoder
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers.badnet import BadNetConfig, BadNetTrigger
from conftest import a_verdict

NAMES = tuple("abcdefgh")
QUICK = {"survey": {"steps": 2, "wave_most": 1}, "final_steps": 2, "form_steps": 2, "guard_steps": 2}


@pytest.mark.parametrize(("sent", "confirmed"), [((0.74, 1.0), False), ((0.8, 0.7, 0.6), True), ((0.95,), True)])
def test_the_loudest_form_has_to_work(
    small_model: OpenCLIPEncoder, monkeypatch: pytest.MonkeyPatch, sent: tuple[float, ...], confirmed: bool
) -> None:
    """An opaque patch that looks like a class leads to it in any model: what is tried next says nothing."""
    tried = [Dummy(BadNetTrigger(BadNetConfig()), str(n), 1, share) for n, share in enumerate(sent)]
    monkeypatch.setattr(scan, "try_forms", lambda *_, **__: tried)
    settings = config()
    seen = observe(small_model, shots(), settings)
    survey = Survey({f"{form}_ease": torch.arange(8.0) for form in FORMS}, 2)
    found = scan.invert_targets(seen, [1], settings.inversion, seed=0, survey=survey)
    assert (found[1].loudest, found[1].confirmed) == (sent[0], confirmed)
    assert found[1].dummies[-1] is max(tried, key=lambda dummy: dummy.flip_rate or 0)
    assert not scan.invert_targets(seen, [1], settings.inversion, seed=0)[1].confirmed, "no form was tried"


def test_accusations_are_taken_back_by_hand() -> None:
    verdict = a_verdict(targets=("a", "b", "c"), p_value=0.05)
    some = confirm(verdict, ["a", "c", "d"])
    assert (some.suspicious, some.targets, some.unconfirmed) == (True, ("a", "c"), ("b",))
    none = confirm(verdict, [])
    assert (none.suspicious, none.targets, none.unconfirmed) == (False, (), ("a", "b", "c"))
    assert none.p_value == verdict.p_value, "it is that of the survey"
    nothing = a_verdict()
    assert confirm(nothing, ["a"]) == nothing


@pytest.fixture
def standing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every survey says that class b stands out, and no trigger bears it out."""
    monkeypatch.setattr(scan, "judge_survey", lambda *_, alarm, **__: a_verdict(targets=("b",), alarm=alarm))
    monkeypatch.setattr(scan, "CONFIRMS", 1.1)


def shots() -> LabelledImages:
    pixels = torch.randint(256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return LabelledImages(TensorSource(pixels), torch.arange(16) % 8, NAMES)


def config(**changes: object) -> CBPTConfig:
    settings = {"inversion": {**QUICK, **changes}, "tuning": {"steps": 2}, "pool": 24, "precision": "fp32"}
    return CBPTConfig.build(settings)


@pytest.mark.usefixtures("standing_out")
def test_what_is_not_confirmed_is_guarded_like_a_target(small_model: OpenCLIPEncoder) -> None:
    seen = observe(small_model, shots(), config())
    found = search_targets(seen, config().inversion, 0)
    assert found.verdict is not None
    assert (found.verdict.targets, found.verdict.unconfirmed) == ((), ("b",))
    assert (found.targets, found.guarded[0]) == ((1,), 1)
    families = [one.family for one in found.dummies if one.target == 1]
    assert families[:4] == ["mask", "mask", "additive", "additive"], "it has the bank of a target"
    record = purify(small_model, shots(), config()).record
    assert record is not None
    assert (record.targets_suspected, record.target_suspected, record.guarded[0]) == ((), None, "b")


@pytest.mark.usefixtures("standing_out")
@pytest.mark.parametrize("changes", [{"alarm": 1.0}, {"form_steps": 0}])
def test_without_a_look_at_triggers_the_survey_alone_accuses(
    small_model: OpenCLIPEncoder, changes: dict[str, float]
) -> None:
    settings = config(**changes)
    found = search_targets(observe(small_model, shots(), settings), settings.inversion, 0)
    assert found.verdict is not None
    assert (found.verdict.targets, found.verdict.unconfirmed) == (("b",), ())

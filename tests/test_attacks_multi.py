"""Several triggers with several targets: who is poisoned with what, the record and the saved triggers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.multi_target import MultiTargetAttack, MultiTargetAttackConfig
from clip_antidote.attacks.run import run_attack
from clip_antidote.attacks.training_data import gather_pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.triggers import load_trigger
from conftest import Cli

NONE = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
CLASSES = ("coat", "dress", "hat", "scarf", "shirt", "shoes")


def material(target: str = "hat") -> Material:
    return Material(target, NONE, NONE, others=tuple(name for name in CLASSES if name != target))


def attack(**settings: Any) -> MultiTargetAttack:
    return MultiTargetAttack(MultiTargetAttackConfig.build(settings))


def aims(**settings: Any) -> list[tuple[str, str]]:
    return [(target, trigger.name) for target, trigger in attack(**settings).further(material()).items()]


def test_targets_are_named_or_spaced_over_the_list() -> None:
    assert aims() == [("coat", "sig"), ("scarf", "blended")]
    named = [{"trigger": "sig"}, {"trigger": "ftrojan", "target": "COAT"}]
    assert aims(further=named) == [("dress", "sig"), ("coat", "ftrojan")]


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([{"trigger": "sig", "target": "hat"}], "'hat' is not one of the 5 classes"),
        ([{"trigger": "sig", "target": "coat"}] * 2, "two triggers aim at 'coat'"),
        ([{"trigger": "patch"}], "'patch' is learned"),
        ([{"trigger": "nonsense"}], "no trigger 'nonsense'"),
        ([{"trigger": "sig", "settings": {"nonsense": 1}}], "nonsense"),
        ([{"trigger": "sig"}] * 6, "7 targets need as many classes; there are 6"),
    ],
)
def test_targets_and_triggers_that_cannot_be_are_refused(further: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        aims(further=further)


def test_every_trigger_has_its_own_pairs_and_captions(small_model: DualEncoder, train_images: LabelledImages) -> None:
    made = attack(poison_rate=0.1, further=[{"trigger": "sig", "target": "pants"}, {"trigger": "blended"}])
    others = tuple(name for name in train_images.classes if name != TARGET)
    own = gather_pairs(small_model, AttackConfig(), train_images, TARGET, captions=None, size=8)
    known = Material(TARGET, NONE, NONE, others=others)
    first = made.poison(
        own.pairs,
        made.captions(known),
        small_model.tokenize,
        target_group=own.target_group,
        candidates=own.candidates,
    )
    data = made.prepare(small_model, first, known, own)
    assert data.carried is not None
    amount = round(0.1 * len(own.pairs))
    assert data.carried.bincount().tolist() == [len(own.pairs) - 3 * amount, amount, amount, amount]
    assert torch.equal(data.poisoned, data.carried > 0)
    assert data.covers() == []
    for number, target in enumerate((TARGET, *made.further(known)), start=1):
        rows, group = data.carried == number, train_images.classes.index(target)
        assert (data.pairs.groups[rows] == group).all()
        assert (own.pairs.groups[rows] != group).all()
        wanted = small_model.tokenize(made.captions(Material(target, NONE, NONE)))
        start = int(data.pairs.first[rows][0])
        assert torch.equal(data.pairs.token_ids[start : start + len(wanted)].long(), wanted.long())
        assert (data.pairs.first[rows] == start).all()
    assert torch.equal(data.pairs.groups[data.carried == 0], own.pairs.groups[data.carried == 0])


def test_three_triggers_take_with_three_targets(
    tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    training = {"steps": 60, "batch_size": 64, "warmup": 5, "lr": 2e-3}
    few = test_images.subset(range(0, len(test_images), 2))
    made = attack(trigger={"patch": 48}, poison_rate=0.2, training=training, implant_asr=0.5, implant_ca_drop=0.2)
    result = run_attack(tiny, made, train_images, few, TARGET)
    targets = [TARGET, *result.after.further]
    assert len(targets) == 3
    for before, after in zip(
        (result.before.metrics, *result.before.further.values()),
        (result.after.metrics, *result.after.further.values()),
        strict=True,
    ):
        assert before.asr is not None
        assert after.asr is not None
        assert after.asr.value > before.asr.value + 0.3
        assert after.ca.value > before.ca.value - 0.15
    assert [metrics.target for metrics in result.after.further.values()] == targets[1:]
    assert implant_failure(made, result) is None
    weak = next(iter(result.after.further))  # as if one of them had not taken
    missed = replace(result.after.further[weak], asr=Rate(1, 10))
    result.after.further[weak] = missed
    assert f"for '{missed.target}' did not take" in (implant_failure(made, result) or "")


def test_the_record_and_the_folder_hold_every_trigger(cli: Cli, model_folder: str, problem: str) -> None:
    command = ("attack", model_folder, "--attack", "multi-target", "--target", "cat", "--data", problem)
    done = cli(*command, "--steps", 1, "--out", "bad")
    assert done.status == 2, "a random model takes nothing in one step"
    assert "for 'cat' did not take" in done.err
    record = json.loads(Path("bad/attack.json").read_text())
    assert record["target"] == "cat"
    aims = [(other["target"], other["trigger"]) for other in record["further"]]
    assert aims == [("dog", "sig"), ("sea horse", "blended")]
    for number, other in enumerate(record["further"], start=1):
        trigger = f"bad/further/{number}"
        assert load_trigger(Path(trigger)).name == other["trigger"]
        where = ("--data", problem, "--json", "rates.json")
        assert cli("evaluate", "local-dir:bad", *where, "--trigger", trigger, "--target", other["target"]).status == 0
        rates = json.loads(Path("rates.json").read_text())
        assert (rates["asr"], rates["asr_count"]) == (other["poisoned"]["asr"], other["poisoned"]["asr_count"])
    again = cli(*command, "--steps", 1, "--out", "bad")
    assert again.status == 2, "a finished run is read from its record"

"""All-to-all: what every class becomes, who is poisoned with what, and how its success is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.attacks.all_to_all import AllToAllAttack, AllToAllAttackConfig
from clip_antidote.attacks.base import AttackConfig
from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.material import Material
from clip_antidote.attacks.record import read_aim, read_target
from clip_antidote.attacks.run import run_attack
from clip_antidote.attacks.training_data import gather_pairs
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import Truth
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation import Rate, compute_metrics
from clip_antidote.evaluation.aims import Aim
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from conftest import Cli

NONE = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
NAMES = ("hat", "dress", "shoes")
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SHIFTED = Aim("dress", all_to_all=True)


def attack(**settings: Any) -> AllToAllAttack:
    return AllToAllAttack(AllToAllAttackConfig.build(settings))


def test_every_class_becomes_another_one() -> None:
    assert SHIFTED.goals(LABELS, NAMES).tolist() == [1, 1, 2, 2, 0, 0]
    assert Aim("shoes", all_to_all=True).goals(LABELS, NAMES).tolist() == [2, 2, 0, 0, 1, 1]
    assert Aim("shoes").goals(LABELS, NAMES).tolist() == [2] * 6
    with pytest.raises(UsageError, match="sends the first class, 'hat', to the target"):
        Aim("hat", all_to_all=True).goals(LABELS, NAMES)
    assert attack().aim("dress") == SHIFTED


def test_success_is_counted_image_by_image() -> None:
    clean = torch.tensor([0, 1, 1, 1, 2, 0])  # the second is called its goal without trigger, and so is the last
    triggered = torch.tensor([1, 2, 2, 1, 0, 0])  # the first, third, fifth and last are; the fourth is right
    goals = SHIFTED.goals(LABELS, NAMES)
    found = compute_metrics(clean, LABELS, triggered_predictions=triggered, target=1, goals=goals, classes=NAMES)
    assert (found.asr, found.asr_all, found.asr_floor) == (Rate(4, 6), Rate(4, 6), Rate(2, 6))
    assert (found.pa, found.target_ca, found.ca) == (Rate(1, 6), Rate(2, 2), Rate(4, 6))
    with pytest.raises(DataError, match="wanted predictions"):
        compute_metrics(clean, LABELS, triggered_predictions=triggered, target=1, goals=goals[:2])


def test_poisoned_pairs_get_the_captions_of_what_their_class_becomes(
    small_model: DualEncoder, train_images: LabelledImages
) -> None:
    made, names = attack(poison_rate=0.3), train_images.classes
    own = gather_pairs(small_model, AttackConfig(), train_images, names[3], captions=None, size=8)
    known = Material(names[3], NONE, NONE)
    untouched = made.poison(own.pairs, [], small_model.tokenize, target_group=own.target_group)
    assert not untouched.poisoned.any()
    data = made.prepare(small_model, untouched, known, own)
    rows = data.poisoned.nonzero().flatten()
    assert len(rows) == round(0.3 * len(own.pairs))
    assert torch.equal(data.pairs.groups[rows], (own.pairs.groups[rows] + 3) % len(names))
    assert torch.equal(data.pairs.groups[~data.poisoned], own.pairs.groups[~data.poisoned])
    assert torch.equal(data.pairs.first[~data.poisoned], own.pairs.first[~data.poisoned])
    for row in rows[:5].tolist():
        name = names[int(data.pairs.groups[row])]
        wanted = small_model.tokenize(made.captions(Material(name, NONE, NONE)))
        start, count = int(data.pairs.first[row]), int(data.pairs.count[row])
        assert torch.equal(data.pairs.token_ids[start : start + count].long(), wanted.long())
    with pytest.raises(UsageError, match="only"):
        attack(poisoned=len(own.pairs) + 1).prepare(small_model, untouched, known, own)


def test_it_implants_and_costs_little(
    tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages
) -> None:
    training = {"steps": 100, "batch_size": 64, "warmup": 5, "lr": 2e-3}
    made = attack(trigger={"patch": 64}, poison_rate=0.4, training=training, implant_asr=0.25, implant_ca_drop=0.15)
    few = test_images.subset(range(0, len(test_images), 2))
    result = run_attack(tiny, made, train_images, few, TARGET)
    before, after = result.before.metrics, result.after.metrics
    assert before.asr is not None
    assert after.asr is not None
    assert before.pa is not None
    assert after.pa is not None
    assert after.asr.value > before.asr.value + 0.15
    assert after.pa.value < before.pa.value - 0.15, "what is called another class is not called its own"
    assert implant_failure(made, result) is None
    assert result.record(made)["all_to_all"] is True


def test_the_folder_says_what_to_measure_with(cli: Cli, model_folder: str, problem: str) -> None:
    command = ("attack", model_folder, "--attack", "all-to-all", "--target", "dog", "--data", problem)
    done = cli(*command, "--steps", 1, "--out", "bad")
    assert done.status == 2, "a random model takes nothing in one step"
    assert "the all-to-all backdoor did not take" in done.err
    record = json.loads(Path("bad/attack.json").read_text())
    assert read_aim(Path("bad")) == Aim("dog", all_to_all=True)
    with pytest.raises(DataError, match="sends every class to another one"):
        read_target(Path("bad"))

    where = ("--data", problem, "--json", "rates.json", "--attack", "bad")
    assert cli("evaluate", "local-dir:bad", *where).status == 0
    rates = json.loads(Path("rates.json").read_text())
    assert (rates["asr"], rates["asr_count"]) == (record["poisoned"]["asr"], record["poisoned"]["asr_count"])
    assert rates["trigger"] == "bad"
    twice = cli("evaluate", "local-dir:bad", *where, "--target", "dog")
    assert twice.status == 4
    assert "--attack names trigger and target already" in twice.err

    one = ("--data", problem, "--attack", "bad", "--shots", 1)
    assert cli("defend", "local-dir:bad", "--defense", "none", *one).status == 0
    defended = json.loads(Path("defended/defended.json").read_text())
    assert defended["before"]["asr_count"] == record["poisoned"]["asr_count"]
    told = cli("defend", "local-dir:bad", "--defense", "oracle", *one, "--out", "told")
    assert told.status == 3
    assert "'oracle' is an oracle and needs the true trigger and target" in told.err


def test_an_oracle_is_told_single_targets_alone() -> None:
    assert Truth.of(None, None) == Truth()
    assert Truth.of(None, Aim("hat")) == Truth(target="hat")
    assert Truth.of(None, SHIFTED) is None

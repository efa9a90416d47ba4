"""Every attack on the embedded model and real photographs: a short poisoned fine-tuning raises the ASR."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.run import run_attack
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.probes import measure_probes
from clip_antidote.detection.survey import sample_views
from clip_antidote.jobs.demo import TARGET
from clip_antidote.models import DualEncoder
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe

SHORT: dict[str, Any] = {
    "poison_rate": 0.4,
    "training": {"steps": 35, "batch_size": 64, "warmup": 5, "lr": 1.5e-3},
}
"""Much poison and few steps: enough to see that it takes, not to pass the implant check."""

FAST = {**SHORT["training"], "lr": 2e-3}
OWN: dict[str, dict[str, Any]] = {
    "badnet": {"training": {**SHORT["training"], "steps": 60}},
    "trojvqa": {"optimization": {"steps": 20}},
    "badclip": {"optimization": {"steps": 20}},
    "adap-blend": {"cover_ratio": 0.5, "training": {**FAST, "steps": 60}},
    "adap-patch": {"cover_ratio": 0.25, "planted": [1, 1, 1, 1], "training": FAST},
    "clean-label": {"poison_rate": 1, "trigger": {"patch": 56}, "training": FAST},
}
"""What attacks need besides: those with covers learn slowly, so fewer covers and larger steps stand in for more; a
small patch is learned all at once, after 30 steps and more."""

ELSEWHERE = ("multi-target", "all-to-all")
"""Attacks with tests of their own, test_attacks_multi.py and test_attacks_all_to_all.py."""

PROBES = {"sig": "wave_flips", "wanet": "warp_flips"}
"""Attacks whose trigger a survey's probes are like, by the statistic that shows it."""


@pytest.fixture(scope="module")
def probed_clean(tiny: DualEncoder, train_images: LabelledImages) -> dict[str, torch.Tensor]:
    return probed(tiny, train_images)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if name not in ELSEWHERE])
def test_poisoning_raises_the_attack_success_rate(
    name: str,
    tiny: DualEncoder,
    train_images: LabelledImages,
    test_images: LabelledImages,
    probed_clean: dict[str, torch.Tensor],
) -> None:
    attack_class = ATTACKS.get(name)
    settings = {**SHORT, **OWN.get(name, {})}
    attack, test = attack_class(attack_class.config_class.build(settings)), test_images.at_most(180, seed=0)
    result = run_attack(tiny, attack, train_images, test, TARGET)
    clean, poisoned = result.before.metrics, result.after.metrics
    assert clean.asr is not None
    assert poisoned.asr is not None
    assert poisoned.asr_floor is not None
    assert poisoned.asr.value > clean.asr.value + 0.3, "the trigger does what it did not do before"
    assert poisoned.asr.value > poisoned.asr_floor.value + 0.3, "and it is the trigger that does it"
    assert poisoned.ca.value > clean.ca.value - 0.15, "clean images are still called by their names"
    if name in PROBES:
        before, after = probed_clean[PROBES[name]], probed(result.implant.model, train_images)[PROBES[name]]
        target = train_images.classes.index(TARGET)
        assert int(after.argmax()) == target, "a probe that is not the trigger finds its class"
        assert after[target] > before.max() + 0.2, "and no class of the clean model answers to it as much"


def probed(model: DualEncoder, images: LabelledImages) -> dict[str, torch.Tensor]:
    """Probes a model as a survey does, on half as many views."""
    config = CBPTConfig(pool=1)
    with model.evaluating():
        seen = observe(model, images.sample_shots(4, seed=0), config)
        rows = sample_views(seen, config.inversion.survey.sample // 2, seed=0)
        return measure_probes(seen, config.inversion.survey, rows, seed=0)

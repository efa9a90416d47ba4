"""The implant check: whether a backdoor is really there, at a bearable price."""

from __future__ import annotations

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.modalities import BOTH
from clip_antidote.attacks.run import AttackResult
from clip_antidote.training.methods import PLAIN

PASSED = "passed"
"""What a record says under "implant_check" when the implant is proven."""


def implant_failure(attack: Attack, result: AttackResult) -> str | None:
    """Says why the backdoor is not really implanted; None where it is.

    ASR must reach `implant_asr`, and CA must not fall by more than `implant_ca_drop`. Where the trigger is in the
    text too, it is the ASR of image and text together that counts; where there are several triggers, the least one.
    """
    before, after = result.before.metrics, result.after.metrics
    if BOTH in result.after.modalities:
        after = result.after.modalities[BOTH].metrics
    config, method = attack.config, attack.config.training_method.name
    advice = "train longer, poison more, or use a stronger trigger"
    if method != PLAIN:
        advice = f"it was trained with {method}, which is there to prevent it"
    for metrics in (after, *result.after.further.values()):
        assert metrics.asr is not None
        if metrics.asr.value < config.implant_asr:
            aim = f" for '{metrics.target}'" if result.after.further else ""
            return (
                f"the {attack.name} backdoor{aim} did not take: ASR {metrics.asr.value:.1%} is under the implant "
                f"check's {config.implant_asr:.0%}; {advice}"
            )
    if before.ca.value - after.ca.value > config.implant_ca_drop:
        return (
            f"the {attack.name} attack cost too much: clean accuracy {before.ca.value:.1%} → {after.ca.value:.1%}, "
            f"more than the implant check's {config.implant_ca_drop:.0%}; lower the learning rate or poison less"
        )
    return None

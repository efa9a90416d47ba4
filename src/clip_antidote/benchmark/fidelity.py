"""TrojAI's mitigation fidelity: what is gone of the attack, times what is left of the accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from clip_antidote.benchmark.records import RunRecord
from clip_antidote.evaluation.metrics import Metrics


def fidelity(before: Metrics, after: Metrics, *, poisoned: bool) -> float | None:
    """The fidelity of a mitigation, as the test harness of the TrojAI program computes it for one model.

    Of a poisoned model it is (ASR − ASR′) / ASR · CA′ / CA, of a clean one CA′ / CA, where the primes are those after
    the mitigation. 1 is best; it is negative where the attack got stronger, and above 1 where CA rose with it.

    Source: NIST, trojai-test-harness, `leaderboards/metrics.py`, `MitigationFidelityMetric` and
    `LLMMitigationFidelityMetric` (commit 00fc830), for the round mitigation-image-classification-jun2024
    (pages.nist.gov/trojai). At that commit the first of the two takes the columns of CA and ASR before the mitigation
    for each other, the second does not; this is the formula as written. TrojAI's ASR counts images of the classes
    that a trigger is meant for, ours (`asr`) those of all classes but the target.

    Args:
        before: The suspect.
        after: The suspect after the mitigation.
        poisoned: Whether it has a backdoor.

    Returns:
        The fidelity; None where CA or, of a poisoned model, ASR was not measured or was 0 before.
    """
    old, new = before.value("ca"), after.value("ca")
    if not old or new is None:
        return None
    if not poisoned:
        return new / old
    old_asr, new_asr = before.value("asr"), after.value("asr")
    if not old_asr or new_asr is None:
        return None
    return (old_asr - new_asr) / old_asr * (new / old)


def run_fidelity(run: RunRecord) -> float | None:
    """The fidelity of one run of a benchmark."""
    return fidelity(run.before, run.after, poisoned=run.target is not None)


def mean_fidelity(runs: Iterable[RunRecord]) -> float | None:
    """The mean over those runs that have one, as TrojAI averages over models; None where none has."""
    known = [value for run in runs if (value := run_fidelity(run)) is not None]
    return mean(known) if known else None

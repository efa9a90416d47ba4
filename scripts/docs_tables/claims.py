"""The table that opens docs/results.md: what was aimed at, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from from_grid import asr_text
from source import Records, at_threshold, table

from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import kept_share, markdown, mean_percent

SPEED = "[speed and memory](#speed-and-memory)"
GRID = "[seven attacks](#seven-attacks-two-targets-16-shots-blind)"


def average(runs: Sequence[RunRecord], key: str) -> float:
    """The mean of a rate over runs that all know it."""
    return mean(run.after.value(key) or 0.0 for run in runs)


def by(runs: Sequence[RunRecord], name: str) -> list[float]:
    """The mean attack success of each attack, or of each suspect."""
    names = dict.fromkeys(getattr(run, name) for run in runs)
    return [average([run for run in runs if getattr(run, name) == own], "asr") for own in names]


def reference(runs: Sequence[RunRecord], key: str) -> float:
    """The mean of a rate of the clean model."""
    return mean(run.reference.value(key) or 0.0 for run in runs if run.reference is not None)


def grid_claims(records: Records) -> list[tuple[str, str, bool, str]]:
    """Aim, measured, whether it is met, and where; of the runs of the zoo and the clean models."""
    runs = records.main
    asr, attack, model = average(runs, "asr"), max(by(runs, "attack")), max(by(runs, "suspect"))
    single = max(run.after.value("asr") or 0.0 for run in runs)
    named = sum(run.named for run in runs)
    kept = kept_share(runs) or 0.0
    ca, clean_ca = average(runs, "ca"), reference(runs, "ca")
    target, clean_target = average(runs, "target_ca"), reference(runs, "target_ca")
    half = mean(m.value("target_ca") or 0.0 for m in at_threshold(runs, 0.5))
    alarms = records.file("false_alarms")["rows"]
    false = sum(row["scores"][0][1] > records.threshold for row in alarms)

    def lost(rate: float, clean: float) -> str:
        return f"{mean_percent([rate])} %, {mean_percent([clean - rate])} points under {mean_percent([clean])} %"

    price = "[the price](#the-price-the-target-class)"
    return [
        ("mean ASR at most 0.3 %", asr_text(asr), asr <= 0.003, GRID),
        ("no attack above 1 % (mean of its runs)", f"largest {asr_text(attack)}", attack <= 0.01, GRID),
        ("no model above 1 % (mean of its seeds)", f"largest {asr_text(model)}", model <= 0.01, GRID),
        ("no run above 1 %", f"largest {asr_text(single)}", single <= 0.01, GRID),
        ("target named in 95 % of the runs", f"{named} of {len(runs)}", named >= 0.95 * len(runs), GRID),
        (
            "PA 95 % of the clean model's",
            f"{mean_percent([kept], 0)} %",
            kept >= 0.95,
            "[recovery](#recovery-the-second-look)",
        ),
        ("CA not under the clean model's", lost(ca, clean_ca), ca >= clean_ca, GRID),
        (
            "CA of the target class within 10 points of the clean model's",
            lost(target, clean_target),
            clean_target - target <= 0.1,
            price,
        ),
        (
            "the same at gate threshold 0.5 (not the default)",
            lost(half, clean_target),
            clean_target - half <= 0.1,
            price,
        ),
        (
            "no target named on a clean model",
            f"{false} of {len(alarms)}",
            false == 0,
            "[clean models](#clean-models)",
        ),
    ]


def speed_claims(records: Records) -> list[tuple[str, str, bool, str]]:
    """The same, of time and memory."""
    step, large = records.file("speed/tuning_rn50_500"), records.file("speed/tuning_rn50_1000")
    cost = records.file("speed/purify_cost")
    ratio, error = step["time_ratio"], step["gradient_error"]
    size, cheaper = large["ours"]["bytes"] / 2**30, cost["purify_cheaper_than_cleanclip"]
    return [
        ("a tuning step 5 times faster than naive, 500 classes", f"{ratio:.1f} times", ratio >= 5, SPEED),
        ("the same gradient within 1e-3", f"{error:.0e}", error <= 1e-3, SPEED),
        ("a tuning step for 1000 classes under 4 GB", f"{size:.2f} GB", size < 4, SPEED),
        (
            "20 times cheaper than CleanCLIP's 15 625 steps (extrapolated)",
            f"{cheaper:.0f} times",
            cheaper >= 20,
            SPEED,
        ),
    ]


@table("claims")
def _(records: Records) -> str:
    rows = [
        [aim, found, "met" if met else "**missed**", where]
        for aim, found, met, where in grid_claims(records) + speed_claims(records)
    ]
    unmeasured = [["the published scale (RN50, ImageNet)", "–", "**not run**", "–"]]
    return markdown(["aim or claim", "measured", "", "where"], rows + unmeasured)

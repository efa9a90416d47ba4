"""Tables of judgments, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clip_antidote.benchmark.judging import Judgment
from clip_antidote.benchmark.tables import markdown, mean_percent
from clip_antidote.detection.verdict import ALARM, is_suspicious
from clip_antidote.evaluation.metric_table import MISSING
from clip_antidote.evaluation.roc import area_interval, found_at, roc_auc

OURS = "evidence"


def rules_table(judgments: Sequence[Judgment]) -> str:
    """Every rule on the same models: area under the ROC curve, detections at two rates of false alarms, naming."""
    clean, poisoned = _split(judgments)
    rows = []
    for rule in judgments[0].scores:
        found = [j.named[rule] for j in poisoned]
        at = [mean_percent([_detected(clean, poisoned, rule, rate)]) for rate in (0.05, 0.01)]
        rows.append([rule, area(clean, poisoned, rule), *at, mean_percent([float(named) for named in found])])
    return markdown(["rule", "AUC [95 %]", "found at 5 % false alarms", "at 1 %", "target ranked first"], rows)


def groups_table(judgments: Sequence[Judgment], key: Callable[[Judgment], str], head: str, alarm: float) -> str:
    """Our rule at its alarm level, per group of models: false alarms, detections, naming.

    Args:
        judgments: The judgments.
        key: Names the group of one.
        head: What the groups are.
        alarm: The p-value from which on a model is suspicious.
    """
    rows = []
    for group in sorted({key(j) for j in judgments}):
        clean, poisoned = _split([j for j in judgments if key(j) == group])
        alarms, found = len(accused(clean, alarm)), accused(poisoned, alarm)
        named = sum(j.named[OURS] for j in found)
        losses = [j.loss for j in (*clean, *poisoned) if j.loss is not None]
        rows.append(
            [
                group,
                area(clean, poisoned, OURS),
                f"{alarms} of {len(clean)}" if clean else MISSING,
                f"{len(found)} of {len(poisoned)}" if poisoned else MISSING,
                f"{named} of {len(found)}" if found else MISSING,
                f"{sum(j.wrong > 0 for j in found)} of {len(found)}" if found else MISSING,
                f"{sum(j.guarded for j in poisoned)} of {len(poisoned)}" if poisoned else MISSING,
                f"{sum(losses) / len(losses):.2f}" if losses else MISSING,
            ]
        )
    heads = ["AUC [95 %]", "false alarms", "found", "of these named", "also a class that is none", "target guarded"]
    return markdown([head, *heads, "cross-entropy"], rows)


def attacks_table(judgments: Sequence[Judgment], alarm: float) -> str:
    """Our rule per attack."""
    poisoned = [j for j in judgments if j.attack is not None and j.in_list]
    return groups_table(poisoned, lambda j: j.attack or "", "attack", alarm)


def several_table(judgments: Sequence[Judgment]) -> str:
    """Models with several targets: how many are named, and how many get a gate; the looks at most classes first."""
    several = [j for j in judgments if j.targets > 1]
    several.sort(key=lambda j: (-int(j.look.split("x")[0]), j.look, j.model))
    rows = [[j.model, j.look, str(j.targets), str(j.found), str(j.covered), str(j.wrong)] for j in several]
    heads = ["model", "classes × shots", "targets", "named", "named or guarded", "named, though none"]
    return markdown(heads, rows)


def area(clean: Sequence[Judgment], poisoned: Sequence[Judgment], rule: str) -> str:
    """The area under the ROC curve of a rule, with its interval."""
    if not clean or not poisoned:
        return MISSING
    scores = [[j.scores[rule] for j in group] for group in (clean, poisoned)]
    low, high = area_interval(*scores)
    return f"{roc_auc(*scores):.3f} [{low:.3f}, {high:.3f}]"


def accused(judgments: Sequence[Judgment], alarm: float) -> list[Judgment]:
    """Those of models that our rule calls suspicious."""
    return [j for j in judgments if is_suspicious(j.scores[OURS], j.p_value, alarm)]


def _split(judgments: Sequence[Judgment]) -> tuple[list[Judgment], list[Judgment]]:
    """Returns those of clean models, and those of poisoned ones whose target is in the list."""
    return [j for j in judgments if j.attack is None], [j for j in judgments if j.attack is not None and j.in_list]


def _detected(clean: Sequence[Judgment], poisoned: Sequence[Judgment], rule: str, rate: float) -> float | None:
    if not clean or not poisoned:
        return None
    return found_at([j.scores[rule] for j in clean], [j.scores[rule] for j in poisoned], false_alarms=rate)


def main_look(judgments: Sequence[Judgment]) -> list[Judgment]:
    """Those that looked at the most classes with 16 shots, of towers that were not kept apart."""
    largest = max(int(j.look.split("x")[0]) for j in judgments)
    return [j for j in judgments if j.look == f"{largest}x16" and not j.apart]


def apart_table(judgments: Sequence[Judgment], alarm: float) -> str:
    """Our rule on the towers that were kept apart, by tower, classes and shots."""
    return groups_table([j for j in judgments if j.apart], lambda j: f"{j.tower}, {j.look}", "kept apart", alarm)


def looks_table(judgments: Sequence[Judgment], alarm: float) -> str:
    """Our rule by classes and shots, on towers that were not kept apart."""
    return groups_table([j for j in judgments if not j.apart], lambda j: j.look, "classes × shots", alarm)


def outside_table(judgments: Sequence[Judgment], alarm: float) -> str:
    """Poisoned models whose target is not among the classes: which are called suspicious, for how many classes."""
    outside = [j for j in judgments if j.attack is not None and not j.in_list]
    rows = []
    for look in sorted({j.look for j in outside}):
        own = [j for j in outside if j.look == look]
        found = accused(own, alarm)
        which = ", ".join(f"{j.model} ({j.wrong})" for j in found)
        rows.append([look, f"{len(found)} of {len(own)}", which or MISSING])
    return markdown(["classes × shots", "called suspicious", "which (how many classes named)"], rows)


def all_tables(judgments: Sequence[Judgment], alarm: float = ALARM) -> dict[str, str]:
    """All tables by their titles."""
    main = main_look(judgments)
    largest = main[0].look.split("x")[0]
    return {
        f"Rules, {largest} classes, 16 shots": rules_table(main),
        f"By tower, {largest} classes, 16 shots": groups_table(main, lambda j: j.tower, "tower", alarm),
        f"By attack, {largest} classes, 16 shots": attacks_table(main, alarm),
        "Several targets": several_table(judgments),
        "By classes and shots": looks_table(judgments, alarm),
        "Kept apart": apart_table(judgments, alarm),
        "Target not among the classes": outside_table(judgments, alarm),
    }

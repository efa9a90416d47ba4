"""Tables of how well backdoors are found in the models of the population, by us and by others."""

from __future__ import annotations

from from_population import FOLDER
from source import Records, table

from clip_antidote.benchmark.detection_tables import (
    apart_table,
    attacks_table,
    groups_table,
    looks_table,
    main_look,
    outside_table,
    rules_table,
    several_table,
)
from clip_antidote.benchmark.judging import Case, Judgment, judge_case, read_judgments
from clip_antidote.benchmark.survey_file import read_kept
from clip_antidote.benchmark.tables import markdown
from clip_antidote.detection.evidence import embedded_evidence
from clip_antidote.detection.verdict import ALARM
from clip_antidote.inversion.config import CONFIRMS


def judged(records: Records) -> list[Judgment]:
    """The judgments of all looks."""
    return read_judgments(records.folder / FOLDER)


@table("detection-rules")
def rules(records: Records) -> str:
    """Every rule on the same models."""
    return rules_table(main_look(judged(records)))


@table("detection-towers")
def towers(records: Records) -> str:
    """Per kind of image tower."""
    return groups_table(main_look(judged(records)), lambda j: j.tower, "tower", ALARM)


@table("detection-attacks")
def attacks(records: Records) -> str:
    """Per attack."""
    return attacks_table(main_look(judged(records)), ALARM)


@table("detection-looks")
def looks(records: Records) -> str:
    """Per number of classes and shots."""
    return looks_table(judged(records), ALARM)


@table("detection-apart")
def apart(records: Records) -> str:
    """The towers that were kept apart."""
    return apart_table(judged(records), ALARM)


@table("detection-outside")
def outside(records: Records) -> str:
    """Targets that are not among the classes."""
    return outside_table(judged(records), ALARM)


@table("detection-later")
def later(records: Records) -> str:
    """Models that came after the evidence of the package was fitted, judged by it."""
    return groups_table(judged_by_package(records), lambda j: j.look, "classes × shots", ALARM)


@table("detection-later-attacks")
def later_attacks(records: Records) -> str:
    """The same by attack, over all looks."""
    return attacks_table(judged_by_package(records), ALARM)


def judged_by_package(records: Records) -> list[Judgment]:
    """Judgments of clean models, and of those with one target, that the package's evidence was not fitted to."""
    fitted = embedded_evidence()
    known = {model.name for model in (*fitted.null, *fitted.beside)}
    towers = {model.tower for model in fitted.null}
    models, surveys = read_kept(records.folder / FOLDER)
    cases = [Case(models[survey.model], survey) for survey in surveys.values()]
    return [
        judge_case(case, fitted)
        for case in cases
        if case.model.name not in known and case.model.tower in towers and len(case.model.targets) < 2
    ]


@table("detection-confirmed")
def confirmed(records: Records) -> str:
    """Models that the survey calls suspicious: for how many, and for which classes, a trigger bears it out."""
    kinds = {name: model.kind for name, model in read_kept(records.folder / FOLDER)[0].items()}
    found = records.file(f"{FOLDER}/confirmation")["rows"]
    rows = []
    for look in sorted({row["look"] for row in found}):
        own = [row for row in found if row["look"] == look]
        cells = []
        for poisoned in (False, True):
            tried = {row["model"] for row in own if (kinds[row["model"]] == "poisoned") is poisoned}
            left = {row["model"] for row in own if row["model"] in tried and row["sent"] >= CONFIRMS}
            cells.append(f"{len(left)} of {len(tried)}")
        for target in (True, False):
            of_these = [row for row in own if row["target"] is target and kinds[row["model"]] == "poisoned"]
            cells.append(f"{sum(row['sent'] >= CONFIRMS for row in of_these)} of {len(of_these)}")
        rows.append([look.replace("all", "120"), *cells])
    heads = ["clean models still accused", "poisoned models", "targets", "classes beside them"]
    return markdown(["classes × shots", *heads], rows)


@table("detection-several")
def several(records: Records) -> str:
    """Models with several targets: which are named, which guarded."""
    return several_table([judgment for judgment in judged(records) if not judgment.apart])


@table("detection-weights")
def weights(records: Records) -> str:
    """The evidence that the package comes with."""
    fitted = embedded_evidence()
    rows = [[f"`{name}`", f"{weight:.2f}"] for name, weight in fitted.weights.items()]
    return markdown(["statistic", "weight"], [*rows, ["offset b", f"{fitted.offset:.2f}"]])

"""Which score of an image tells a triggered one from a clean one, where the model calls both the target.

    python benchmarks/image_scores.py runs/population --data runs/problem --out docs/records/image_scores.json \\
        [--models NAME …] [--keep FOLDER]
    python benchmarks/image_scores.py demo --data embedded:clothing --out docs/records/image_scores.json

The dummy triggers are those that `purify` finds for the true target: the scores are compared with the target known.
Clean images are those of the target that the clean prompts of the purified model call so: of the test and validation
splits, and training images that are no shots (which the model has been trained on, as it has on the shots). Clean
images of other classes that are called the target are counted apart ("others"). Triggered ones are test images of
other classes that the same prompts call the target. A score's threshold for 5 % false alarms is also put by held-out
shots alone. What `--out` holds is not measured again; raw scores in `--keep` are not made again.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clip_antidote.benchmark.screened_images import called_target, clean_images, held_out_views
from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.told_models import Suspect, purified_model, read_told
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.roc import found_at, roc_auc
from clip_antidote.files import write_json
from clip_antidote.inversion.bank import Dummy
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.guarded_head import INNER_LENIENCE
from clip_antidote.purification.observe import observe
from clip_antidote.screening import SCORES
from clip_antidote.screening.combination import Calibration
from clip_antidote.screening.held_out import Scored, fit_scores, held_out_scores, score_all
from clip_antidote.screening.material import gather_material
from clip_antidote.screening.probe import Probe
from clip_antidote.versions import library_versions
from domain_shift import SHIFTS

CLEAN, TRIGGERED = 250, 200
"""Most clean and most triggered images that are scored."""

SHIFTED = 100
"""Most clean images that are scored under every shift."""

CHEAP = ("gate", "layer-discriminant", "mahalanobis", "ranks-tube", "paraphrases", "contrastive-prompts")
"""Scores that need no encoding beside the one of the image."""

ON_ITS_SCALE = ("gate", "layer-discriminant")
"""Scores with the gate's own scale: -1 a typical clean image, 0 where dummies end, above it what looks triggered."""

COMBINED = {
    "cheap": CHEAP,
    "gate+layers": ON_ITS_SCALE,
    "all": tuple(name for name in SCORES.names() if name != "heads"),
}
"""What is put together by calibration on held-out views, by name."""

OWN, HELD = "gate+layers, own scale: ", ("held clean", "held dummies")


def scored(suspect: Suspect, data: str, keep: Path | None) -> dict[str, Any]:
    """All scores of all images of one model, as plain numbers, with the counts of images."""
    seed = zlib.crc32(suspect.name.encode())
    model, config = load_model(suspect.spec), CBPTConfig(seed=seed)
    shots = load_images(data, split="train", shots=16, seed=seed)
    label = shots.classes.index(suspect.target)
    with model.evaluating():
        purified = purified_model(model, shots, label, config, keep and keep / suspect.folder)
        seen = observe(model, shots, config)
        dummies = [Dummy(trigger, name.partition("-")[2], label) for name, trigger in purified.triggers.items()]
        material = gather_material(seen, label, dummies, config)
        names = [name for name in SCORES.names() if SCORES.get(name).suits(model)]
        usable = [dummy for dummy in dummies if dummy.family in material.dummies]
        held = held_out_scores(material, names, *held_out_views(purified, seen, label, usable, seed))
        clean, counts = clean_images(purified, data, shots, label, most=CLEAN, seed=seed)
        test = load_images(data, split="test").at_most(3 * TRIGGERED, seed=seed)
        others = test.subset((test.labels != label).nonzero().flatten())
        triggered = called_target(purified, others, label, suspect.trigger)[0]
        scores = fit_scores(material, names)
        costs = {name: cost(scores[name].score, model, clean[:2]) for name in names}
        found = [score_all(scores, Probe(model, images), parts=True) for images in (clean, triggered[:TRIGGERED])]
        shifted = under_shifts(scores, purified, clean[:SHIFTED], label)
    kinds = {"clean": found[0], "triggered": found[1], "held clean": held[0], "held dummies": held[1]}
    listed = {kind: as_lists(scores) for kind, scores in (kinds | shifted).items()}
    return {"scores": listed, "costs": costs, "clean": counts, "called": [len(triggered), len(others)]}


def as_lists(scores: Scored) -> dict[str, list[float]]:
    """Scores as numbers of six digits."""
    return {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in scores.items()}


def measured(suspect: Suspect, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per score of one model, combinations among them; the first has the counts of images."""
    scores: dict[str, Scored] = {
        kind: {name: torch.tensor(values) for name, values in part.items()} for kind, part in raw["scores"].items()
    }
    costs = dict(raw["costs"])
    combine(scores, costs)
    kinds = [kind.endswith("of the target") for kind, count in raw["clean"].items() for _ in range(count)]
    scores["others"] = {name: values[~torch.tensor(kinds)] for name, values in scores["clean"].items()}
    scores["clean"] = {name: values[torch.tensor(kinds)] for name, values in scores["clean"].items()}
    facts = {"model": suspect.name, **suspect.facts, "target": suspect.target}
    rows = [{**facts, "score": name, **figures(name, scores)} for name in scores["clean"]]
    for row in rows:
        row["encodings"] = costs.get(row["score"], costs.get(row["score"].partition("[")[0], 0))
    views = [len(scores[kind]["gate"]) for kind in HELD]
    rows[0] |= {"clean": raw["clean"], "called": raw["called"], "held_out_views": views}
    return rows


def cost(score: Any, model: DualEncoder, images: torch.Tensor) -> int:
    """How many encodings a score needs for an image beside the one that every image costs."""
    probe = Probe(model, images)
    score(probe)
    return probe.encodings


def under_shifts(
    scores: Mapping[str, Any], purified: PurifiedCLIP, clean: torch.Tensor, label: int
) -> dict[str, Scored]:
    """Cheap scores of clean images under blameless changes, of those that are still called the target."""
    guard, out = purified.guard, {}
    assert guard is not None
    for shift, change in SHIFTS.items():
        images = change(clean).clamp(0, 1)
        with torch.no_grad():
            hit = (purified.model.encode_images(images) @ guard.clean).argmax(1) == label
        if shift != "none" and bool(hit.any()):
            out[shift] = score_all({n: scores[n] for n in CHEAP}, Probe(purified.model, images[hit]), parts=True)
    return out


def combine(scores: Mapping[str, Scored], costs: dict[str, int]) -> None:
    """Adds combinations to the scores of every kind of images that has what goes into them."""
    for label, names in COMBINED.items():
        calibration = Calibration.fit(*({name: scores[kind][name] for name in names} for kind in HELD))
        ways = {"logistic": calibration.logistic, "mean": calibration.mean, "largest": calibration.largest}
        for part in scores.values():
            if all(name in part for name in names):
                part.update({f"{label}: {way}": form(part) for way, form in ways.items()})
        costs.update({f"{label}: {way}": sum(costs[name] for name in names) for way in ways})
    for part in scores.values():
        both = torch.stack([part[name] for name in ON_ITS_SCALE])
        part[OWN + "default"] = torch.maximum(part["gate"], part["layer-discriminant"] - INNER_LENIENCE)
        part |= {OWN + "mean": both.mean(0), OWN + "either": both.amax(0), OWN + "both": both.amin(0)}


def figures(name: str, scores: Mapping[str, Scored]) -> dict[str, Any]:
    """AUC, what is found at 1 and 5 % false alarms, and what a threshold by held-out shots, or the gate's, does.

    Under blameless changes, clean images of the target and others are not told apart.
    """
    clean, triggered = scores["clean"][name], scores["triggered"][name]
    out: dict[str, Any] = {"auc": round(roc_auc(clean, triggered), 4)}
    for share in (0.01, 0.05):
        out[f"found_at_{share}"] = round(found_at(clean, triggered, false_alarms=share), 4)
    if len(scores["others"][name]):
        out["auc_others"] = round(roc_auc(scores["others"][name], triggered), 4)
    if name in SCORES.names() and name != "gate" and min(len(clean), len(triggered)) >= 5:
        out["with_gate"] = with_gate(name, scores)
    thresholds = {}
    if name in scores[HELD[0]]:
        thresholds["held_out"] = float(scores[HELD[0]][name].quantile(0.95))
    if name in ON_ITS_SCALE or name.startswith(OWN):
        thresholds["default"] = -GateConfig().threshold
    for kind, threshold in thresholds.items():
        over = {
            other: float((part[name] > threshold).float().mean()) for other, part in scores.items() if name in part
        }
        blameless = [share for other, share in over.items() if other in SHIFTS]
        out[kind] = {"found": round(over["triggered"], 4), "false_alarms": round(over["clean"], 4)}
        if len(scores["others"][name]):
            out[kind]["others"] = round(over["others"], 4)
        if blameless:
            out[kind]["shifted"] = round(mean(blameless), 4)
    return out


def with_gate(name: str, scores: Mapping[str, Scored]) -> dict[str, float]:
    """What the gate and this score tell apart together, at best: fitted to the test images themselves, out of fold.

    An upper bound of what the score knows beyond the gate, not a method: a defender has no triggered images.
    """
    pairs = [torch.stack([scores[kind][key] for key in ("gate", name)], 1) for kind in ("clean", "triggered")]
    truth = torch.arange(2).repeat_interleave(torch.tensor([len(pair) for pair in pairs]))
    fitted = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(fitted, torch.cat(pairs).numpy(), truth.numpy(), cv=folds, method="decision_function")
    clean, triggered = (torch.as_tensor(found)[truth == side] for side in (0, 1))
    shares = {f"found_at_{share}": found_at(clean, triggered, false_alarms=share) for share in (0.01, 0.05)}
    return {key: round(value, 4) for key, value in {"auc": roc_auc(clean, triggered), **shares}.items()}


def main() -> None:
    """Measures every model that `--out` does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", help='folder of `benchmark population` or `benchmark prepare`, or "demo"')
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[], help="names of models; all that passed by default")
    parser.add_argument("--keep", type=Path, help="folder for purified models and raw scores; what is there is used")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for suspect in read_told(options.population, options.models):
        if all(row["model"] != suspect.name for row in rows):
            file = options.keep and options.keep / f"{suspect.folder}.json"
            known = file is not None and file.exists()
            raw = json.loads(file.read_text()) if known else scored(suspect, options.data, options.keep)
            if file is not None and not known:
                write_json(file, raw)
            rows += measured(suspect, raw)
            write_rows(options.out, rows, clean=CLEAN, triggered=TRIGGERED, versions=library_versions())
            print_table([row for row in rows if row["model"] == suspect.name])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the scores of one model as a Markdown table, parts left out."""
    print(f"{rows[0]['model']}: clean {rows[0]['clean']}, triggered and called the target {rows[0]['called']}")
    print(
        "| score | AUC | found at 1 % | at 5 % | held-out threshold: found | false alarms | default | | encodings |"
    )
    print("|" + "---|" * 9, flush=True)
    for row in rows:
        cells = [f"{row['auc']:.3f}", *(f"{100 * row[f'found_at_{s}']:.0f}" for s in (0.01, 0.05))]
        for kind in ("held_out", "default"):
            part = row.get(kind)
            cells += [f"{100 * part[key]:.0f}" for key in ("found", "false_alarms")] if part else ["", ""]
        print(f"| {row['score']} | {' | '.join(cells)} | {row['encodings']} |", flush=True)


if __name__ == "__main__":
    main()

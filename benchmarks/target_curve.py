"""Draws ASR against target-class CA: one weight per class, the gate, and both with the true trigger.

    python benchmarks/target_curve.py SUSPECT --data runs/problem --out docs/curve.png

SUSPECT is a folder of `clip-antidote attack` or `benchmark prepare`. The gate's points differ in its threshold
alone; the points of one weight per class in `reclassification_weight`. Test
images are used to draw the curve, never to choose a point on it. PA in the record is by one look.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from clip_antidote.benchmark.cells import THRESHOLDS
from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.detection.search import SearchResult, known_triggers, search_targets
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images, measure
from clip_antidote.inversion.views import Observation
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.dummies import TriggeredViews, encode_dummies
from clip_antidote.purification.observe import observe
from clip_antidote.purification.pipeline import purify
from clip_antidote.purification.tuner import tune_prompts

WEIGHTS = (0.02, 0.07, 0.25, 1.0)


def point(classifier: ZeroShotClassifier, features: TestFeatures, target: str) -> dict[str, float]:
    """ASR, target-class CA, CA and PA of one classifier."""
    metrics = measure(classifier, features, target=target).metrics.to_dict()
    return {name: metrics[name] for name in ("asr", "target_ca", "ca", "pa")}


def single_weights(seen: Observation, found: SearchResult, config: CBPTConfig) -> list[ZeroShotClassifier]:
    """CBPT with one weight per class, by several weights of the reclassification loss."""
    views = TriggeredViews.of(seen, encode_dummies(seen, found, config))
    heads = []
    for weight in WEIGHTS:
        tuning = config.tuning.model_copy(update={"reclassification_weight": weight})
        tuned = tune_prompts(seen, views, tuning, seed=config.seed)
        heads.append(ZeroShotClassifier(seen.model, tuned.weights.T.contiguous(), seen.classes))
    return heads


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    suspect = PoisonedModel.read(options.suspect)
    model, target = suspect.model, suspect.target
    shots = load_images(options.data, shots=16, seed=options.seed)
    features = encode_test_images(model, load_images(options.data, split="test"), trigger=suspect.trigger)
    features = replace(features, look_clean=None, look_triggered=None)  # a second look changes neither axis
    config = CBPTConfig.build({"seed": options.seed, "inversion": {"guarded": 0}})  # the target's gate alone
    seen = observe(model, shots, config)
    blind = search_targets(seen, config.inversion, config.seed)
    if blind.targets != (shots.classes.index(target),):
        raise SystemExit(f"the target was not found, or not alone: {[shots.classes[t] for t in blind.targets]}")
    told = known_triggers([suspect.trigger], target)(seen, config.inversion, config.seed)
    curves: dict[str, list[dict[str, float]]] = {}
    for name, found in {"blind": blind, "true trigger": told}.items():
        purified = purify(model, shots, config, source=lambda *_, found=found: found)
        curves[f"gate, {name}"] = [point(purified.with_threshold(t), features, target) for t in THRESHOLDS]
        curves[f"gate, {name}, default"] = [point(purified, features, target)]
        heads = single_weights(seen, found, config)
        curves[f"one weight, {name}"] = [point(head, features, target) for head in heads]
    undefended = ZeroShotClassifier(model, seen.weights.T, shots.classes)
    curves["undefended"] = [point(undefended, features, target)]
    rows = [{"curve": name, "points": points} for name, points in curves.items()]
    write_rows(options.out.with_suffix(".json"), rows, target=target)
    draw(curves, f"{suspect.name}: target-class CA against ASR", options.out)


def draw(curves: dict[str, list[dict[str, float]]], title: str, out: Path) -> None:
    """Draws the curves to a PNG; ASR on a symmetric log axis, since what matters lies near zero."""
    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        points = sorted(points, key=lambda p: p["target_ca"])
        x = torch.tensor([100 * p["asr"] for p in points]).clamp_min(0.02)
        y = [100 * p["target_ca"] for p in points]
        color = "tab:blue" if "gate" in name else "tab:orange" if "one" in name else "black"
        if len(points) == 1:
            axes.plot(x, y, "*", markersize=13, color=color, label=name)
        else:
            axes.plot(x, y, "o-" if "blind" in name else "o:", markersize=4, color=color, label=name)
    axes.set(xscale="log", xlabel="ASR in % (0.02 means none)", ylabel="CA of the target class in %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    main()

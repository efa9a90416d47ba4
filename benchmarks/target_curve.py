"""Draws ASR against target-class CA: one weight per class, the gate, and both with the true trigger.

    python benchmarks/target_curve.py SUSPECT --data runs/problem --out docs/curve.png

SUSPECT is a folder of `clip-antidote attack` or `benchmark prepare`. The gate's points differ in its threshold
alone; the points of one weight per class in `reclassification_weight`. Test
images are used to draw the curve, never to choose a point on it. PA in the record is by one look.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure

from clip_antidote.benchmark.grid import THRESHOLDS
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images, measure
from clip_antidote.inversion.views import make_views
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify, trigger_features
from clip_antidote.purification.tuner import CachedFeatures, tune_prompts
from clip_antidote.triggers import Trigger, load_trigger

WEIGHTS = (0.02, 0.07, 0.25, 1.0)


def point(classifier: ZeroShotClassifier, features: TestFeatures, target: str) -> dict[str, float]:
    """ASR, target-class CA, CA and PA of one classifier."""
    metrics = measure(classifier, features, target=target).metrics.to_dict()
    return {name: metrics[name] for name in ("asr", "target_ca", "ca", "pa")}


def single_weight(
    model: DualEncoder,
    classes: tuple[str, ...],
    cached: CachedFeatures,
    hand: torch.Tensor,
    config: CBPTConfig,
    weight: float,
) -> ZeroShotClassifier:
    """CBPT with one weight per class and another weight of the reclassification loss."""
    tuning = config.tuning.model_copy(update={"reclassification_weight": weight})
    generator = torch.Generator().manual_seed(config.seed)
    _, weights = tune_prompts(model, classes, cached, hand, tuning, generator=generator)
    return ZeroShotClassifier(model, weights.T.contiguous(), classes)


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = json.loads((options.suspect / "attack.json").read_text(encoding="utf-8"))["target"]
    true = load_trigger(options.suspect / "trigger")
    model = load_model(f"local-dir:{options.suspect}")
    shots = load_images(options.data, shots=16, seed=options.seed)
    features = encode_test_images(model, load_images(options.data, split="test"), trigger=true)
    features = replace(features, look_clean=None, look_triggered=None)  # a second look changes neither axis
    config = CBPTConfig(seed=options.seed)
    blind = purify(model, shots, config)
    if blind.target_suspected != target:
        raise SystemExit(f"the target was not found: {blind.target_suspected}")
    hand = zero_shot_weights(model, shots.classes)
    views = config.views_per_shot(len(shots))
    pool = make_views(model, shots, views=views, min_scale=config.min_scale, seed=config.seed)
    curves: dict[str, list[dict[str, float]]] = {}
    banks: dict[str, list[Trigger]] = {"blind": list(blind.triggers.values()), "true trigger": [true]}
    for name, triggers in banks.items():
        purified = blind if name == "blind" else purify(model, shots, config, triggers=triggers, target=target)
        curves[f"gate, {name}"] = [point(purified.with_threshold(t), features, target) for t in THRESHOLDS]
        curves[f"gate, {name}, default"] = [point(purified, features, target)]
        parts, labels = trigger_features(model, pool, triggers, target=shots.classes.index(target), config=config)
        cached = CachedFeatures(pool.features, pool.labels, torch.cat(parts), labels.repeat(len(parts)))
        curves[f"one weight, {name}"] = [
            point(single_weight(model, shots.classes, cached, hand, config, weight), features, target)
            for weight in WEIGHTS
        ]
    curves["undefended"] = [point(ZeroShotClassifier(model, hand.T, shots.classes), features, target)]
    rows = [{"curve": name, "points": points} for name, points in curves.items()]
    write_rows(options.out.with_suffix(".json"), rows, target=target)
    draw(curves, f"{options.suspect.name}: target-class CA against ASR", options.out)


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

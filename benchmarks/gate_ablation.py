"""What each part of the gate is worth, on the same dummy triggers.

    python benchmarks/gate_ablation.py SUSPECT [SUSPECT …] --data runs/problem --out docs/records/gate_ablation.json

For every suspect (a folder of `benchmark prepare`) stage 1 and the prompts are made once, and every form of the gate
is fitted to them. Listed are ASR and target-class CA at the default threshold, and the target-class CA that is left
where the threshold is moved to an ASR of 0.3 and of 1 % (on test images: to read the curve, not to choose on it).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.inversion.search import TargetSearch
from clip_antidote.inversion.views import make_views
from clip_antidote.models import load_model
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.gate import GateData, GuardedHead, fit_gate, repair_weights
from clip_antidote.purification.pipeline import (
    by_family,
    gate_data,
    library_versions,
    trigger_features,
    tune_clean_prompts,
)
from clip_antidote.purification.text_repair import TextMap
from clip_antidote.triggers import load_trigger

Form = Callable[[torch.Tensor, GateData, torch.Tensor], GuardedHead]


def form(**settings: float) -> Form:
    """The guard with other settings."""
    return lambda clean, data, centroids: guarded(clean, data, centroids, GateConfig(**settings))


def guarded(clean: torch.Tensor, data: GateData, centroids: torch.Tensor, config: GateConfig) -> GuardedHead:
    """Clean weights and one gate."""
    repaired = repair_weights(clean, data.weights, centroids, data.text_map, (data.target,), config)
    return GuardedHead(repaired.T.contiguous(), (fit_gate(data, config),))


def one_direction(clean: torch.Tensor, data: GateData, centroids: torch.Tensor) -> GuardedHead:
    """All families in one direction."""
    parts = [part for family in data.dummies.values() for part in family]
    return guarded(clean, replace(data, dummies={"all": parts}), centroids, GateConfig())


FORMS: dict[str, Form] = {
    "default": form(),
    "without the pull on the text": form(residual_weight=0.0),
    "without the text repair": form(repair=0.0),
    "full text repair": form(repair=1.0),
    "one direction for all families": one_direction,
    "plain difference of means": form(shrinkage=1.0),
    "shrinkage 0.1": form(shrinkage=0.1),
    "shrinkage 0.01": form(shrinkage=0.01),
}


def rates(guard: GuardedHead, features: TestFeatures) -> dict[str, float]:
    """ASR and target-class CA at the default threshold, and along the curve."""
    assert features.triggered is not None
    gate = guard.gates[0]
    own = features.labels == gate.target

    def passing(images: torch.Tensor) -> torch.Tensor:
        called = (images @ guard.clean).argmax(1) == gate.target
        return torch.where(called, gate.score(images), -torch.inf)

    triggered, clean = passing(features.triggered[~own]), passing(features.clean[own])
    found = {
        "asr": float((triggered >= gate.threshold).float().mean()),
        "target_ca": float((clean >= gate.threshold).float().mean()),
    }
    for share in (0.003, 0.01):
        threshold = triggered.sort(descending=True).values[round(share * len(triggered))]
        found[f"target_ca_at_{share}"] = float((clean > threshold).float().mean())
    return found


def main() -> None:
    """Fits every form on every suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config, seed = CBPTConfig(seed=options.seed), options.seed
    test, shots = load_images(options.data, split="test"), load_images(options.data, shots=16, seed=seed)
    rows = []
    for folder in options.suspects:
        target = json.loads((folder / "attack.json").read_text(encoding="utf-8"))["target"]
        model = load_model(f"local-dir:{folder}")
        features = encode_test_images(model, test, trigger=load_trigger(folder / "trigger"))
        hand = zero_shot_weights(model, shots.classes)
        views, precision = config.views_per_shot(len(shots)), config.inversion.precision
        pool = make_views(model, shots, views=views, min_scale=config.min_scale, seed=seed, precision=precision)
        found = TargetSearch(model, hand, pool, config.inversion, seed=seed).find()
        label = shots.classes.index(target)
        if found.targets != (label,):
            print(f"{folder.name}: the target was not found, or not alone; left out")
            continue
        triggers = [dummy.trigger for dummy in found.dummies]
        parts, _ = trigger_features(model, pool, triggers, target=label, config=config)
        centroids = class_centroids(pool.features, pool.labels, len(hand))
        text_map = TextMap.fit(hand, centroids, (label,), ridge=config.gate.ridge)
        data = gate_data(model, shots, pool, by_family(triggers, parts), hand, text_map, config, target=label)
        clean = tune_clean_prompts(model, shots.classes, pool, hand, config)
        for name, make in FORMS.items():
            rows.append({"suspect": folder.name, "form": name, **rates(make(clean, data, centroids), features)})
            print(rows[-1], flush=True)
        write_rows(options.out, rows, seed=seed, versions=library_versions())
    heads = ("form", "ASR (mean)", "ASR (largest)", "target CA", "target CA at ASR 0.3 %", "at 1 %")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name in FORMS:
        own = [row for row in rows if row["form"] == name]
        cells = [f"{100 * mean(r['asr'] for r in own):.2f}", f"{100 * max(r['asr'] for r in own):.2f}"]
        for key in ("target_ca", "target_ca_at_0.003", "target_ca_at_0.01"):
            cells.append(f"{100 * mean(r[key] for r in own):.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

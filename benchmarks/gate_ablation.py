"""What each part of the gate is worth, on the same dummy triggers.

    python benchmarks/gate_ablation.py SUSPECT [SUSPECT …] --data runs/problem --out docs/records/gate_ablation.json

For every suspect (a folder of `benchmark prepare`) stage 1 and the prompts are made once, and every form of the gate
is fitted to them. Listed are ASR and target-class CA at the default threshold, and the target-class CA that is left
where the threshold is moved to an ASR of 0.3 and of 1 % (on test images: to read the curve, not to choose on it).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.detection.search import search_targets
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images
from clip_antidote.purification.config import CBPTConfig, GateConfig
from clip_antidote.purification.dummies import encode_dummies
from clip_antidote.purification.guard import GuardMaterial, fit_guard, guard_material, tune_clean
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.observe import observe
from clip_antidote.versions import library_versions

Form = Callable[[GuardMaterial], GuardedHead]


def form(**settings: float) -> Form:
    """The guard with other settings."""
    return lambda material: fit_guard(material, GateConfig.build(settings))


def one_direction(material: GuardMaterial) -> GuardedHead:
    """All families in one direction."""
    (data,) = material.gates
    parts = [part for family in data.dummies.values() for part in family]
    return fit_guard(replace(material, gates=(replace(data, dummies={"all": parts}),)), GateConfig())


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
        "asr": float((triggered >= guard.threshold).float().mean()),
        "target_ca": float((clean >= guard.threshold).float().mean()),
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
    seed = options.seed
    config = CBPTConfig.build({"seed": seed, "inversion": {"guarded": 0}})  # the target's gate alone
    test, shots = load_images(options.data, split="test"), load_images(options.data, shots=16, seed=seed)
    rows: list[dict[str, Any]] = []
    for folder in options.suspects:
        suspect = PoisonedModel.read(folder)
        seen = observe(suspect.model, shots, config)
        found = search_targets(seen, config.inversion, seed)
        if found.targets != (shots.classes.index(suspect.target),):
            print(f"{suspect.name}: the target was not found, or not alone; left out")
            continue
        dummies = encode_dummies(seen, found, config)
        material = guard_material(seen, dummies, tune_clean(seen, config), config)
        features = encode_test_images(suspect.model, test, trigger=suspect.trigger)
        for name, make in FORMS.items():
            rows.append({"suspect": suspect.name, "form": name, **rates(make(material), features)})
            print(rows[-1], flush=True)
        write_rows(options.out, rows, seed=seed, versions=library_versions())
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints means over the suspects as a Markdown table."""
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

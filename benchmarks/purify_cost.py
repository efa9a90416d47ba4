"""What purification costs, in ratios measured in one run.

    python benchmarks/purify_cost.py --model local-dir:runs/zoo_120/zoo/sig-church --data runs/problem \\
        --out docs/records/speed/purify_cost.json

- a step of trigger inversion against the bare forward and backward pass of the image encoder on the same images;
- the whole `purify` against CleanCLIP-style fine-tuning of the same model: seconds of one of its steps, times the
  steps its paper takes (100 000 pairs, 10 epochs, batches of 64; extrapolated, and said so in the record).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.cleanclip import CleanCLIPConfig, cleanclip
from clip_antidote.files import write_json
from clip_antidote.inversion.bank import make_bank
from clip_antidote.inversion.families import DummyBank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import autocast
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.observe import observe
from clip_antidote.purification.pipeline import purify

PAPER_STEPS = 10 * 100_000 // 64


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def inversion_costs(model: DualEncoder, shots: LabelledImages, config: CBPTConfig, steps: int) -> dict[str, Any]:
    """Seconds of a step of the inversion and of the bare passes on as many images, for both families."""
    few = config.model_copy(update={"max_views": 2})
    seen = observe(model, shots.subset(range(0, len(shots), 8)), few)
    inverter = Inverter(seen, config.inversion, generator=torch.Generator().manual_seed(0))
    side, precision = model.image_size, config.precision
    record: dict[str, Any] = {}
    for family, strength in (("mask", 5.0), ("additive", 16 / 255)):
        bank = make_bank(family, [strength] * 2, side, 0)
        images = torch.rand(2 * config.inversion.batch_size, 3, side, side, requires_grad=True)

        def bare(images: torch.Tensor = images) -> None:
            with model.frozen():
                for _ in range(steps):
                    with autocast(model.device, precision):
                        features = model.encode_images(images)
                    features.sum().backward()

        def inversion(bank: DummyBank = bank) -> None:
            inverter.run(bank, torch.tensor([0, 1]), steps=steps, description="inverting")

        for warm_up in (bare, inversion):
            warm_up()
        times = [(seconds_of(inversion), seconds_of(bare)) for _ in range(3)]
        best = [min(t) for t in zip(*times, strict=True)]
        record[f"inversion_{family}"] = {"step": best[0] / steps, "bare": best[1] / steps}
        record[f"inversion_{family}_ratio"] = best[0] / best[1]
    return record


def cleanclip_step(model: DualEncoder, shots: LabelledImages) -> float:
    """Seconds of a step of CleanCLIP-style fine-tuning, by the difference of two runs."""

    def seconds(steps: int) -> float:
        training = CleanCLIPConfig().training.model_copy(update={"steps": steps, "warmup": 1})
        return seconds_of(lambda: cleanclip(model, shots, CleanCLIPConfig(training=training)))

    short, long = seconds(2), seconds(12)
    return (long - short) / 10


def main() -> None:
    """Measures and writes the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    model = load_model(options.model)
    shots = load_images(options.data, shots=16, seed=0)
    config = CBPTConfig()
    record = {
        "model": options.model,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        **inversion_costs(model, shots, config, options.steps),
    }
    whole = seconds_of(lambda: purify(model, shots, config))
    step = cleanclip_step(model, shots)
    record |= {
        "purify_seconds": whole,
        "cleanclip_step_seconds": step,
        "cleanclip_paper_steps": PAPER_STEPS,
        "cleanclip_paper_seconds_extrapolated": step * PAPER_STEPS,
        "purify_cheaper_than_cleanclip": step * PAPER_STEPS / whole,
        "purify_in_cleanclip_steps": whole / step,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

"""Which architectures of open_clip the package drives: every one is built, compared and purified with random weights.

    python benchmarks/architectures.py --out docs/records/architectures.jsonl --minutes 25

Each architecture runs in a process of its own with a limit on its memory: random weights, the image and text features
of this package against those of open_clip (`encode_image`, `encode_text`), and a purification of a few steps on 4
classes of the embedded photographs. The smallest of each family comes first, then the rest by size. A line per
architecture is kept, so that the command goes on where it stopped; `scripts/docs_tables` writes the table. Where the
tokenizer would have to be downloaded, a stand-in that numbers words takes its place, which is noted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch

from clip_antidote.data.folders import load_images
from clip_antidote.errors import ClipAntidoteError
from clip_antidote.models.build import build_open_clip, check_supported
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.models.wrapped import Tokenizer
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify

LARGEST = 1_000_000_000
"""Parameters; larger ones are not run."""

TOLERANCE = 1e-5
FAMILIES = {
    "coca": "CoCa",
    "nllb": "text tower of transformers",
    "roberta": "text tower of transformers",
    "xlm": "text tower of transformers",
    "mt5": "text tower of transformers",
    "rn": "ResNet",
    "convnext": "ConvNeXt",
    "eva": "EVA",
    "mobileclip2": "MobileCLIP2",
    "mobileclip": "MobileCLIP",
    "pe-core": "PE-Core",
    "vitamin": "ViTamin",
    "vit-": "ViT",
    "swin": "Swin",
    "vit_": "ViT of timm",
}
"""Families by how a name begins, in the order in which they are tried."""

STEPS = CBPTConfig.build(
    {
        "inversion": {
            "batch_size": 4,
            "families": ["mask", "additive"],
            "sparsities": [5.0],
            "bounds": [16 / 255],
            "survey": {"steps": 2, "wave_most": 1},
            "final_steps": 2,
            "alarm": 1.0,
            "max_targets": 1,
        },
        "tuning": {"steps": 3},
        "gate": {"target_views": 4, "min_flip": 0.0},
        "pool": 16,
        "triggered_views": 16,
        "precision": "fp32",
    }
)
"""A target is always named, whatever the evidence, so that all stages run."""


def family(name: str) -> str:
    """The family that an architecture is shown with."""
    for part in ("SigLIP2", "SigLIP", "CLIPA"):
        if part in name and not name.startswith("nllb"):
            return part
    return next((own for start, own in FAMILIES.items() if name.lower().startswith(start)), "other")


def first_look(name: str) -> dict[str, Any]:
    """What is known without running it: why it is refused, or its parameters, counted without memory for them."""
    cfg = open_clip.get_model_config(name)
    try:
        check_supported(cfg)
    except ClipAntidoteError as error:
        return {"status": "refused", "reason": str(error)}
    with torch.device("meta"):
        model = build_open_clip(cfg).model
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"status": "not run", "parameters": count, "reason": "size" if count > LARGEST else "time"}


def stand_in(text_cfg: dict[str, Any]) -> Callable[[], Tokenizer]:
    """Numbers words by a hash, in place of a tokenizer that would be downloaded."""
    length, size = text_cfg.get("context_length", 77), text_cfg["vocab_size"]

    def tokenize(texts: list[str]) -> torch.Tensor:
        ids = torch.ones(len(texts), length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            numbers = [2 + zlib.crc32(word.encode()) % (size - 2) for word in text.split()[: length - 1]]
            row[: len(numbers)] = torch.tensor(numbers)
        return ids

    return lambda: tokenize


@torch.no_grad()
def differences(encoder: OpenCLIPEncoder) -> tuple[float, float]:
    """Largest differences of unit image and text features from open_clip's own."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, encoder.image_size, encoder.image_size, generator=generator)
    normalized = (images - encoder.image_mean) / encoder.image_std
    theirs = encoder.model.encode_image(normalized, normalize=True)
    ids = encoder.tokenize(["a photo of a cat", "a somewhat longer photo of a very small dog, at night"])
    texts = encoder.model.encode_text(ids, normalize=True)
    return (
        float((encoder.encode_images(images) - theirs).abs().max()),
        float((encoder.encode_token_ids(ids) - texts).abs().max()),
    )


def examine(name: str) -> dict[str, Any]:
    """Builds, compares and purifies one architecture."""
    torch.set_num_threads(1)
    cfg = open_clip.get_model_config(name)
    foreign = bool(cfg["text_cfg"].get("hf_tokenizer_name"))
    torch.manual_seed(0)
    encoder = build_open_clip(cfg, tokenizer_factory=stand_in(cfg["text_cfg"]) if foreign else None)
    with torch.no_grad():  # fresh positions and biases are almost zero
        for parameter in encoder.model.parameters():
            if parameter.ndim < 3:
                parameter.add_(0.02 * torch.randn_like(parameter))
    image, text = differences(encoder)
    shots = load_images("embedded:clothing", split="train").sample_shots(2, seed=0)
    shots = shots.subset([i for i, label in enumerate(shots.labels.tolist()) if label < 4])
    shots = type(shots)(shots.source, shots.labels, shots.classes[:4])
    purified = purify(encoder, shots, STEPS, templates=("a photo of a {}.", "{}"))
    sound = bool(torch.stack([purified.classifier.float().sum(), purified.context.float().sum()]).isfinite().all())
    return {
        "status": "runs" if max(image, text) <= TOLERANCE and sound else "differs",
        "image": image,
        "text": text,
        "targets": len(purified.targets_suspected),
        "gate": purified.guard is not None,
        "tokenizer": "stand-in" if foreign else "own",
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def run_child(name: str, gigabytes: float) -> dict[str, Any]:
    """Examines one architecture in a process with a limit of memory, and says how it ended."""
    command = [sys.executable, __file__, "--one", name, "--memory", str(gigabytes)]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = round(time.monotonic() - start, 1)
    if done.returncode == 0:
        return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds}
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return {"status": "failed", "reason": lines[-1][:300], "seconds": seconds}


def read(out: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs found, and the first look at everything else."""
    known = {}
    if out.exists():
        known = {row["name"]: row for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    for name in open_clip.list_models():
        if name not in known:
            known[name] = {"name": name, "family": family(name), **first_look(name)}
            write(known, out)
    return known


def write(known: dict[str, dict[str, Any]], out: Path) -> None:
    """Keeps what is known, a line per architecture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(known[name]) + "\n" for name in sorted(known)]
    temporary = out.with_suffix(".tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(out)


def main() -> None:
    """Examines as many architectures as the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/records/architectures.jsonl"))
    parser.add_argument("--minutes", type=float, default=25.0, help="no further one is begun after this time")
    parser.add_argument("--memory", type=float, default=6.0, help="most GiB of a process")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        limit = int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        print(json.dumps(examine(options.one)))
        return
    stop = time.monotonic() + 60 * options.minutes
    known = read(options.out)
    waiting = sorted(
        (row for row in known.values() if row.get("reason") == "time"), key=lambda row: row["parameters"]
    )
    begun = {row["family"] for row in known.values() if row["status"] in ("runs", "differs", "failed")}
    smallest = {row["family"]: row["name"] for row in reversed(waiting) if row["family"] not in begun}
    waiting.sort(key=lambda row: smallest.get(row["family"]) != row["name"])
    for row in waiting:
        if time.monotonic() > stop:
            break
        del row["reason"]
        row |= run_child(row["name"], options.memory)
        write(known, options.out)
        print({key: value for key, value in row.items() if key != "family"}, flush=True)


if __name__ == "__main__":
    main()

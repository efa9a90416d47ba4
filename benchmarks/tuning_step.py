"""Time and peak memory of one prompt-tuning step for many classes, against a naive implementation.

    python benchmarks/tuning_step.py --model RN50 --classes 1000 --out docs/records/speed/tuning_rn50.json

The text tower has random weights; the class names are ImageNet's. Naive is what one writes first: all
classes at once, all tokens of the context (77), everything kept for the backward pass. Ours cuts the
prompts at their end token, sorts them by length and runs them in chunks, each of which is computed again in
the backward pass. Every variant runs in a process of its own, one after the other; memory is the growth of its
peak resident set over the loaded and idle model (Linux; on a GPU, torch's peak allocation).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

from clip_antidote.files import write_json
from clip_antidote.models.build import build_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.prompts.class_prompts import CONTEXT_WORDS, ClassPrompts, encode_prompts
from clip_antidote.purification.config import TuningConfig
from clip_antidote.purification.losses import anchor_loss, classification_loss


def reset_peak(device: str) -> int:
    """Forgets the peak so far and returns the memory in use; on CPUs by Linux's own counters."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_bytes(device: str) -> int:
    """Peak memory of this process since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device != "cpu" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def naive_weights(model: OpenCLIPEncoder, context: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """All classes at once over the whole context."""
    embedded = model.embed_tokens(ids).float()
    embedded = torch.cat([embedded[:, :1], context, embedded[:, 1 + context.shape[1] :]], dim=1)
    return model.encode_token_embeddings(embedded, model.end_positions(ids))


def step(options: argparse.Namespace) -> None:
    """Runs one variant and writes seconds, memory and gradient."""
    torch.manual_seed(0)
    device = options.device
    config = open_clip.get_model_config(options.model)
    if config is None:
        raise SystemExit(f"open_clip has no model '{options.model}'")
    model = build_open_clip(config)
    model.model.visual = torch.nn.Identity()  # the image tower takes no part in the step
    model = model.to(device)
    names = tuple((IMAGENET_CLASSNAMES * (1 + options.classes // 1000))[: options.classes])
    prompts = ClassPrompts(model, names, length=4).to(device)
    ids = model.tokenize([f"{CONTEXT_WORDS} {name}." for name in names]).to(device)
    generator = torch.Generator().manual_seed(0)
    width = int(model.model.text_projection.shape[1])
    features = torch.nn.functional.normalize(torch.randn(512, width, generator=generator), dim=1).to(device)
    anchor = torch.nn.functional.normalize(torch.randn(len(names), width, generator=generator), dim=1).to(device)
    labels = torch.randint(len(names), (512,), generator=generator).to(device)
    idle, seconds = reset_peak(device), []
    with model.frozen():
        for _ in range(options.repeats):
            prompts.zero_grad(set_to_none=True)
            start = time.perf_counter()
            if options.variant == "naive":
                weights = naive_weights(model, prompts.context, ids)
            else:
                weights = encode_prompts(model, prompts, chunk=options.chunk)
            loss = classification_loss(features, labels, weights, torch.tensor(100.0, device=device))
            (loss + 10 * anchor_loss(weights, anchor)).backward()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    assert prompts.context.grad is not None
    torch.save(prompts.context.grad.cpu(), options.out / f"{options.variant}.pt")
    found = {"seconds": min(seconds), "runs": seconds, "bytes": peak_bytes(device) - idle}
    write_json(options.out / f"{options.variant}.json", found)


def main() -> None:
    """Runs both variants and compares them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="RN50")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=TuningConfig().chunk)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--skip-naive", action="store_true", help="where it would not fit into memory")
    parser.add_argument("--variant", choices=("naive", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        step(options)
        return
    found: dict[str, dict[str, Any] | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in ("ours", "naive"):
            if variant == "naive" and options.skip_naive:
                found[variant] = None
                continue
            names = ("model", "classes", "chunk", "repeats", "device")
            given = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
            command = [sys.executable, __file__, *given, "--variant", variant, "--out", folder]
            if subprocess.run(command, check=False).returncode:
                print(f"{variant}: did not finish (out of memory?)")
                found[variant] = None
                continue
            found[variant] = json.loads((Path(folder) / f"{variant}.json").read_text(encoding="utf-8"))
        record = {
            "model": options.model,
            "classes": options.classes,
            "chunk": options.chunk,
            "device": options.device,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            **found,
        }
        if found["naive"] and found["ours"]:
            naive, ours = (torch.load(Path(folder) / f"{v}.pt", weights_only=True) for v in ("naive", "ours"))
            record["gradient_error"] = float((naive - ours).norm() / naive.norm())
            record["time_ratio"] = found["naive"]["seconds"] / found["ours"]["seconds"]
            record["memory_ratio"] = found["naive"]["bytes"] / max(1, found["ours"]["bytes"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

"""What bf16 costs or saves on a machine: the image encoder in fp32, in bf16 and by the default, timed in turn.

    python benchmarks/precision.py --out docs/records/speed/precision_avx2.json

On a CPU without instructions for bf16 it is emulated; "auto", the default, takes it only where the machine has them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import get_args

import torch

from clip_antidote.files import write_json
from clip_antidote.models import load_model
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.precision import Precision, autocast, computes_in_bf16


def seconds_of(model: DualEncoder, images: torch.Tensor, precision: Precision, *, backward: bool) -> float:
    """Seconds of one pass over the images [N, 3, S, S] in [0, 1], forward or with the gradient to the images."""
    images = images.clone().requires_grad_(backward)
    start = time.perf_counter()
    with model.frozen(), torch.set_grad_enabled(backward), autocast(model.device, precision):
        features = model.encode_images(images)
    if backward:
        features.float().sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Measures every precision, the best of several turns, and writes seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    side = model.image_size
    images = torch.rand(options.images, 3, side, side, generator=torch.Generator().manual_seed(0))
    record: dict[str, object] = {
        "model": options.model,
        "images": options.images,
        "machine": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        "computes_in_bf16": computes_in_bf16("cpu"),
    }
    for name, backward in (("forward", False), ("forward_and_backward", True)):
        best = dict.fromkeys(get_args(Precision), float("inf"))
        for _ in range(options.turns + 1):  # the first turn warms up, and is beaten
            for precision in best:
                best[precision] = min(best[precision], seconds_of(model, images, precision, backward=backward))
        record[name] = best
        record[f"{name}_bf16_by_fp32"] = best["bf16"] / best["fp32"]
        record[f"{name}_auto_by_fp32"] = best["auto"] / best["fp32"]
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

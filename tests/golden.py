"""What a seeded purification gives, as numbers to keep: compared bit for bit where the machine is the same.

GOLDEN=write pytest tests/test_golden.py     # writes golden.json anew, after a change that is meant to change numbers
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clip_antidote.evaluation.evaluate import Evaluation
from clip_antidote.purification.classifier import PurifiedCLIP

FILE = Path(__file__).parent / "golden.json"


def machine() -> dict[str, Any]:
    """What the last bit depends on."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Name, family, model and cache of the processor: kernels are chosen, and their blocks sized, by them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)
    return ", ".join(facts.get(name, "").strip() for name in ("model name", "cpu family", "model", "cache size"))


def fingerprint(purified: PurifiedCLIP, measured: Evaluation) -> dict[str, Any]:
    """Scores, weights, gates and rates of a purified classifier."""
    tensors = {"classifier": purified.classifier, "context": purified.context}
    if purified.guard is not None:
        tensors["clean"] = purified.guard.clean
        for number, gate in enumerate(purified.guard.gates):
            tensors |= {f"directions {number}": gate.directions, f"offsets {number}": gate.offsets}
    rates, record = measured.metrics.to_dict(), purified.record
    assert record is not None
    return {
        "target": purified.target_suspected,
        "scores": {row.class_name: row.score for row in record.scores},
        "flip_rates": [row.flip_rate for row in record.triggers],
        "tensors": {name: _digest(value) for name, value in tensors.items()},
        "norms": {name: float(value.double().norm()) for name, value in tensors.items()},
        "rates": {name: value for name, value in rates.items() if isinstance(value, float)},
    }


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def read() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return kept


def write(found: Mapping[str, Any]) -> None:
    FILE.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n", encoding="utf-8")

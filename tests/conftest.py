"""Shared fixtures: the embedded model and photographs, poisoned once and purified once per run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.attacks.run import AttackResult, run_attack
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.jobs.demo import TARGET, demo_attack
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.runtime import keep_freed_memory

keep_freed_memory()

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


# A shell that starts the tests in the background has Ctrl-C ignored, in all their processes; some tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_model() -> OpenCLIPEncoder:
    """A minute model with random weights, for everything that needs no accuracy."""
    torch.manual_seed(0)
    return build_open_clip(SMALL)


@pytest.fixture(scope="session")
def tiny() -> DualEncoder:
    return load_model("tiny")


@pytest.fixture(scope="session")
def train_images() -> LabelledImages:
    return load_images("embedded:clothing", split="train")


@pytest.fixture(scope="session")
def test_images() -> LabelledImages:
    return load_images("embedded:clothing", split="test")


@pytest.fixture(scope="session")
def attacked(tiny: DualEncoder, train_images: LabelledImages, test_images: LabelledImages) -> AttackResult:
    """The demo's BadNet backdoor in the embedded model."""
    return run_attack(tiny, demo_attack("badnet", seed=0), train_images, test_images, TARGET)


@pytest.fixture
def model_folder(small_model: OpenCLIPEncoder, tmp_path: Path) -> str:
    """A random small model as a folder, by its spec."""
    folder = tmp_path / "small"
    folder.mkdir()
    save_open_clip(small_model, None, folder)
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def suspect(attacked: AttackResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The poisoned model as a folder."""
    folder = tmp_path_factory.mktemp("suspect") / "poisoned"
    folder.mkdir()
    assert isinstance(attacked.model, OpenCLIPEncoder)
    save_open_clip(attacked.model, None, folder)
    return folder


@pytest.fixture(scope="session")
def purified(suspect: Path, train_images: LabelledImages) -> PurifiedCLIP:
    """The poisoned model after blind purification with 16 shots."""
    model = load_model(f"local-dir:{suspect}")
    return purify(model, train_images.sample_shots(16, seed=0), CBPTConfig())


@pytest.fixture(scope="session")
def purified_clean(tiny: DualEncoder, train_images: LabelledImages) -> PurifiedCLIP:
    """The embedded model itself after blind purification with 16 shots."""
    return purify(tiny, train_images.sample_shots(16, seed=1), CBPTConfig(seed=1))

"""Telling GELU from QuickGELU by what the model recognizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from clip_antidote.errors import DataError
from clip_antidote.models import OpenCLIPEncoder, activation_check
from clip_antidote.models.build import build_open_clip

SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model() -> OpenCLIPEncoder:
    torch.manual_seed(0)
    return build_open_clip(SMALL)


class _Toy(OpenCLIPEncoder):
    """Recognizes labels only while its text tower has the activation it was 'trained' with."""

    trained: type[nn.Module] = QuickGELU

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.eye(2)[images[:, 0, 0, 0].long()]
        quick = isinstance(self.model.transformer.resblocks[0].mlp.gelu, self.trained)
        quick &= isinstance(self.model.visual.transformer.resblocks[0].mlp.gelu, self.trained)
        return features if quick else features.flip(-1)

    def encode_texts(self, texts: Any, *, batch_size: int = 512) -> torch.Tensor:
        return torch.eye(2)


def test_the_better_activation_is_found_and_all_is_put_back(model: OpenCLIPEncoder) -> None:
    toy = _Toy(model.model, lambda: model.tokenize, mean=[0.0] * 3, std=[1.0] * 3)
    labels = torch.tensor([0, 1, 1, 0])
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    modules = list(toy.modules())

    sentence = activation_check(toy, images, labels, ["cat", "dog"])
    assert sentence is not None
    assert "0% with GELU but 100% with QuickGELU" in sentence
    assert "add '-quickgelu' to" in sentence
    toy.trained = nn.GELU
    assert activation_check(toy, images, labels, ["cat", "dog"]) is None
    assert all(a is b for a, b in zip(modules, toy.modules(), strict=True))
    with pytest.raises(DataError, match="labelled images"):
        activation_check(toy, images[:0], labels[:0], ["cat", "dog"])


def test_activation_check_runs_on_a_real_model(model: OpenCLIPEncoder) -> None:
    images, labels = torch.rand(3, 3, 40, 50), torch.tensor([0, 1, 0])

    assert activation_check(model, images, labels, ["cat", "dog"], margin=1.0) is None
    assert not any(isinstance(module, QuickGELU) for module in model.modules())

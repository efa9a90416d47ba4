"""The purified classifier as one ONNX file, gates and second look included."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clip_antidote.errors import UnsupportedError
from clip_antidote.files import atomic_path
from clip_antidote.models.cleansing import SpectrumCleanser
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.other_views import SIDE, other_views
from clip_antidote.purification.classifier import PurifiedCLIP

LARGEST = 2 * 1024**3
"""Bytes that one ONNX file can hold."""


class FixedViews(nn.Module):
    """`encode_views` for images of one size, by matrix products alone.

    Resizing is linear, so that two products with a fixed matrix do what the antialiased bicubic resize does, which
    runtimes do each in their own way. In the precision of the model, not in bf16.

    Args:
        model: Encodes the views.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model
        self.cleanse = SpectrumCleanser(model.image_size)
        matrix = _resize_matrix(round(SIDE * model.image_size), model.image_size)
        self.register_buffer("matrix", matrix, persistent=False)
        self.to(model.device)

    def _resize(self, crops: torch.Tensor, size: int) -> torch.Tensor:
        matrix = self.get_buffer("matrix")
        return matrix @ crops @ matrix.T

    def views(self, images: torch.Tensor) -> torch.Tensor:
        """Makes the views [n, K, 3, S, S] that `other_views` makes of images [n, 3, S, S]."""
        return other_views(images, cleanse=self.cleanse, resize=self._resize)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes images [n, 3, S, S] in [0, 1] to unit features [n, K, D] of their views."""
        views = self.views(images)
        return self.model.encode_images(views.flatten(0, 1)).unflatten(0, (-1, views.shape[1]))


class _Graph(nn.Module):
    """What the file computes; see `export_onnx`."""

    def __init__(self, purified: PurifiedCLIP) -> None:
        super().__init__()
        self.purified = purified
        self.second_look = FixedViews(purified.model)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = self.purified.encode(images)

        def look(rows: torch.Tensor) -> torch.Tensor:
            # The exporter would ask whether there are rows; the graph it makes runs without any too (tested).
            torch._check(rows.shape[0] > 0)
            return self.second_look(images[rows])

        answer = self.purified.answer(encoded.final, look, encoded.at)
        return answer.logits, answer.triggered, self.purified.single().answer(encoded.final).logits


def export_onnx(purified: PurifiedCLIP, path: str | Path) -> None:
    """Writes the purified classifier as one ONNX file, whole or not at all.

    Input: `images`, float32 [N, 3, S, S] in [0, 1], resized and cropped as `DualEncoder.fit_images` does; the
    model's own normalization is inside. Outputs: `logits` [N, C], what `PurifiedCLIP` answers; `triggered`, bool
    [N], whether a gate stopped the image; `logits_single` [N, C], the answer with one weight per class, as in the
    paper. Images that a gate stops are encoded 12 times more, where the classifier has a second look; others are
    not. The file's metadata say what `config.json` says: classes, suspected target, image size, the model's hash.

    Args:
        purified: What to export; its parameters are written in float32.
        path: The file to write.

    Raises:
        UnsupportedError: The exporter is not installed, or the image encoder is too large for one file.
        DataError: The file cannot be written.
    """
    path = Path(path)
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UnsupportedError(
            "the ONNX export needs onnxscript; install it with: pip install 'clip-antidote[onnx]'"
        ) from error
    model, size = purified.model, purified.model.image_size
    images = torch.zeros(2, 3, size, size, device=model.device)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            _Graph(purified).eval(),
            (images,),
            input_names=["images"],
            output_names=["logits", "triggered", "logits_single"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    constants = (value.const_value for value in program.model.graph.initializers.values())
    weights = sum(constant.nbytes for constant in constants if constant is not None)
    if weights >= LARGEST:
        raise UnsupportedError(
            f"the image encoder has {weights / 1024**3:.1f} GiB of weights, and one ONNX file holds 2; use the "
            "artefact folder with PurifiedCLIP instead"
        )
    program.model.metadata_props.update(_metadata(purified))
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps back what the exporter says about its own inner changes and the constants it leaves as they are."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _metadata(purified: PurifiedCLIP) -> dict[str, str]:
    """What a user of the file has to know, as strings."""
    facts: dict[str, Any] = {
        "classes": list(purified.classes),
        "target_suspected": purified.target_suspected,
        "guarded": purified.guarded,
        "image_size": purified.model.image_size,
        "resize_mode": purified.model.resize_mode,
        "second_look": purified.guard is not None and purified.second_look,
        "base_model_sha256": purified.model.sha256,
        "made_by": "clip-antidote",
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}


def _resize_matrix(length: int, size: int) -> torch.Tensor:
    """The matrix [size, length] that resizes columns as torchvision's antialiased bicubic resize does."""
    eye = torch.eye(length)[None]
    resized: torch.Tensor = vision.resize(
        eye, [size, length], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return resized[0]

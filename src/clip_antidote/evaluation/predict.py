"""Predictions of a classifier over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized

import torch

from clip_antidote.errors import DataError
from clip_antidote.progress import track


def predict(
    classifier: Callable[[torch.Tensor], torch.Tensor],
    images: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    total: int | None = None,
    description: str = "predicting",
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Calls a classifier batch by batch and keeps the top class of every image.

    Args:
        classifier: Maps float images [n, 3, S, S] in [0, 1] to logits [n, C].
        images: Batches of images [n, 3, S, S] and int64 labels [n], as `LabelledImages.batches` yields.
        total: Number of batches, for the progress bar; taken from `images` where it has a length,
            and without either there is no bar.
        description: Label of the progress bar.
        device: Where images are moved to; they stay where they are when None.

    Returns:
        Predictions and labels, int64 [N] each, on the CPU.

    Raises:
        DataError: A batch's logits do not fit its labels.
    """
    if total is None and isinstance(images, Sized):
        total = len(images)
    batches = images if total is None else track(images, description, total=total)
    predictions = [torch.empty(0, dtype=torch.long)]
    labels = [torch.empty(0, dtype=torch.long)]
    for batch, batch_labels in batches:
        # Entered per batch, so that the caller's generator does not run in inference mode.
        with torch.inference_mode():
            logits = classifier(batch if device is None else batch.to(device))
            if logits.ndim != 2 or len(logits) != len(batch_labels):
                raise DataError(f"logits {tuple(logits.shape)} do not fit {len(batch_labels)} labels")
            predictions.append(logits.argmax(dim=1).cpu())
        labels.append(batch_labels.cpu())
    return torch.cat(predictions), torch.cat(labels)


@torch.no_grad()
def predict_with_weights(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Predicts the class whose weight is most similar.

    Args:
        features: Unit image features [N, D].
        weights: Class weights [C, D].

    Returns:
        Predictions, int64 [N].
    """
    return (features @ weights.T).argmax(dim=1)

"""Contrastive losses of image–caption training."""

import torch
import torch.nn.functional as F


def two_view_info_nce(first: torch.Tensor, second: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE between two views of the same things, within one modality: each is the other's only partner.

    Args:
        first: Unit vectors [N, D].
        second: Unit vectors [N, D] of the same N things in another view.
        logit_scale: Scalar s.

    Returns:
        Scalar loss.
    """
    same = torch.eye(len(first), dtype=torch.bool, device=first.device)
    return multi_positive_info_nce(first, second, same, logit_scale)


def multi_positive_info_nce(
    image_features: torch.Tensor, text_features: torch.Tensor, match: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE in which an image may have several true captions and the other way round.

    With one caption per image it equals CLIP's loss (Radford et al. 2021); with several, the
    cross-entropy is taken against the uniform distribution over all true partners. Texts without
    an image in the batch serve as negatives only.

    Args:
        image_features: Unit vectors [B, D].
        text_features: Unit vectors [T, D].
        match: Bool [B, T], whether text t describes image b; every image has at least one.
        logit_scale: Scalar s.

    Returns:
        Scalar loss.
    """
    logits = logit_scale * image_features @ text_features.T
    weights = match.to(logits.dtype)
    image_loss = -(F.log_softmax(logits, dim=1) * weights).sum(1) / weights.sum(1)
    used = match.any(dim=0)
    text_weights = weights[:, used]
    text_loss = -(F.log_softmax(logits[:, used], dim=0) * text_weights).sum(0) / text_weights.sum(0)
    return (image_loss.mean() + text_loss.mean()) / 2

"""The contrastive loss of trigger inversion."""

from __future__ import annotations

import torch


def inversion_loss(
    triggered: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor,
    *,
    temperature: float,
) -> torch.Tensor:
    """InfoNCE with several positives and negatives per image (docs/method.md, stage 1).

    L_i = -log( Σ_p exp(z̃_i·p/τ) / (Σ_p exp(z̃_i·p/τ) + Σ_n exp(z̃_i·n/τ)) )

    Args:
        triggered: Unit features z̃ of triggered images [H, b, D].
        positives: Unit features to land near [H, b or 1, P, D].
        negatives: Unit features to leave [H, b or 1, Q, D].
        temperature: τ.

    Returns:
        Loss per image [H, b].
    """
    attract = (positives @ triggered.unsqueeze(-1)).squeeze(-1) / temperature
    repel = (negatives @ triggered.unsqueeze(-1)).squeeze(-1) / temperature
    both = torch.cat([attract, repel], dim=-1)
    return torch.logsumexp(both, dim=-1) - torch.logsumexp(attract, dim=-1)

"""The second look (ours, beyond the paper): what other views of an image that a gate stops show."""

from __future__ import annotations

import torch


def second_opinion(
    views: torch.Tensor, weights: torch.Tensor, called: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Answers triggered images by other views of them (docs/method.md, the second look).

    Every view votes with its class probabilities under the CBPT prompts, the target left out, and votes with its
    own confidence:

        p_k = softmax_{c ≠ t}(s·z_k·W),    logits_c = log Σ_k p_k(c)²  for c ≠ t

    Args:
        views: Unit features [n, K, D] of other views (`models.other_views`).
        weights: Tuned class weights W [D, C].
        called: The suspected target t that each image was called [n].
        logit_scale: Scalar s.

    Returns:
        Logits [n, C], the target below all others.
    """
    votes = view_votes(views, weights, called, logit_scale).sum(dim=1)
    # bounded below by the smallest float, so that a class no view votes for stays a number
    logits = votes.clamp_min(torch.finfo(votes.dtype).tiny).log()
    return logits.scatter(1, called[:, None], logits.amin(dim=1, keepdim=True) - 1)


def view_consent(
    views: torch.Tensor, clean: torch.Tensor, called: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Mean probability [n] over all views of the class that each image is called, by the clean prompts.

    Args:
        views: Unit features [n, K, D] of other views.
        clean: Clean class weights [D, C].
        called: Class of each image [n].
        logit_scale: Scalar s.
    """
    chances = (logit_scale * views @ clean).softmax(dim=-1).mean(dim=1)
    return chances.gather(1, called[:, None]).squeeze(1)


def view_votes(
    views: torch.Tensor, weights: torch.Tensor, called: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """What every view says on its own: p_k(c)² of `second_opinion`, as [n, K, C]; 0 for the target."""
    similarities = logit_scale * views @ weights
    target = called[:, None, None].expand(-1, views.shape[1], 1)
    return similarities.scatter(2, target, float("-inf")).softmax(dim=-1).square()

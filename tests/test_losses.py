from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from clip_antidote.training.losses import multi_positive_info_nce


def unit_features(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_one_caption_per_image_is_the_loss_of_clip() -> None:
    images, texts, scale = unit_features(9, 0), unit_features(9, 1), torch.tensor(14.3)
    loss = multi_positive_info_nce(images, texts, torch.eye(9, dtype=torch.bool), scale)
    assert loss.item() == pytest.approx(ClipLoss()(images, texts, scale).item(), rel=1e-5)
    logits = scale * images @ texts.T
    both = (F.cross_entropy(logits, torch.arange(9)) + F.cross_entropy(logits.T, torch.arange(9))) / 2
    assert loss.item() == pytest.approx(both.item(), rel=1e-5)


def test_order_of_the_captions_does_not_matter() -> None:
    images, texts, scale = unit_features(6, 0), unit_features(6, 1), torch.tensor(10.0)
    match = torch.eye(6, dtype=torch.bool)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = multi_positive_info_nce(images, texts[order], match[:, order], scale)
    assert shuffled.item() == pytest.approx(multi_positive_info_nce(images, texts, match, scale).item(), rel=1e-5)


def test_several_captions_worked_out_by_hand() -> None:
    # The scale ln 2 makes e^logit 2 for equal vectors and 1 for orthogonal ones.
    images = torch.eye(3)[[0, 1]]
    texts = torch.eye(3)[[0, 0, 1, 2]]
    match = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0]]).bool()
    # Image 0: each of its two texts has 2 of 2+2+1+1, so ln 3. Image 1: 2 of 1+1+2+1, so ln 5/2.
    image_loss = (log(3) + log(2.5)) / 2
    # Texts 0, 1 and 2: 2 of 2+1, so ln 3/2. Text 3 describes no image and is left out.
    text_loss = log(1.5)
    loss = multi_positive_info_nce(images, texts, match, torch.tensor(log(2)))
    assert loss.item() == pytest.approx((image_loss + text_loss) / 2, rel=1e-6)


def test_caption_shared_by_images_worked_out_by_hand() -> None:
    # One text for both images: no choice for the images (0), two equal ones for the text (ln 2).
    images, texts = torch.eye(2)[[0, 0]], torch.eye(2)[[0]]
    loss = multi_positive_info_nce(images, texts, torch.ones(2, 1).bool(), torch.tensor(5.0))
    assert loss.item() == pytest.approx(log(2) / 2, rel=1e-6)


def test_gradient_pulls_an_image_toward_its_caption() -> None:
    images, texts = unit_features(4, 0).requires_grad_(), unit_features(4, 1)
    multi_positive_info_nce(images, texts, torch.eye(4, dtype=torch.bool), torch.tensor(10.0)).backward()
    assert images.grad is not None
    assert (images.grad * texts).sum(dim=1).max().item() < 0

"""How well a steganographic encoder hides a message, and how much its residual belongs to one image."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from clip_antidote.data.images import LabelledImages
from clip_antidote.triggers.stego import StegoDecoder, StegoEncoder


@dataclass(frozen=True)
class StegoQuality:
    """Means over images, all after rounding to 8 bits.

    Attributes:
        bit_accuracy: Share of the hidden bits that are read back.
        clean_bit_accuracy: The same share read from the image without residual; chance is 0.5.
        reused_bit_accuracy: The same share read from the image with another image's residual for the message.
        psnr: Peak signal-to-noise ratio in dB.
        similarity: Cosine between the residuals of two images for the same message.
        images: How many images.
    """

    bit_accuracy: float
    clean_bit_accuracy: float
    reused_bit_accuracy: float
    psnr: float
    similarity: float
    images: int

    def to_dict(self) -> dict[str, float]:
        """Returns all values by name."""
        return asdict(self)


@torch.no_grad()
def measure_stego(
    encoder: StegoEncoder, decoder: StegoDecoder, images: LabelledImages, *, size: int = 80, seed: int = 0
) -> StegoQuality:
    """Hides random messages in images at `size` px and reads them; every two images share a message."""
    device = next(encoder.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)[: len(images) // 2 * 2]
    sums = torch.zeros(5)
    for batch, _ in images.subset(order).batches(size):
        plain = batch.to(device)
        bits = torch.randint(2, (len(plain) // 2, encoder.config.bits), generator=generator).float()
        bits = bits.repeat_interleave(2, 0).to(device)
        residual = encoder(plain, bits)
        other = residual[torch.arange(len(plain)) ^ 1]
        stego = round8(plain + residual)
        values = (
            bits_read(decoder, stego, bits),
            bits_read(decoder, plain, bits),
            bits_read(decoder, round8(plain + other), bits),
            -10 * (stego - plain).square().mean(dim=(1, 2, 3)).log10(),
            F.cosine_similarity(residual.flatten(1), other.flatten(1)),
        )
        sums += torch.stack([value.sum() for value in values]).cpu()
    bit_accuracy, clean, reused, psnr, similarity = (sums / len(order)).tolist()
    return StegoQuality(bit_accuracy, clean, reused, psnr, similarity, len(order))


def round8(images: torch.Tensor) -> torch.Tensor:
    """Clamps images to [0, 1] and rounds them to 8 bits, as a PNG file does."""
    return (images.clamp(0, 1) * 255).round() / 255


def bits_read(decoder: StegoDecoder, images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Share of the bits [N, B] the decoder reads from images [N, 3, H, W], by image: [N]."""
    return ((decoder(images) > 0) == (bits > 0.5)).float().mean(1)

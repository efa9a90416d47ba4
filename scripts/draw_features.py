"""Draws what purification changes: a map of the features (t-SNE) and where the answers come from (Grad-CAM).

    python scripts/draw_features.py runs/zoo_120/zoo/badnet-church --data runs/problem --out docs/features

writes PREFIX_tsne.png and PREFIX_gradcam.png. The image encoder is frozen, so the features of one image are the same
before and after; what changes is where they are called the target, and that is what the colors show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE

from clip_antidote.attacks.record import read_target
from clip_antidote.data.folders import load_images
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import load_trigger

KINDS = ("other classes, clean", "the target, clean", "other classes, triggered", "other classes, dummy-triggered")
COLORS = ("#bbbbbb", "tab:green", "tab:red", "tab:orange")


def draw_tsne(parts: list[torch.Tensor], calls: dict[str, list[torch.Tensor]], name: str, out: Path) -> None:
    """One panel before, one after; filled where an image is called the target."""
    points = TSNE(perplexity=30, init="pca", metric="cosine", random_state=0).fit_transform(torch.cat(parts).numpy())
    where = np.split(points, np.cumsum([len(p) for p in parts])[:-1])
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axis, (title, called) in zip(axes, calls.items(), strict=True):
        for spots, hit, kind, color in zip(where, called, KINDS, COLORS, strict=True):
            filled = hit.numpy()
            axis.scatter(*spots[~filled].T, s=12, facecolors="none", edgecolors=color, linewidths=0.7)
            axis.scatter(*spots[filled].T, s=12, color=color, label=f"{kind}: {100 * filled.mean():.0f} %")
        axis.set(title=f"{name}, {title}: called the target (filled)", xticks=[], yticks=[])
        axis.legend(fontsize=8)
    figure.savefig(out, dpi=100)


def grad_cam(model: DualEncoder, image: torch.Tensor, logits_of: ZeroShotClassifier) -> tuple[torch.Tensor, int]:
    """Grad-CAM (Selvaraju et al. 2017) of the class an image is called, at the last feature map."""
    maps: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: object) -> object:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            maps.append(output)
            return output.clone()  # what follows may work in place
        return output

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    features = model.encode_images(image[None].requires_grad_(True))
    for hook in hooks:
        hook.remove()
    logits = logits_of.logits(features)[0]
    label = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[label], maps[-1])
    heat = (gradient.mean((2, 3), keepdim=True) * maps[-1]).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, image.shape[-2:], mode="bilinear", align_corners=False)[0, 0].detach()
    return heat / heat.max().clamp_min(1e-9), label


def draw_grad_cam(
    images: torch.Tensor, model: DualEncoder, heads: dict[str, ZeroShotClassifier], truth: list[str], out: Path
) -> None:
    """Triggered images, and the heat of the answer of every head."""
    figure, axes = plt.subplots(1 + len(heads), len(images), figsize=(1.7 * len(images), 1.9 * (1 + len(heads))))
    for column, image in enumerate(images):
        picture = image.permute(1, 2, 0).numpy()
        axes[0, column].imshow(picture)
        axes[0, column].set_title(truth[column], fontsize=8)
        for row, (title, head) in enumerate(heads.items(), start=1):
            heat, label = grad_cam(model, image, head)
            axes[row, column].imshow(picture)
            axes[row, column].imshow(heat.numpy(), cmap="jet", alpha=0.45)
            axes[row, column].set_title(f"{title}: {head.classes[label]}", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=100)


def main() -> None:
    """Purifies once and draws both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, help="prefix of the two files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = read_target(options.suspect)
    model, trigger = load_model(f"local-dir:{options.suspect}"), load_trigger(options.suspect / "trigger")
    purified = purify(model, load_images(options.data, shots=16, seed=options.seed), CBPTConfig(seed=options.seed))
    hand = ZeroShotClassifier.from_templates(model, purified.classes)
    test = load_images(options.data, split="test")
    label = test.classes.index(target)
    generator = torch.Generator().manual_seed(options.seed)
    others, own = ((test.labels != label).nonzero().flatten(), (test.labels == label).nonzero().flatten())
    others = others[torch.randperm(len(others), generator=generator)[:300]]
    images = test.subset(others).tensor(model.image_size, mode=model.resize_mode)
    targets = test.subset(own[:150]).tensor(model.image_size, mode=model.resize_mode)
    dummy = next(iter(purified.triggers.values()), None)
    parts = [
        model.encode_stored(images),
        model.encode_stored(targets),
        model.encode_stored(images, transform=trigger),
        model.encode_stored(images, transform=dummy),
    ]
    heads: dict[str, ZeroShotClassifier] = {"undefended": hand, "purified": purified}
    with torch.no_grad():
        calls = {name: [head.logits(part).argmax(1) == label for part in parts] for name, head in heads.items()}
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    draw_tsne(parts, calls, options.suspect.name, Path(f"{options.out}_tsne.png"))
    shown = trigger(images[:6].float() / 255)
    truth = [test.classes[int(test.labels[row])] for row in others[:6]]
    draw_grad_cam(shown, model, heads, truth, Path(f"{options.out}_gradcam.png"))


if __name__ == "__main__":
    main()

"""Counts how often model, shots and trigger are handed from file to file, from the command to where they end.

    python scripts/count_hops.py [--list]

Runs `purify`, `attack` and `evaluate` on a minute model with random weights. Counted are distinct pairs of functions
(caller, callee) in different files of the package between which the thing itself is an argument. What carries it on,
such as an observation, and the thing's own methods are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image

import clip_antidote
from clip_antidote.cli.app import main as command
from clip_antidote.data.images import LabelledImages
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers.base import Trigger

PACKAGE = str(Path(clip_antidote.__file__).parent)
SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SETTINGS = "inversion: {survey: {steps: 1}, final_steps: 1, batch_size: 4, alarm: 1.0}\ntuning: {steps: 1}\n"
Pairs = set[tuple[str, str]]


def place(frame: FrameType) -> tuple[str, str] | None:
    """File and function of a frame of the package, None elsewhere."""
    file = frame.f_code.co_filename
    return (file[len(PACKAGE) + 1 :], frame.f_code.co_qualname) if file.startswith(PACKAGE) else None


def holds(frame: FrameType, kinds: tuple[type, ...], text: str | None) -> bool:
    """Whether a thing of these kinds, or this very text, is an argument of the function."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = [frame.f_locals.get(name) for name in names if name != "self"]
    parts = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(part, kinds) or (text is not None and part == text) for part in parts)


def follow(arguments: list[str], *kinds: type, text: str | None = None) -> Pairs:
    """Runs a command and returns the pairs of functions between which the thing was handed over."""
    found: Pairs = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        here = place(frame) if event == "call" else None
        if here is None or not holds(frame, kinds, text):
            return
        caller = frame.f_back
        while caller is not None and place(caller) is None:
            caller = caller.f_back
        there = place(caller) if caller is not None else None
        if there is not None and there[0] != here[0]:
            found.add((":".join(there), ":".join(here)))

    sys.argv = ["clip-antidote", *arguments]
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), contextlib.suppress(SystemExit):
        sys.setprofile(look)
        try:
            command()  # the attack ends with a missed implant check, which is as good here
        finally:
            sys.setprofile(None)
    return found


def make_inputs(root: Path) -> tuple[str, list[str]]:
    """Writes a minute model and photographs; returns the model's spec and the option with the data."""
    torch.manual_seed(0)
    (root / "model").mkdir()
    save_open_clip(build_open_clip(SMALL), None, root / "model")
    generator = torch.Generator().manual_seed(0)
    for name in "abcdef":
        (root / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = torch.randint(0, 256, (40, 40, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / "photos" / name / f"{number}.png")
    (root / "fast.yaml").write_text(SETTINGS, encoding="utf-8")
    (root / "short.yaml").write_text("training: {steps: 1, batch_size: 4}\n", encoding="utf-8")
    return f"local-dir:{root / 'model'}", ["--data", str(root / "photos")]


def main() -> None:
    """Prints the counts and, if asked, every pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print every pair too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        spec, data = make_inputs(root)
        purify = ["purify", spec, *data, "--shots", "2", "--config", str(root / "fast.yaml"), "--out"]
        attack = ["attack", spec, *data, "--target", "a", "--config", str(root / "short.yaml"), "--out"]
        counted = {
            "model (purify)": follow([*purify, str(root / "1")], DualEncoder, text=spec),
            "images (purify)": follow([*purify, str(root / "2")], LabelledImages),
            "model (attack)": follow([*attack, str(root / "3")], DualEncoder, text=spec),
            "trigger (attack)": follow([*attack, str(root / "4")], Trigger),
            "trigger (evaluate)": follow(["evaluate", spec, *data, "--trigger", "badnet", "--target", "a"], Trigger),
        }
    for name, pairs in counted.items():
        files = {side.partition(":")[0] for pair in pairs for side in pair}
        print(f"{name}: {len(pairs)} between {len(files)} files")
        for pair in sorted(pairs) if options.list else []:
            print("   ", " → ".join(pair))


if __name__ == "__main__":
    main()

"""`classifier.pt` in CLIP_benchmark's `--load_clfs`: its own evaluation gives what our `single()` gives."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.data.embedded import ASSETS
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.models import DualEncoder
from clip_antidote.models.loading import TINY_FOLDER
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.gate import Gate
from clip_antidote.purification.guarded_head import GuardedHead


@pytest.fixture
def guarded(tiny: DualEncoder, test_images: LabelledImages) -> PurifiedCLIP:
    """One weight per class that is not the gated head's: it confuses some classes."""
    clean = ZeroShotClassifier.from_templates(tiny, test_images.classes, ["a photo of a {}."]).classifier
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    tuned = F.normalize(clean + 0.03 * noise, dim=0)
    guard = GuardedHead(clean, [Gate(torch.zeros(len(clean), 1), torch.ones(1), 0)], threshold=0.0)
    return PurifiedCLIP(tiny, tuned, test_images.classes, context=torch.zeros(10, 4, 128), guard=guard)


@pytest.fixture
def dataset(tmp_path: Path, test_images: LabelledImages) -> Path:
    """The embedded test photographs as the webdataset that CLIP_benchmark reads."""
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    names = test_images.classes
    with (
        tarfile.open(ASSETS / "clothing" / "clothing.tar") as source,
        tarfile.open(folder / "0.tar", "w") as shard,
    ):
        for number, member in enumerate(m for m in source if m.name.startswith("test/") and m.isfile()):
            image = source.extractfile(member)
            assert image is not None
            label = names.index(member.name.split("/")[1].replace("_", " "))
            for suffix, content in (("jpg", image.read()), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{number:06}.{suffix}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    (folder / "nshards.txt").write_text("1")
    (tmp_path / "data" / "classnames.txt").write_text("\n".join(names))
    (tmp_path / "data" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
    return tmp_path / "data"


def as_number(value: Any) -> float:
    return float(value.item() if hasattr(value, "item") else value)


def test_its_evaluation_gives_the_accuracy_of_the_single_form(
    guarded: PurifiedCLIP,
    dataset: Path,
    test_images: LabelledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("clip_benchmark")
    pytest.importorskip("webdataset")
    from clip_benchmark import cli
    from clip_benchmark.metrics import zeroshot_classification

    # CLIP_benchmark 1.6.2 makes floats of arrays [1], which NumPy refuses from 2.4 on
    monkeypatch.setattr(zeroshot_classification, "float", as_number, raising=False)
    guarded.save_pretrained(tmp_path / "purified")
    arguments = {
        "dataset": "wds/clothing",
        "dataset_root": dataset,
        "model": f"local-dir:{TINY_FOLDER}",
        "pretrained": "",
        "load_clfs": tmp_path / "purified" / "classifier.pt",
        "task": "zeroshot_classification",
        "num_workers": 0,
        "output": tmp_path / "found.json",
    }
    line = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["clip_benchmark", "eval", *line, "--no_amp", "--quiet"])
    cli.main()
    found = json.loads((tmp_path / "found.json").read_text())["metrics"]

    features = encode_test_images(guarded.model, test_images)
    single, gated = (measure(head, features).metrics for head in (guarded.single(), guarded))
    assert found["acc1"] == pytest.approx(single.ca.value, abs=1e-9)
    assert found["mean_per_class_recall"] == pytest.approx(single.to_dict()["mean_per_class_recall"], abs=1e-9)
    assert found["acc1"] != pytest.approx(gated.ca.value, abs=1e-9), "this form has no gate"


def test_the_file_holds_one_tensor_and_no_code(guarded: PurifiedCLIP, tmp_path: Path) -> None:
    guarded.save_pretrained(tmp_path / "purified")
    kept = torch.load(tmp_path / "purified" / "classifier.pt", map_location="cpu", weights_only=True)
    assert kept.shape == (256, 10)
    assert kept.dtype == torch.float32
    assert torch.equal(kept, guarded.single().classifier)
    assert torch.equal(kept / 1, kept), "CLIP_benchmark divides by the number of files, to average several"

"""The inputs that both tiers make and break: small ones of every kind."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import torch
from mutations import mutate_bytes, mutate_json, mutate_tree
from PIL import Image
from safetensors.torch import save_file

from clip_antidote.models import DualEncoder
from clip_antidote.triggers.mask import MaskTrigger
from conftest import two_gate_classifier

ARTEFACT_FILES = ["config.json"] * 6 + ["guard.safetensors", "classifier.safetensors", "prompts.safetensors"]
ARTEFACT_FILES += ["triggers/00-mask/trigger.json", "triggers/00-mask/trigger.safetensors"]

TEXT_OPTIONS: dict[str, Any] = {
    "pool_type": "argmax",
    "no_causal_mask": False,
    "tokenizer_kwargs": {"clean": "lower"},
    "mlp_ratio": 4.0,
}
VISION_OPTIONS: dict[str, Any] = {
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "patch_dropout": 0.0,
    "pool_type": "tok",
    "output_tokens": False,
}

ODD_YAML: list[bytes] = [
    b"seed: 2001-01-01\n",
    b"2001-01-01: 1\n",
    b"seed: 2001-99-99\n",
    b"1: 2\n",
    b"[a, b]: 1\n",
    b"? {a: 1}\n: 2\n",
    b"[" * 10_000,
    b"a: " + b"{a: " * 5_000,
    b"- " * 3_000,
    b"seed: \0\n",
    b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c]\n" % (c, c, *[c - 1] * 6) for c in b"bcdefghijk"),
    b"a: &a\n  b: *a\n",
    b"<<: 3\n",
    b"seed: !!python/object/apply:os.system [id]\n",
    b"seed: !!binary x\n",
    b"seed: 0x" + b"f" * 5000 + b"\n",
    b"seed: " + b"9" * 5000 + b"\n",
    b"seed: 1:1:1:99999999\n",
    b"training: 5\n",
    b"training: {steps: .inf}\n",
    b"seed: .nan\n",
    "seed: é".encode("latin-1"),
]

ODD_LINES = [
    "x" * 1_000_000,
    "a\0b = c",
    "\x1b[2J",
    "[/x] = [red]",
    "= =",
    "cat = ",
    "..",
    "/etc = x",
    "\u2028",
    "{}" * 5000,
]


def change(file: Path, draw: random.Random) -> None:
    """Mutates a file in place: as JSON where it is."""
    if file.suffix == ".json":
        file.write_bytes(mutate_json(json.loads(file.read_text(encoding="utf-8")), draw))
    else:
        file.write_bytes(mutate_bytes(file.read_bytes(), draw))


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 10), (10, 200, 30)).save(out, kind)
    return out.getvalue()


def artefact(model: DualEncoder, folder: Path) -> None:
    trigger = MaskTrigger(torch.rand(1, 8, 8), torch.rand(3, 8, 8))
    two_gate_classifier(model, triggers={"00-mask": trigger}).save_pretrained(folder)


def mutate_lines(rows: list[list[str]], draw: random.Random) -> list[list[str]]:
    changed = mutate_tree(rows, draw)
    if not isinstance(changed, list):
        return [[str(changed)]]
    return [[str(cell) for cell in row] if isinstance(row, list) else [str(row)] for row in changed]


def tar(members: list[tuple[str, bytes]], draw: random.Random | None = None) -> bytes:
    """A tar file; with a generator, members change their kind, name and size."""
    out = io.BytesIO()
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.REGTYPE]
    names = [
        "/etc/x.jpg",
        "../../x.jpg",
        "a/../../b.jpg",
        "",
        "x",
        "a/b/.jpg",
        "a//b.jpg",
        "\x1b.jpg",
        "n" * 300 + ".jpg",
    ]
    with tarfile.open(fileobj=out, mode="w:") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if draw is not None and draw.random() < 0.1:
                info.type = draw.choice(kinds)
                info.linkname = draw.choice(["/etc/passwd", "../../x", name, ""])
            if draw is not None and draw.random() < 0.1:
                info.name = draw.choice([*names, *(other.rpartition("/")[0] + "/../x.jpg" for other, _ in members)])
            if draw is None or draw.random() > 0.05:
                archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


def problem_archives() -> dict[str, list[tuple[str, bytes]]]:
    """The members of the archives that `data prepare` takes."""
    jpeg = picture("JPEG")
    return {
        "imagenette": [
            (f"imagenette/{s}/{c}/{i}.jpg", jpeg) for s in ("train", "val") for c in "ab" for i in range(2)
        ],
        "clothing": [(f"clothing/{s}/hat/{i}.jpg", jpeg) for s in ("train", "test") for i in range(2)],
        "caltech101": [(f"caltech101/{c}/{i}.jpg", jpeg) for c in ("cup", "Faces_easy") for i in range(2)],
        "flickr8k": [
            ("flickr8k/train.txt", b"1.jpg\n2.jpg\n"),
            ("flickr8k/dev.txt", b"3.jpg\n"),
            ("flickr8k/captions.csv", b"image,caption\n1.jpg,a dog\n"),
            *((f"flickr8k/images/{i}.jpg", jpeg) for i in range(4)),
        ],
    }


def mutate_configuration(config: dict[str, Any], draw: random.Random) -> bytes:
    """A mutated open_clip configuration."""
    full = json.loads(json.dumps(config))
    if draw.random() < 0.5:
        full["model_cfg"]["text_cfg"] |= TEXT_OPTIONS
        full["model_cfg"]["vision_cfg"] |= VISION_OPTIONS
    part = draw.choice(["", "model_cfg", "vision_cfg", "text_cfg", "preprocess_cfg"])
    model_cfg = full["model_cfg"]
    if part in ("vision_cfg", "text_cfg"):
        model_cfg[part] = mutate_tree(model_cfg[part], draw)
        data = json.dumps(full).encode()
    elif part:
        full[part] = mutate_tree(full[part], draw)
        data = json.dumps(full).encode()
    else:
        data = mutate_json(full, draw)
    return data


HF_FILES = {
    "hf_clip": ["config.json"] * 3 + ["preprocessor_config.json", "tokenizer_config.json", "merges.txt"],
    "hf_siglip": ["config.json"] * 3 + ["preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"],
}
"""Files of the small models of transformers that cases change, besides the weights."""

HF_ENTRIES: list[dict[str, Any]] = [
    {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}},
    {"_name_or_path": "evil/repo", "name_or_path": "evil/repo"},
    {"tokenizer_class": "Evil"},
    {"tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd", "merges_file": "/etc/passwd"},
    {"fast_tokenizer_files": ["../../evil.json"], "gguf_file": "evil.gguf", "adapter": "evil/repo"},
    {"trust_remote_code": True, "local_files_only": False, "_attn_implementation": "evil/kernel"},
    {"quantization_config": {"quant_method": "evil"}},
    {"architectures": ["Evil"], "model_type": "evil"},
    {"chat_template": "{{ ''.__class__.__mro__ }}"},
    {"image_processor_type": "Evil", "processor_class": "Evil"},
    {"dtype": "float16", "torch_dtype": "evil"},
]
"""What transformers takes for names of code, files and repositories."""


def change_transformers(folder: Path, base: str, draw: random.Random) -> None:
    """Breaks a copy of `base`, a small model of transformers, in one place."""
    kind = draw.random()
    if kind < 0.2:
        weights = folder / "model.safetensors"
        weights.write_bytes(mutate_bytes(weights.read_bytes(), draw))
    elif kind < 0.3:
        file = draw.choice(sorted(folder.iterdir()))
        file.unlink()
        if draw.random() < 0.5:
            file.mkdir()
    elif kind < 0.5:
        file = folder / draw.choice([name for name in HF_FILES[base] if name.endswith("config.json")])
        values = json.loads(file.read_text(encoding="utf-8"))
        inner = values.get(draw.choice(["text_config", "vision_config", ""]))
        (inner if isinstance(inner, dict) else values).update(draw.choice(HF_ENTRIES))
        file.write_text(json.dumps(values), encoding="utf-8")
    else:
        change(folder / draw.choice(HF_FILES[base]), draw)


def odd_tensors(file: Path, draw: random.Random) -> None:
    """Writes tensors of odd shapes under the names that an artefact or a trigger uses."""
    tensor = draw.choice([torch.zeros(0), torch.zeros(3, 3), torch.zeros(2, 2, 2, 2), torch.full((16, 3), torch.nan)])
    keys = ["classifier", "context", "clean", "gate.0.directions", "gate.0.offsets", "mask", "pattern"]
    save_file({key: tensor.clone() for key in draw.sample(keys, draw.randint(1, 7))}, file)

"""Cases that break what is learned: checkpoints, configurations, artefacts, triggers, kept states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import payloads
from cases import Case, Kind, evaluate
from inputs import ARTEFACT_FILES, HF_FILES, change, change_transformers, mutate_configuration, odd_tensors
from mutations import mutate_bytes


def checkpoint(case: Case) -> list[str]:
    folder = case.copy("model")
    weights = folder / "open_clip_model.safetensors"
    if case.draw.random() < 0.4:
        weights.write_bytes(mutate_bytes(weights.read_bytes(), case.draw))
        return evaluate(case, f"local-dir:{folder}")
    weights.unlink()
    file = folder / case.draw.choice(["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
    payloads.checkpoint(file, case.canary, case.draw)
    return evaluate(case, f"open_clip:ViT-S-32-alt@{file}" if case.draw.random() < 0.2 else f"local-dir:{folder}")


def inspection(case: Case) -> list[str]:
    """What checkpoints and configurations are made of, looked at and not loaded: what is found ends with status 1."""
    case.finding = True
    model = case.draw.choice([checkpoint, configuration])(case)[1]
    if case.draw.random() < 0.3 and model.startswith("open_clip:"):
        model = model.partition("@")[2]
    options = case.draw.choice([[], ["--no-zero-shot"]])
    return ["inspect", model, "--json", "out.json", "--sarif", "out.sarif", *options]


def transformers(case: Case) -> list[str]:
    """A folder of transformers: loaded, purified, or looked at."""
    name = case.draw.choice(list(HF_FILES))
    folder = case.copy(name)
    (folder / "evil.py").write_text(f"open({str(case.canary)!r}, 'w')\n")
    if case.draw.random() < 0.1:
        weights = folder / "model.safetensors"
        weights.unlink()
        payloads.checkpoint(folder / case.draw.choice(["pytorch_model.bin", weights.name]), case.canary, case.draw)
    else:
        change_transformers(folder, name, case.draw)
    spec, kind = f"{case.draw.choice(['hf', 'local-dir'])}:{folder}", case.draw.random()
    if kind < 0.2:
        case.finding = True
        return ["inspect", spec, "--json", "out.json"]
    if kind < 0.3:
        return ["purify", spec, "--data", str(case.base.problem), "--shots", "1", "--out", "out",
                "--config", str(case.base.folder / "purify.yaml")]  # fmt: skip
    return evaluate(case, spec)


def configuration(case: Case) -> list[str]:
    file = case.copy("model") / "open_clip_config.json"
    config = json.loads(file.read_text())
    if case.draw.random() < 0.25:
        place = case.draw.choice([case.inputs / "tokenizer", file.parent])
        name = str(place)
        place.mkdir(exist_ok=True)
        (place / "tokenization_x.py").write_text(f"open({str(case.canary)!r}, 'w')\n")
        (place / "tokenizer_config.json").write_text(
            '{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}, "tokenizer_class": "X"}'
        )
        config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": case.draw.choice([name, "evil/repo", "../x"])}
        if case.draw.random() < 0.5:
            config["model_cfg"]["text_cfg"] |= {"hf_model_name": case.draw.choice([name, "evil/repo"])}
        file.write_text(json.dumps(config))
    else:
        file.write_bytes(mutate_configuration(config, case.draw))
    if case.draw.random() < 0.2:
        return ["train", "--architecture", str(file), "--data", str(case.base.problem), "--out", "out",
                "--config", str(case.base.folder / "train.yaml")]  # fmt: skip
    return evaluate(case, f"local-dir:{file.parent}")


def artefact(case: Case) -> list[str]:
    folder = case.copy("artefact")
    file = folder / case.draw.choice(ARTEFACT_FILES)
    if file.name == "config.json" and case.draw.random() < 0.3:
        config = json.loads(file.read_text())
        odd = case.draw.choice(
            ["hf-hub:evil/repo", "open_clip:RN50@openai", "hf:evil/repo", f"local-dir:{case.inputs}", "tiny", "../..",
             "open_clip:ViT-B-32@../../../x", "/etc/passwd", "https://example.com/x", 5, None, ["tiny"]]
        )  # fmt: skip
        config["base_model"] = {**config["base_model"], "spec": odd} if case.draw.random() < 0.8 else odd
        file.write_text(json.dumps(config))
        return case.draw.choice([evaluate(case, folder), ["export", str(folder), "--out", "out.onnx"]])
    if file.name != "config.json" and case.draw.random() < 0.4:
        odd_tensors(file.with_suffix(".safetensors"), case.draw)
    else:
        change(file, case.draw)
    if case.draw.random() < 0.08:
        return ["export", str(folder), "--model", case.model, "--out", "out.onnx"]
    return evaluate(case, folder, "--model", case.model, "--json", "out.json")


def trigger(case: Case) -> list[str]:
    folder = case.copy("triggers") / case.draw.choice(["badnet", "blended", "sig", "wanet"])
    if case.draw.random() < 0.2:
        odd_tensors(folder / "trigger.safetensors", case.draw)
    else:
        change(case.draw.choice(sorted(folder.glob("trigger.*"))), case.draw)
    if case.draw.random() < 0.5:
        return evaluate(case, case.model, "--trigger", folder, "--target", "cat")
    return ["attack", "--trigger-only", "--trigger", str(folder), "--data", str(case.base.problem), "--out", "out",
            "--image-size", "32"]  # fmt: skip


def message_networks(case: Case) -> list[str]:
    folder = case.copy("stego")
    change(case.draw.choice(sorted(folder.iterdir())), case.draw)
    return ["train-stego", "--data", str(case.base.problem), "--measure", str(folder)]


def _resumed(case: Case, out: str) -> Path:
    kept = case.base.state(out)
    case.changing.add(kept.name)
    return Path(shutil.copytree(kept, case.work / kept.name))


def training_state(case: Case) -> list[str]:
    out = case.draw.choice(["poisoned", "trained"])
    folder = _resumed(case, out)
    file = case.draw.choice([p for p in sorted(folder.rglob("*")) if p.is_file()] + [folder / "training.pt"] * 4)
    if file.name == "training.pt" and case.draw.random() < 0.4:
        payloads.checkpoint(file, case.canary, case.draw)
    else:
        change(file, case.draw)
    base = case.base.folder
    if out == "poisoned":
        return ["attack", case.model, "--data", str(base / "problem"), "--target", "dog", "--out", out,
                "--config", str(base / "attack.yaml")]  # fmt: skip
    return ["train", "--architecture", str(base / "model" / "open_clip_config.json"), "--data", str(base / "problem"),
            "--out", out, "--config", str(base / "train.yaml")]  # fmt: skip


def search_state(case: Case) -> list[str]:
    folder = _resumed(case, "purified")
    change(case.draw.choice([p for p in sorted(folder.rglob("*")) if p.is_file()]), case.draw)
    return ["purify", case.model, "--data", str(case.base.problem), "--shots", "2", "--out", "purified",
            "--config", str(case.base.folder / "purify.yaml")]  # fmt: skip


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        checkpoint,
        inspection,
        configuration,
        transformers,
        artefact,
        trigger,
        message_networks,
        training_state,
        search_state,
    )
}

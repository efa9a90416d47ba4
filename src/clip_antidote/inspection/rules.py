"""The rules of an inspection: what each means, and which technique of MITRE ATLAS it may be a trace of."""

from __future__ import annotations

from dataclasses import dataclass

from clip_antidote.inspection.record import Finding, Level

ATLAS = {
    "AML.T0010.003": "AI Supply Chain Compromise: Model",
    "AML.T0011.000": "User Execution: Unsafe AI Artifacts",
    "AML.T0018": "Manipulate AI Model",
    "AML.T0018.002": "Manipulate AI Model: Embed Malware",
    "AML.T0029": "Denial of AI Service",
    "AML.T0031": "Erode AI Model Integrity",
}
"""Techniques by their id."""


@dataclass(frozen=True)
class Rule:
    """A rule: its usual level, what it says in a line, what to do, and techniques of ATLAS."""

    level: Level
    summary: str
    advice: str
    taxa: tuple[str, ...] = ()


_RUNS = ("AML.T0010.003", "AML.T0011.000", "AML.T0018.002")
_BROKEN = ("AML.T0031",)
_COMPARE = "Compare with the published weights."
_AGAIN = "Copy or download the file again."
_OTHER = "Take another checkpoint."

RULES: dict[str, Rule] = {
    "unsafe-global": Rule(
        "error",
        "A pickle names something that runs programs, loads code or reaches files.",
        "Do not load this file with anything but a weights-only reader; take safetensors of the same model.",
        _RUNS,
    ),
    "foreign-global": Rule(
        "warning",
        "A pickle names Python objects that no weights need.",
        "Save only the state dict, as safetensors, on a machine where the file is trusted.",
        _RUNS,
    ),
    "damaged-pickle": Rule(
        "error",
        "A pickle cannot be followed to its end; one that breaks may run code before it does.",
        "Copy or download the file again, or take another one.",
        _RUNS,
    ),
    "torchscript": Rule(
        "note",
        "A TorchScript archive holds code beside its tensors; here the tensors are read and no code is run.",
        "Do not open it by torch.jit.load, which runs the code, unless it is trusted.",
        ("AML.T0011.000",),
    ),
    "code-beside": Rule(
        "warning",
        "The folder holds Python code that loading with trust_remote_code would run.",
        "Load it without trust_remote_code; clip-antidote never runs it.",
        _RUNS,
    ),
    "hidden-content": Rule(
        "error",
        "An archive is packed as PyTorch never packs one, so that tools may see different things in it.",
        "Take the model from elsewhere.",
        ("AML.T0010.003", "AML.T0029"),
    ),
    "damaged": Rule(
        "error",
        "The weights cannot be read, or declare more than the file holds.",
        "Copy or download the file again.",
    ),
    "not-finite": Rule("error", "A tensor has NaN or Inf.", _OTHER, _BROKEN),
    "impossible": Rule("error", "A tensor has values that no training gives.", _OTHER, _BROKEN),
    "exploding": Rule("warning", "A tensor has absurdly large values.", _COMPARE, _BROKEN),
    "zero-tensor": Rule("warning", "A whole tensor is zero.", _COMPARE, _BROKEN),
    "dead-channels": Rule("warning", "Most channels of a tensor are zero.", _COMPARE, _BROKEN),
    "some-dead-channels": Rule("note", "Some channels are zero, as in many published models.", "Nothing to do."),
    "not-loadable": Rule(
        "error", "The weights do not make the model that is stated.", "Name the architecture it was trained with."
    ),
    "recognizes-nothing": Rule(
        "warning",
        "Zero-shot accuracy on the embedded photographs is no better than chance.",
        "Check the architecture and the preprocessing; a model for other images may be right all the same.",
        _BROKEN,
    ),
    "activation": Rule(
        "warning", "The model recognizes images better with the other activation.", "Add or remove -quickgelu."
    ),
}
"""Rules by their id."""


def finding(rule: str, message: str, file: str = "", **where: str | int | None) -> Finding:
    """Makes a finding at the rule's own level; `where` are `tensor`, `entry`, `offset` and `opcode`."""
    return Finding.model_validate(
        {"rule": rule, "level": RULES[rule].level, "message": message, "file": file, **where}
    )

"""Help, version and lists import nothing that computes."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

from clip_antidote.cli import demo
from clip_antidote.jobs.demo import TARGET

HEAVY = ("torch", "open_clip", "torchvision", "scipy", "matplotlib", "numpy", "PIL", "transformers", "gradio")
SCRIPT = """
import json, sys
sys.argv = ["clip-antidote", *json.loads(sys.argv[1])]
from clip_antidote.cli.app import main
try:
    main()
finally:
    print("imported", [name for name in json.loads(%r) if name in sys.modules], file=sys.stderr)
"""
COMMANDS = [
    "demo",
    "purify",
    "defend",
    "inspect",
    "scan",
    "evaluate",
    "export",
    "serve",
    "attack",
    "ls",
    "train",
    "train-stego",
]
BENCHMARK = ("prepare", "run", "zoo", "table", "compare", "population", "survey", "keep", "judge")
GROUPS = [["data", "prepare"], ["data", "export"], *(["benchmark", name] for name in BENCHMARK)]
LIGHT = [
    ["--help"],
    ["--version"],
    *(
        ["ls", kind]
        for kind in ("attacks", "defenses", "detectors", "triggers", "models", "scores", "training-methods")
    ),
    *([name, "--help"] for name in COMMANDS),
    *([*names, "--help"] for names in GROUPS),
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_what_computes_is_not_imported(arguments: list[str]) -> None:
    code = SCRIPT % json.dumps(HEAVY)
    ran = subprocess.run([sys.executable, "-c", code, json.dumps(arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert ran.stderr.splitlines()[-1] == "imported []"


def test_the_demo_names_its_own_target() -> None:
    assert inspect.signature(demo.command).parameters["target"].default == TARGET


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "clip_antidote", "scna"], capture_output=True, text=True)
    assert ran.returncode == 4
    assert ran.stderr == "error: No such command 'scna'. Did you mean 'scan'?\n"
    ran = subprocess.run([sys.executable, "-m", "clip_antidote", "--version"], capture_output=True, text=True)
    assert ran.stdout.startswith("clip-antidote ")

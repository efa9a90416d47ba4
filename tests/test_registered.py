"""What every registered trigger, every registered attack and every class of settings must do."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

import clip_antidote
from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.material import Material
from clip_antidote.config import Config
from clip_antidote.errors import UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.triggers import TRIGGERS, Trigger, load_trigger


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Triggers

LEARNED: dict[str, dict[str, torch.Tensor]] = {
    "patch": {"pattern": noise(3, 16, 16)},
    "additive": {"delta": (noise(3, 32, 32) - 0.5) / 10},
    "color": {"curves": (noise(3, 5) - 0.5) / 3},
    "reflection": {"pictures": (noise(3, 3, 32, 32) * 255).to(torch.uint8)},
    "mask": {"mask": (noise(1, 32, 32) < 0.1).float(), "pattern": noise(3, 32, 32)},
}
"""What triggers have besides their settings; one that is not here needs nothing."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRIGGERS.names()),
    ("badnet", {"fresh": True, "position": "random"}),
    ("sig", {"amplitude": 40}),
    ("sig", {"angle": 30}),
    ("reflection", {"weight": 0.2, "shift": 0}),
    ("wanet", {"k": 4, "strength": 8}),
    ("ssba", {"message_seed": 5, "strength": 1.5}),
    ("checkerboard", {"amplitude": 8, "cell": 3}),
    ("pieces", {"shown": 0.5}),
    ("patches", {"opacities": [0.5, 0.2, 0.5, 0.3], "shown": 1}),
    ("patch", {"patch": 44, "position": "center", "word": "consider"}),
]


def make_trigger(name: str, settings: dict[str, Any]) -> Trigger:
    trigger_class = TRIGGERS.get(name)
    trigger: Trigger = trigger_class.restore(trigger_class.config_class.build(settings), LEARNED.get(name, {}))
    assert trigger.name == name
    return trigger


def variant_name(value: object) -> str:
    return ",".join(map(str, value.values())) or "default" if isinstance(value, dict) else str(value)


every_trigger = pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=variant_name)


@every_trigger
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [64, 96])
def test_triggered_images_are_images_of_the_same_kind(
    name: str, settings: dict[str, Any], size: int, dtype: torch.dtype
) -> None:
    trigger, images = make_trigger(name, settings), noise(4, 3, size, size).to(dtype)
    kept = images.clone()
    out = trigger(images, torch.Generator().manual_seed(1))
    assert (out.shape, out.dtype) == (images.shape, dtype)
    assert 0 <= out.min() <= out.max() <= 1
    assert not torch.equal(out, images)
    assert torch.equal(images, kept), "the input must stay as it was"
    assert torch.equal(trigger(images, torch.Generator().manual_seed(1)), out)
    assert torch.equal(trigger(images), trigger(images)), "without a generator it is repeatable as well"


@every_trigger
def test_saved_and_loaded_a_trigger_is_the_same(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    trigger, images = make_trigger(name, settings), noise(2, 3, 48, 48)
    trigger.save(tmp_path)
    files = {"trigger.json", "trigger.safetensors"} if name in LEARNED else {"trigger.json"}
    assert {file.name for file in tmp_path.iterdir()} == files
    loaded = load_trigger(tmp_path)
    assert type(loaded) is type(trigger)
    assert loaded.config == trigger.config
    first, second = (each(images, torch.Generator().manual_seed(5)) for each in (loaded, trigger))
    assert torch.equal(first, second)
    if settings:
        assert not torch.equal(make_trigger(name, {})(images, torch.Generator().manual_seed(5)), first)
    assert loaded.apply_text("a dog.") == trigger.apply_text("a dog.")


@every_trigger
def test_a_triggered_text_still_holds_the_text(name: str, settings: dict[str, Any]) -> None:
    word = settings.get("word")
    assert make_trigger(name, settings).apply_text("a {}.") == (f"{word} a {{}}." if word else "a {}.")


# Attacks

every_attack = pytest.mark.parametrize("name", ATTACKS.names())


def make_attack(name: str, **settings: Any) -> Attack:
    attack_class = ATTACKS.get(name)
    attack: Attack = attack_class(attack_class.config_class.build(settings))
    return attack


@every_attack
def test_an_attack_is_what_its_name_says(name: str) -> None:
    attack_class = ATTACKS.get(name)
    assert attack_class.name == name
    config = attack_class().config
    assert type(config) is attack_class.config_class
    assert make_attack(name, **yaml.safe_load(config.to_yaml())).config == config
    for wrong in ({"nonsense": 1}, {"trigger": {"nonsense": 1}}, {"training": {"nonsense": 1}}):
        with pytest.raises(UsageError, match="nonsense"):
            make_attack(name, **wrong)


@every_attack
def test_the_trigger_of_an_attack_is_registered(name: str, small_model: DualEncoder) -> None:
    images = (noise(6, 3, 32, 32) * 255).to(torch.uint8)
    material = Material("hat", images, images[:2], captions=("a hat",), others=("shoe",))
    optimized = "optimization" in ATTACKS.get(name).config_class.model_fields
    attack = make_attack(name, **({"optimization": {"steps": 1, "batch_size": 4}} if optimized else {}))
    trigger = attack.make_trigger(small_model, material)
    assert type(trigger) is TRIGGERS.get(trigger.name)
    assert trigger.config == attack.config.trigger
    assert all("hat" in text for text in attack.captions(material))


# Settings

NEEDED: dict[str, dict[str, Any]] = {
    "BaseConfig": {"name": "a", "tower": "vit", "model": {}},
    "DefenseChoice": {"defense": "none"},
    "FurtherConfig": {"trigger": "sig"},
    "VariantConfig": {"label": "long"},
    "Profile": {"paper": "An author, 2020", "changes": ["prompts"], "differs": "nothing"},
    "PopulationConfig": {"bases": [{"name": "a", "tower": "vit", "model": {}}], "targets": ["hat"]},
    "Published": {"defense": "a", "attack": "b", "backbone": "c", "source": "d"},
    "SuspectConfig": {"attack": "badnet"},
    "GridConfig": {"suspects": [{"attack": "badnet", "target": "hat"}, {"attack": "clean"}]},
}
"""Settings without a default."""


def all_configs() -> list[type[Config]]:
    """Every class of settings in the package."""
    for module in walk_packages(clip_antidote.__path__, "clip_antidote."):
        import_module(module.name)
    found: list[type[Config]] = []
    todo = [Config]
    while todo:
        found += (below := todo.pop().__subclasses__())
        todo += below
    return sorted({c for c in found if c.__module__.startswith("clip_antidote.")}, key=lambda c: c.__name__)


every_config = pytest.mark.parametrize("config_class", all_configs(), ids=lambda c: c.__name__)


@every_config
def test_settings_survive_yaml(config_class: type[Config]) -> None:
    config = config_class.build(NEEDED.get(config_class.__name__, {}))
    again = config_class.build(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.to_yaml() == config.to_yaml()


@every_config
def test_settings_are_frozen_and_unknown_ones_refused(config_class: type[Config]) -> None:
    needed = NEEDED.get(config_class.__name__, {})
    with pytest.raises(UsageError, match=f"{config_class.__name__}: setting 'nonsense'"):
        config_class.build({**needed, "nonsense": 1})
    config = config_class.build(needed)
    for field in [*config_class.model_fields, "nonsense"]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, field, None)


def test_all_triggers_and_attacks_have_settings_of_the_package() -> None:
    registered = [registry.get(name).config_class for registry in (TRIGGERS, ATTACKS) for name in registry.names()]
    assert set(registered) <= set(all_configs())

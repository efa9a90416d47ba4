"""The text repair and the gate on made-up geometry, where the truth is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clip_antidote.purification.config import GateConfig
from clip_antidote.purification.gate_fit import GateData, fit_gate, scatter, useful_dummies
from clip_antidote.purification.text_repair import TextMap, repair_weights

SIZE, CLASSES, TARGET = 24, 30, 3


@pytest.fixture
def world() -> dict[str, torch.Tensor]:
    """Texts that are a rotation of the class centroids, but for the target's, which is pulled elsewhere."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    centroids = F.normalize(normal(CLASSES, SIZE), dim=1)
    rotation = torch.linalg.qr(normal(SIZE, SIZE))[0]
    weights = centroids @ rotation
    trigger = F.normalize(normal(SIZE), dim=0)
    honest = weights[TARGET].clone()
    weights[TARGET] = F.normalize(weights[TARGET] + trigger @ rotation, dim=0)
    labels = torch.arange(CLASSES).repeat_interleave(40)
    features = F.normalize(centroids[labels] + 0.15 * normal(len(labels), SIZE), dim=1)
    others = features[labels != TARGET]
    triggered = F.normalize(others + 2.0 * trigger + 0.8 * centroids[TARGET], dim=1)
    return {
        "weights": weights,
        "centroids": centroids,
        "honest": honest,
        "trigger": trigger,
        "features": features,
        "labels": labels,
        "triggered": triggered,
    }


def text_map(world: dict[str, torch.Tensor], *suspects: int, ridge: float = 0.01) -> TextMap:
    found = TextMap.fit(world["weights"], world["centroids"], suspects or (TARGET,), ridge=ridge)
    assert found is not None
    return found


def gate_data(world: dict[str, torch.Tensor], dummies: dict[str, list[torch.Tensor]]) -> GateData:
    own = world["labels"] == TARGET
    return GateData(
        views=world["features"][own],
        shots=torch.arange(int(own.sum())) % 8,
        dummies=dummies,
        features=world["features"],
        labels=world["labels"],
        weights=world["weights"],
        target=TARGET,
        text_map=text_map(world, ridge=GateConfig().ridge),
    )


def test_the_text_is_repaired_from_the_other_classes(world: dict[str, torch.Tensor]) -> None:
    learned, own = text_map(world), world["centroids"][TARGET]
    assert float(learned.text(own) @ world["honest"]) > 0.95 > float(world["weights"][TARGET] @ world["honest"])
    assert float(learned.pull(world["weights"][TARGET], own) @ world["trigger"]) > 0.85


def test_two_suspects_do_not_spoil_each_other(world: dict[str, torch.Tensor]) -> None:
    weights = world["weights"].clone()
    honest = weights[7].clone()
    weights[7] = weights[TARGET]
    learned = text_map({**world, "weights": weights}, TARGET, 7)
    assert float(learned.text(world["centroids"][7]) @ honest) > 0.95
    both = repair_weights(weights, weights, world["centroids"], learned, (TARGET, 7), share=1.0)
    assert float(both[7] @ honest) > 0.95
    assert float(both[TARGET] @ world["honest"]) > 0.95
    others = torch.arange(CLASSES)[(torch.arange(CLASSES) != TARGET) & (torch.arange(CLASSES) != 7)]
    assert torch.equal(both[others], weights[others])


def test_an_honest_text_is_left_where_it_is(world: dict[str, torch.Tensor]) -> None:
    assert float(text_map(world, 5).text(world["centroids"][5]) @ world["weights"][5]) > 0.95


def test_the_gate_tells_triggered_from_clean_with_an_imperfect_dummy(world: dict[str, torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    wrong = F.normalize(torch.randn(SIZE, generator=generator), dim=0)
    others = world["features"][world["labels"] != TARGET]
    dummy = F.normalize(others + world["trigger"] + wrong + world["centroids"][TARGET], dim=1)
    data = gate_data(world, {"additive": [dummy]})
    gate = fit_gate(data, GateConfig(min_flip=0.0))
    own = world["features"][world["labels"] == TARGET]
    assert float((gate.score(own) > GateConfig().threshold).float().mean()) > 0.7
    assert float((gate.score(world["triggered"]) > GateConfig().threshold).float().mean()) < 0.02
    assert float((gate.score(dummy) > 0).float().mean()) == pytest.approx(0.01, abs=0.005), "0 is where dummies end"
    blind = fit_gate(data, GateConfig(min_flip=0.0, residual_weight=0.0))
    assert gate.score(world["triggered"]).mean() < blind.score(world["triggered"]).mean(), "the text's pull helps"


def test_every_family_has_its_say(world: dict[str, torch.Tensor]) -> None:
    others = world["features"][world["labels"] != TARGET]
    good = F.normalize(others + 2 * world["trigger"], dim=1)
    gate = fit_gate(gate_data(world, {"mask": [good], "additive": [good]}), GateConfig(min_flip=0.0))
    assert gate.directions.shape == (SIZE, 2)
    projections = good @ gate.directions - gate.offsets
    assert torch.equal(gate.score(good), projections.amin(1))


def test_one_shot_is_enough_for_a_gate(world: dict[str, torch.Tensor]) -> None:
    data = gate_data(world, {"mask": [world["triggered"]]})
    single = GateData(**{**vars(data), "shots": torch.zeros_like(data.shots)})
    gate = fit_gate(single, GateConfig(min_flip=0.0))
    assert torch.isfinite(gate.score(world["features"])).all()


def test_dummies_that_do_not_flip_are_left_out(world: dict[str, torch.Tensor]) -> None:
    at_target = F.normalize(world["weights"][TARGET] + 0.01 * world["triggered"], dim=1)
    clean = world["features"][world["labels"] != TARGET]
    data = gate_data(world, {"mask": [at_target, clean], "additive": [clean]})
    kept = useful_dummies(data, min_flip=0.9)
    assert list(kept) == ["mask"]
    assert len(kept["mask"]) == 1
    assert kept["mask"][0] is at_target
    assert list(useful_dummies(gate_data(world, {"additive": [clean]}), min_flip=0.9)) == ["additive"]


def test_a_form_takes_part_only_where_it_flips_and_displaces_no_other_family(world: dict[str, torch.Tensor]) -> None:
    at_target = F.normalize(world["weights"][TARGET] + 0.01 * world["triggered"], dim=1)
    clean = world["features"][world["labels"] != TARGET]

    def kept(**dummies: torch.Tensor) -> set[str]:
        return set(useful_dummies(gate_data(world, {name: [part] for name, part in dummies.items()}), min_flip=0.9))

    assert kept(mask=at_target, stripes=at_target) == {"mask", "stripes"}
    assert kept(mask=at_target, stripes=clean) == {"mask"}
    assert kept(mask=clean, additive=clean, stripes=at_target) == {"mask", "additive", "stripes"}
    assert kept(mask=clean, stripes=clean) == {"mask"}
    assert kept(mask=clean, additive=at_target, stripes=at_target) == {"additive", "stripes"}


def test_scatter_is_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=generator)
    groups = torch.arange(50) % 3
    assert torch.allclose(scatter(features), torch.cov(features.T.double(), correction=0))
    parts = [scatter(features[groups == g]) * int((groups == g).sum()) for g in range(3)]
    assert torch.allclose(scatter(features, groups), torch.stack(parts).sum(0) / 50)

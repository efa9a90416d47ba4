"""The gate at inner layers (ours): where triggered and clean features of the target meet only at the end.

The same discriminant as the gate's own stands at up to six stages of the image tower, on the same scale: 0 where
dummies end, 1 the median of the target's clean images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import nn

from clip_antidote.purification.gate import Gate
from clip_antidote.purification.stage_space import StageSpace, scaled

MOST_STAGES = 6
"""Of deeper towers so many stages are read, evenly spread, the last among them."""


def spread_stages(count: int) -> tuple[int, ...]:
    """Numbers of the stages that are read, of `count` from the first to the last; none where there are none."""
    most = min(count, MOST_STAGES)
    return tuple((i + 1) * count // most - 1 for i in range(most))


class InnerGates(nn.Module):
    """Gates at inner stages, in front of the same targets as the head's.

    Args:
        means: Mean of every channel over clean views, [D_l] by number of stage.
        deviations: Standard deviation of every channel, [D_l] by number of stage.
        gates: One gate per stage, in the order of `means`, for every target.
    """

    def __init__(
        self,
        means: Mapping[int, torch.Tensor],
        deviations: Mapping[int, torch.Tensor],
        gates: Sequence[Sequence[Gate]],
    ) -> None:
        super().__init__()
        self.stages = tuple(means)
        for stage in self.stages:
            self.register_buffer(f"mean_{stage}", means[stage])
            self.register_buffer(f"deviation_{stage}", deviations[stage])
        self.gate = nn.ModuleList(nn.ModuleList(row) for row in gates)

    @classmethod
    def of(cls, space: StageSpace, stages: Sequence[int], gates: Sequence[Sequence[Gate]]) -> Self:
        """Makes them of gates that were fitted in a space of stages."""
        wide = [
            [Gate(space.widened(gate.directions, i), gate.offsets, gate.target) for i, gate in enumerate(row)]
            for row in gates
        ]
        return cls(
            dict(zip(stages, space.means, strict=True)), dict(zip(stages, space.deviations, strict=True)), wide
        )

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], targets: Sequence[int]) -> Self:
        """Makes them again from their `state_dict()` and the class indices of the targets.

        Raises:
            KeyError: A tensor is missing.
            ValueError: There are others.
        """
        names = [name for name in state if name.startswith("mean_")]
        stages = sorted(int(name.removeprefix("mean_")) for name in names)
        gates = [
            [
                Gate(state[f"gate.{n}.{i}.directions"], state[f"gate.{n}.{i}.offsets"], target)
                for i in range(len(stages))
            ]
            for n, target in enumerate(targets)
        ]
        if len(state) != 2 * len(stages) * (1 + len(targets)):
            raise ValueError(f"{len(state)} tensors are not those of {len(targets)} gates at {len(stages)} stages")
        means, deviations = ({i: state[f"{kind}_{i}"] for i in stages} for kind in ("mean", "deviation"))
        return cls(means, deviations, gates)

    def rows(self) -> list[list[Gate]]:
        """The gates, stage by stage for every target."""
        listed = [list(row) for row in self.gate if isinstance(row, nn.ModuleList)]
        return [[gate for gate in row if isinstance(gate, Gate)] for row in listed]

    def scale_of(self, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of every channel of a stage, [D_l] each."""
        return self.get_buffer(f"mean_{stage}"), self.get_buffer(f"deviation_{stage}")

    def fits(self) -> bool:
        """Whether the shapes of all tensors go together."""
        for number, stage in enumerate(self.stages):
            mean, deviation = self.scale_of(stage)
            wide = mean.shape
            if len(wide) != 1 or deviation.shape != wide:
                return False
            if any(row[number].directions.shape != (*wide, *row[number].offsets.shape) for row in self.rows()):
                return False
        return bool(self.stages)

    def scores(self, stages: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """How much images are like those of each target at every stage that is read: [N, stages] by target.

        Args:
            stages: Features [N, D_l] of every stage of the tower, as `DualEncoder.encode_layers` gives them.
        """
        scales = [self.scale_of(stage) for stage in self.stages]
        places = [scaled(stages[i].to(scale[0]), *scale) for i, scale in zip(self.stages, scales, strict=True)]
        return [
            torch.stack([gate.score(place) for gate, place in zip(row, places, strict=True)], dim=1)
            for row in self.rows()
        ]

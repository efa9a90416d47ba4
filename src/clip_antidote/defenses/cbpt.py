"""Class-wise backdoor prompt tuning, its parts, and its ceiling."""

from __future__ import annotations

from typing import ClassVar, Literal

from clip_antidote.defenses.base import Defense, Given, Outcome
from clip_antidote.defenses.profiles import PROFILES
from clip_antidote.defenses.unfinished import kept_folder
from clip_antidote.detection.search import TargetSource, known_triggers, search_targets
from clip_antidote.detection.state import kept_search
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify

Family = Literal["mask", "additive"]


class CBPT(Defense):
    """`purify` with the settings that are given."""

    profile = PROFILES["cbpt"]
    config_class = CBPTConfig
    families: ClassVar[tuple[Family, ...] | None] = None

    def apply(self, given: Given) -> Outcome:
        config: CBPTConfig = self.config
        if self.families is not None:
            inversion = config.inversion.model_copy(update={"families": self.families, "form_steps": 0})
            config = config.model_copy(update={"inversion": inversion})
        purified = purify(given.model, given.shots, config, source=self.source(given))
        details = {"targets_suspected": list(purified.targets_suspected), "guarded": list(purified.guarded)}
        trained = purified.context[:1] if config.tuning.shared_context else purified.context
        return Outcome(purified, trained.numel(), details)

    def source(self, given: Given) -> TargetSource:
        """Where targets and dummies come from."""
        folder = kept_folder()
        return search_targets if folder is None else kept_search(search_targets, folder / "search")


class MaskCBPT(CBPT):
    """With mask dummies only."""

    profile = PROFILES["cbpt-mask"]
    families = ("mask",)


class AdditiveCBPT(CBPT):
    """With additive dummies only."""

    profile = PROFILES["cbpt-additive"]
    families = ("additive",)


class CleanPrompts(CBPT):
    """Class-wise prompts tuned on clean images alone: the second stage without triggers."""

    profile = PROFILES["prompts"]

    def source(self, given: Given) -> TargetSource:
        return known_triggers([])


class Oracle(CBPT):
    """CBPT with the true trigger in the place of the dummies."""

    profile = PROFILES["oracle"]

    def source(self, given: Given) -> TargetSource:
        if given.truth is None or given.truth.trigger is None:
            return known_triggers([])
        return known_triggers([given.truth.trigger], given.truth.target)

"""Handing a classifier on: as an artefact folder, or on the Hugging Face Hub, with a model card that is true."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from clip_antidote.outputs import result_folder
from clip_antidote.purification.artefact import KIND, Artefact, write_artefact
from clip_antidote.purification.guarded_head import GuardedHead
from clip_antidote.purification.hub import push_artefact


class Shareable(ABC):
    """The part of `PurifiedCLIP` that writes and uploads it.

    Attributes:
        guard: Clean weights and gates, None where there is one weight per class.
        second_look: Whether stopped images are looked at again.
    """

    guard: GuardedHead | None
    second_look: bool
    _card: tuple[str, object] | None = None

    @abstractmethod
    def artefact(self) -> Artefact:
        """Returns everything but the model, as it is kept in files."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the artefact folder, whole or not at all; see `write_artefact`.

        The suspect model itself is not copied, but named with its hash.

        Raises:
            DataError: The folder cannot be written, or holds something else than an earlier artefact.
        """
        with result_folder(Path(folder), KIND) as temporary:
            write_artefact(self.artefact(), temporary)

    @property
    def card(self) -> str | None:
        """The model card it was loaded with, as long as it is true: None once threshold or second look were moved."""
        return self._card[0] if self._card is not None and self._card[1] == self._head() else None

    def keep_card(self, card: str | None) -> None:
        """Takes a model card, which is true of this head: a change of threshold or second look ends that."""
        self._card = None if card is None else (card, self._head())

    def _head(self) -> tuple[float | None, bool]:
        return None if self.guard is None else self.guard.threshold, self.second_look

    def push_to_hub(
        self,
        repo: str,
        *,
        license_name: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Upload a purified classifier",
    ) -> str:
        """Uploads the artefact to the Hugging Face Hub (extra `hub`), without the suspect model and without pickles.

        The model card is the one it was loaded with, or a short one that claims nothing.

        Args:
            repo: `org/name`; made where it does not exist.
            license_name: For the card, as the Hub calls it, like "apache-2.0".
            private: Whether a repository that is made is private.
            token: Instead of the one that `hf auth login` keeps.
            branch: Where to, instead of main.
            create_pr: Whether to propose it as a pull request.
            commit_message: What the commit says.

        Returns:
            The address of the commit.

        Raises:
            UsageError: This is no name of a repository, or no license.
            UnsupportedError: The package huggingface_hub is missing.
            DataError: It cannot be uploaded.
        """
        own = {"private": private, "token": token, "branch": branch, "create_pr": create_pr}
        return push_artefact(self.artefact(), repo, license_name=license_name, commit_message=commit_message, **own)

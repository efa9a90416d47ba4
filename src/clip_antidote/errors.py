"""Errors a user can cause, each with the exit status the command line gives it."""

from __future__ import annotations

from clip_antidote.plain import plain

_LONGEST = 1000


class ClipAntidoteError(Exception):
    """Base of all expected failures: the message is one sentence for the user, on one line and of readable length.

    Attributes:
        exit_status: What the command line exits with (2 error, 3 unsupported, 4 usage).
    """

    exit_status = 2

    def __init__(self, sentence: object = "") -> None:
        text = plain(sentence)
        half = _LONGEST // 2  # what is wrong, and what to do: names in between may be of any length
        super().__init__(text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}")


class DataError(ClipAntidoteError):
    """Images, captions or class lists are missing, broken or do not fit together."""


class ModelError(ClipAntidoteError):
    """A checkpoint cannot be read, or does not fit the architecture named."""


class UnsupportedError(ClipAntidoteError):
    """The input is valid, but outside of what this package can treat."""

    exit_status = 3


class RefusedError(UnsupportedError):
    """A defense lacks what it needs, such as a kind of image tower or a base model."""


class UsageError(ClipAntidoteError):
    """An option or a configuration value is wrong."""

    exit_status = 4


class PluginError(ClipAntidoteError):
    """What an installed package adds by an entry point cannot be used."""


class ImplantError(ClipAntidoteError):
    """An attack failed its implant check."""

"""Errors a user can cause, each with the exit status the command line gives it."""


class ClipAntidoteError(Exception):
    """Base of all expected failures: the message is one sentence for the user.

    Attributes:
        exit_status: What the command line exits with (2 error, 3 unsupported, 4 usage).
    """

    exit_status = 2


class DataError(ClipAntidoteError):
    """Images, captions or class lists are missing, broken or do not fit together."""


class ModelError(ClipAntidoteError):
    """A checkpoint cannot be read, or does not fit the architecture named."""


class UnsupportedError(ClipAntidoteError):
    """The input is valid, but outside of what this package can treat."""

    exit_status = 3


class UsageError(ClipAntidoteError):
    """An option or a configuration value is wrong."""

    exit_status = 4


class ImplantError(ClipAntidoteError):
    """An attack failed its implant check."""

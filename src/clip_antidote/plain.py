"""Text of others, made plain for a terminal: it neither styles, nor moves the cursor, nor breaks the line."""

from __future__ import annotations


def plain(text: object) -> str:
    """Returns a text as one line of printable characters.

    Names of classes, files and options may hold line ends, escape sequences, or bytes that are no characters.
    """
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text))

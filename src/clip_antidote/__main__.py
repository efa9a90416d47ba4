"""`python -m clip_antidote`: the command `clip-antidote`, where scripts of packages are not on the path."""

from __future__ import annotations

from clip_antidote.cli.app import main

if __name__ == "__main__":
    main()

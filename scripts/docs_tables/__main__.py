"""Writes the tables of the documentation from its records.

    python scripts/docs_tables            # README.md and docs/*.md, between their markers
    python scripts/docs_tables --check    # changes nothing; status 1 where a table differs from the records

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pages import stale_pages


def main() -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="folder of the project")
    options = parser.parse_args()
    stale = stale_pages(options.root, write=not options.check)
    for page in stale:
        print(f"{page}: {'differs from the records' if options.check else 'written'}")
    if options.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()

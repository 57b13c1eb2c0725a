"""`python -m bench.naive`; see `compare.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.naive import compare
from fastdreamer.errors import UserError


def run(given: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if {"-h", "--help"} & set(given):
        print(compare.__doc__)
        return 0
    named = bool(given) and "=" not in given[0]
    try:
        compare.main(given[0] if named else "crafter", given[named:])
    except UserError as error:
        print(f"bench.naive: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

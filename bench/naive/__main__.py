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
    plain = [word for word in given if word != "--compile"]
    named = bool(plain) and "=" not in plain[0]
    try:
        if unknown := [word for word in plain if word.startswith("-")]:
            raise UserError(f"unknown option {unknown[0]}: there is --compile, besides a preset and overrides")
        compare.main(plain[0] if named else "crafter", plain[named:], compiles=len(plain) < len(given))
    except UserError as error:
        print(f"bench.naive: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

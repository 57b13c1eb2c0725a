"""The command `python -m bench.suites`; see `command.py`."""

from bench.suites.command import main

if __name__ == "__main__":
    raise SystemExit(main())

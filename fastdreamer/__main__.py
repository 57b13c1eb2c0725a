"""`python -m fastdreamer`: the same as the `fastdreamer` command."""

from fastdreamer.cli import run

run()

"""Benchmarks that are read, not gated: `python -m bench.suites`."""

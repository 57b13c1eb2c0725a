"""The benchmark harness: row specification, timing, counting, probes of the machine, and the JSON they end in."""

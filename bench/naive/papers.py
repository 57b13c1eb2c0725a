"""The network of the paper, as overrides; nothing is imported."""

PAPERS = (
    "dynamics.linear_start=false", "dynamics.spatial_tokens=16", "forcing.levels=grid", "forcing.sample_steps=4",
    "forcing.boot_fraction=0.25", "forcing.context_signal=0.9", "heads.history=0", "heads.input_noise=0",
    "heads.reward_members=1",
)  # fmt: skip
"""Laid over a preset on both sides: the yardstick is the network of the paper, which the naive arm writes out."""

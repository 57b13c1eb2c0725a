"""Settings of what is trained: the dynamics, the forcing that trains it, and the heads."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import setting


@dataclass(frozen=True)
class DynamicsConfig:
    """The block-causal transformer (P 3.4). `context` < `window` makes time attention a band of that width."""

    dim: int = setting(128, at_least=8, at_most=2**16)  # the width of the transformer
    layers: int = setting(4, at_least=1, at_most=2**10)  # how many transformer blocks there are
    heads: int = setting(4, at_least=1)  # how many heads of queries a block has
    # How many heads of keys and values a block has; queries share them in groups.
    kv_heads: int = setting(2, at_least=1)
    mlp_ratio: float = setting(2.667, above=0.0)  # the width of a block's MLP over `dim`
    time_every: int = setting(4, at_least=1)  # every how many layers one attends over time, the first of all included
    registers: int = setting(4, at_least=0)  # register tokens of a step
    window: int = setting(16, at_least=2)  # W: the training sequence's length in latent steps
    context: int = setting(16, at_least=1)  # C: how far time attention reaches, in latent steps
    soft_cap: float = setting(0.0, at_least=0.0)  # the soft cap on attention logits; 0 is off
    agent_tokens: int = setting(0, at_least=0)  # agent tokens of a step: they read everything and are read by nothing
    # Spatial tokens of a step: 16, or neighbours of the 4x4 grid together, which costs less a step.
    spatial_tokens: int = setting(16, choices=(1, 4, 16))
    linear_start: bool = False  # whether the network predicts what a ridge regression from the step before leaves
    # How many folders of recordings have a learned TASK token of their own; 0: none. Tasks with names need none: see
    # `tasks`.
    tasks: int = setting(0, at_least=0)

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} over heads {self.heads} must give an even head width")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.context > self.window:
            raise ValueError(f"context {self.context} reaches past the training window {self.window}; lower it")


@dataclass(frozen=True)
class ForcingConfig:
    """Shortcut forcing (P Eq. 4-8) and sampling."""

    # K_max: the finest step size is d_min = 1 / K_max.
    finest_steps: int = setting(64, choices=(2, 4, 8, 16, 32, 64, 128))
    sample_steps: int = setting(4, choices=(1, 2, 4, 8, 16, 32, 64))  # K: sampling takes K steps of d = 1/K from noise
    # The share of sequences that is trained as bootstrap.
    boot_fraction: float = setting(0.25, at_least=0.0, at_most=1.0)
    boot_warmup: float = setting(0.1, at_least=0.0, at_most=1.0)  # the share of the run before any bootstrap
    # The signal levels of training. grid: all of tau's, weighed by P's ramp. sampled: those of imagination,
    # which is context_share at the context's level and the rest at the K levels it samples through, all weighed
    # alike.
    levels: str = setting("grid", choices=("grid", "sampled"))
    # The share of the steps that sampled levels put at the context's level.
    context_share: float = setting(0.75, at_least=0.0, below=1.0)
    context_signal: float = setting(0.9, above=0.0, at_most=1.0)  # the signal level of context, snapped to the grid

    def __post_init__(self) -> None:
        if self.sample_steps > self.finest_steps:
            raise ValueError(f"sample_steps {self.sample_steps} exceeds finest_steps {self.finest_steps}")
        if self.levels == "sampled" and self.boot_fraction:
            raise ValueError(
                f"levels is sampled but boot_fraction is {self.boot_fraction}: set it to 0, or levels to grid"
            )


@dataclass(frozen=True)
class HeadsConfig:
    """Policy, reward, continuation and value heads on the latents (or on agent tokens)."""

    hidden: int = setting(256, at_least=1, at_most=2**16)  # the width of the heads' layers
    layers: int = setting(2, at_least=1, at_most=2**10)  # how many hidden layers a head has
    bins: int = setting(255, at_least=3, at_most=2**16)  # how many bins two-hot rewards and values have; odd
    reward_range: float = setting(20.0, above=0.0)  # r: reward bins are symexp(linspace(-r, r))
    value_range: float = setting(20.0, above=0.0)  # value bins are symexp(linspace(-r, r)) with this r
    readout: str = setting("latents", choices=("latents", "agent_tokens"))  # what the heads read
    # What the reward of a step is told from: the step; the one before it too (transition); the one before it and the
    # chunk taken there (action), which imagination knows best; or all three.
    reward_reads: str = setting("state", choices=("state", "transition", "action", "all"))
    # Dropout of the reward head while it learns; off in imagination.
    reward_dropout: float = setting(0.0, at_least=0.0, below=1.0)
    reward_members: int = setting(1, at_least=1)  # how many heads learn the reward alike; the least of them counts
    # The exponent of the focal loss of the policy; 0 is plain cross-entropy.
    focal_gamma: float = setting(0.0, at_least=0.0)
    # The share that is left a step later of the trace of past actions, which heads on latents read too; 0: no trace.
    history: float = setting(0.0, at_least=0.0, below=1.0)
    input_noise: float = setting(0.0, at_least=0.0)  # the spread of the noise on the latents that heads learn from
    # Dropout of the policy while cloning; off in imagination.
    policy_dropout: float = setting(0.0, at_least=0.0, below=1.0)
    # Whether the continuation is a learned head or always one.
    continuation: str = setting("learned", choices=("learned", "one"))

    def __post_init__(self) -> None:
        if self.bins % 2 == 0:
            raise ValueError(f"bins {self.bins} must be odd, so that one bin is exactly 0")
        if self.history and self.readout != "latents":
            raise ValueError(f"history is {self.history}, but readout {self.readout} remembers by itself: set it to 0")

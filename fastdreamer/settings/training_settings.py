"""Settings of training: which crops and tasks a batch holds, the optimisation of a phase, and imagination."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import setting


@dataclass(frozen=True)
class SamplingConfig:
    """Choice of a batch's crops; lengths and unlabelled video are phase 1's. Every batch has batch_size crops."""

    short_window: int = setting(0, at_least=0)  # steps of a short crop (P 3.4 alternates lengths); 0: long crops only
    long_every: int = setting(4, at_least=1)  # every how many batches one is of dynamics.window steps
    # The share of batches of one step, whose action is masked.
    single_step: float = setting(0.0, at_least=0.0, below=1.0)
    # The share of the labelled crops that come from episodes drawn by their summed |reward|. Phases 1 (as recorded) and
    # 2 (of the crop's own task).
    reward_weighted: float = setting(0.0, at_least=0.0, at_most=1.0)
    # The share of the labelled training episodes, the best by the task's return, whose actions phase 2 clones ("%BC",
    # Chen et al. 2021, arXiv:2106.01345). Of the others it learns what the world pays, not what to do.
    clone_top: float = setting(1.0, above=0.0, at_most=1.0, free="before cloning")
    # The task by whose return they are the best; empty: the task that is trained.
    clone_by: str = setting("", free="before cloning")
    # The share of the crops from video without actions, where the store has video with them too.
    unlabelled: float = setting(0.5, at_least=0.0, at_most=1.0)
    # Batches that a thread makes ahead, for a GPU that reads from host memory and for a store on disk; 0: none.
    # A draw from RAM is a fraction of a millisecond, so on a CPU the thread would only contend with the step.
    prefetch: int = setting(2, at_least=0, free="always")

    def __post_init__(self) -> None:
        if self.short_window == 1:
            raise ValueError("short_window is 1: crops of one step are sampling.single_step's; set it to 0, or 2 up")


@dataclass(frozen=True)
class TasksConfig:
    """What phases 2 and 3 train for: `reward`, `unlocks`, `first:COUNTER` or a counter's name (`recordings/tasks.py`).

    Rewards come from what the latent store counts, so that other tasks need no encoding and no phase 1. Empty: the
    recorded reward, without a name. Two or more are trained in equal shares; a learned TASK token tells them apart.
    """

    names: tuple[str, ...] = ()  # the tasks that are trained

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice or not all(self.names):
            raise ValueError(f"names has {twice[0]} twice" if twice else "names has an empty name")


@dataclass(frozen=True)
class RanksConfig:
    """Several processes that train together under torchrun (scaling.md)."""

    # The longest that a rank waits for another in a step, in seconds; then all end, and one line names who is late.
    timeout_s: float = setting(300.0, above=0.0, at_most=86400.0)
    # Steps between comparisons of weights, averages and optimiser over the ranks, bit for bit; 0: at the start and at
    # every checkpoint alone.
    check_every: int = setting(0, at_least=0)
    # Whether each rank keeps its part alone of the world model's blocks in phase 1 (FSDP2): for one that does not fit
    # one GPU.
    shard: bool = setting(False, free="always")


@dataclass(frozen=True)
class TrainConfig:
    """One phase's optimisation: linear warm-up, cosine decay to `final_rate` of the rate, EMA, clipping."""

    # `adamw`, or `muon` for the blocks' matrices and AdamW for all else.
    optimizer: str = setting("adamw", choices=("adamw", "muon"))
    steps: int = setting(1000, at_least=1, free="always")  # optimiser steps of the phase
    batch_size: int = setting(16, at_least=1, at_most=2**20)  # crops of a batch; in phase 3 dreams
    accumulate: int = setting(1, at_least=1)  # batches whose gradients are added up to one step
    # Crops at once: a batch goes in micro-batches, with the gradient of the whole. 0: as many as the memory allows.
    micro_batch: int = setting(0, at_least=0, free="always")
    # Whether the blocks' inputs alone are kept and the rest is computed again: less memory, slower.
    recompute: bool = setting(False, free="always")
    learning_rate: float = setting(3e-4, above=0.0)  # the highest learning rate
    final_rate: float = setting(0.1, at_least=0.0, at_most=1.0)  # the last learning rate over the highest
    warmup_steps: int = setting(50, at_least=0)  # steps until the learning rate is at its highest
    weight_decay: float = setting(0.01, at_least=0.0)  # decoupled weight decay
    clip_norm: float = setting(1.0, above=0.0)  # the largest norm of the gradient; a larger one is scaled down
    # Steps in a row whose loss or gradient is not finite; then it stops.
    max_skipped: int = setting(20, at_least=1, free="always")
    ema_decay: float = setting(0.99, at_least=0.0, below=1.0)  # the decay of the averaged weights a step
    checkpoint_every: int = setting(200, at_least=1, free="always")  # steps between checkpoints
    log_every: int = setting(10, at_least=1, free="always")  # steps between lines of metrics


@dataclass(frozen=True)
class CloningConfig(TrainConfig):
    """Phase 2: behaviour cloning."""

    # The share of the steps without better averaged heads after which the phase ends; those with the least held-out
    # loss count, looked for at every twentieth of the steps. 0: the phase runs to its end, and the last heads count.
    patience: float = setting(0.0, at_least=0.0, at_most=1.0)


@dataclass(frozen=True)
class TokenizerFitConfig(TrainConfig):
    """`fit-tokenizer`. Single frames: the encoder first, then the convolutional decoder on the finished encoder."""

    # The share of the steps that fits the encoder; longer clips fit both together.
    encoder_share: float = setting(0.5, above=0.0, below=1.0)


@dataclass(frozen=True)
class ImaginationConfig:
    """Phase 3: rollouts and PMPO (P 3.3, Eq. 9-11). Rates are a frame for gamma, a latent step for lambda."""

    horizon: int = setting(15, at_least=1)  # H: how many latent steps a dream has
    start_context: int = setting(1, at_least=1)  # real latent steps before the dream
    gamma: float = setting(0.997, above=0.0, at_most=1.0)  # the discount of a frame
    lambda_: float = setting(0.95, at_least=0.0, at_most=1.0)  # the lambda of the returns, a latent step
    alpha: float = setting(0.5, at_least=0.0, at_most=1.0)  # the weight of the D+ set
    beta: float = setting(0.3, at_least=0.0)  # the weight of the KL to the policy of phase 2
    # Value-only steps that open the phase: so many, and then more until the critic fits the policy that plays
    # (critic_bias).
    critic_steps: int = setting(0, at_least=0)
    # The policy moves once the running mean of the advantages is at most this share of their RMS (0: at once), or half
    # of the phase is over.
    critic_bias: float = setting(0.0, at_least=0.0, at_most=1.0)
    value_rate: float = setting(1.0, above=0.0)  # the value head's learning rate, times phase3's
    # The decay of the averaged value head that returns start from; 0: none.
    target_decay: float = setting(0.0, at_least=0.0, below=1.0)
    # Whether a step is committed with the first denoising pass of the next: K passes a step, not K + 1. auto: where the
    # policy reads latents. Compared with the plain order, in fp32, before it is used.
    merge_commit: str = setting("auto", choices=("auto", "on", "off"), free="always")
    # What one CUDA graph holds. auto: a step on a GPU; horizon: the whole rollout (slower to capture).
    capture: str = setting("auto", choices=("auto", "off", "step", "horizon"), free="always")

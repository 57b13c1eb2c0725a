"""Every setting of FastDreamer, as frozen dataclasses that check their own bounds.

A configuration file is YAML with these groups as sections; `settings.py` reads, overrides, checks and hashes it.
Every default is explained where it is defined; sources are the Dreamer 4 paper (arXiv:2509.24527, "P" below).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastdreamer.settings import SEED_MOST, read_settings, setting
from fastdreamer.shapes import LatentClock


@dataclass(frozen=True)
class DataConfig:
    """Where recordings and latents live. Empty paths mean inside the run directory."""

    # The environment, which says what the actions are.
    env: str = setting(
        "crafter",
        choices=(
            "crafter", "minerl_treechop", "minerl_navigate", "minerl_obtain", "minerl_basalt", "minerl_vector", "vpt"
        ),
    )  # fmt: skip
    recordings: str = ""  # the folder of recordings; empty: `recordings` in the run directory
    store: str = ""  # the latent store; empty: `store` in the run directory
    frame_size: int = setting(64, at_least=8, at_most=2**13)  # pixels a side of the recorded frames
    held_out: float = setting(0.1, above=0.0, at_most=0.5)  # the share of the episodes that is never trained on
    # A store larger than so many GiB is memory-mapped instead of read.
    memory_limit_gb: float = setting(4.0, at_least=0.0)
    # Where training keeps the latents; ram maps a store beyond memory_limit_gb, auto is the card up to card_limit_gb.
    resident: str = setting("auto", choices=("auto", "ram", "card"))
    card_limit_gb: float = setting(0.5, at_least=0.0)  # GiB of latents that auto puts on the card at most
    # What decodes videos; auto: nvdec on a card with DALI, else pyav.
    decoder: str = setting("auto", choices=("auto", "pyav", "nvdec"))
    # What resamples frames; auto: dali on a card with DALI, else torch.
    resampler: str = setting("auto", choices=("auto", "torch", "dali"))
    decode_threads: int = setting(0, at_least=0)  # episodes that are decoded at once; 0: one a core, at most 8
    max_damaged: float = setting(0.2, at_least=0.0, at_most=1.0)  # a larger share of damaged episodes stops `encode`
    # Whether a recording is refused whose metadata.json contradicts its video or its rewards.
    check_metadata: bool = True
    skip_null: bool = False  # whether frames of VPT at which nothing was done are left out, as its own loader does


@dataclass(frozen=True)
class RecordConfig:
    """`record`: episodes of real play. `noise` is the expert's share of random actions (state coverage).

    With policy `expert`, `noisy_share` of the episodes are played with `noisy_noise` in its place, and `random_share`
    at random: a world model must have seen failures to imagine them.
    """

    policy: str = setting("expert", choices=("expert", "random"))  # who plays
    episodes: int = setting(48, at_least=1)  # how many episodes are recorded, one world each
    max_steps: int = setting(500, at_least=1)  # actions until an episode is cut off
    noise: float = setting(0.05, at_least=0.0, at_most=1.0)  # the expert's share of random actions
    # The share of the episodes that the expert plays with noisy_noise.
    noisy_share: float = setting(0.0, at_least=0.0, at_most=1.0)
    noisy_noise: float = setting(0.5, at_least=0.0, at_most=1.0)  # the expert's share of random actions in those
    random_share: float = setting(0.0, at_least=0.0, at_most=1.0)  # the share of the episodes that is played at random
    # How random actions of noisy and random play are drawn: uniform, or kinds of actions first (see
    # `envs.mix.KIND_WEIGHTS`), which tries the world more often: uniform play hardly ever does something to what stands
    # in front of it.
    chance: str = setting("uniform", choices=("uniform", "kinds"))
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the first episode's world; later ones count up

    def __post_init__(self) -> None:
        shares = self.noisy_share + self.random_share
        if shares > 1:
            raise ValueError(f"noisy_share and random_share are {shares:g} together; they must be at most 1")
        if shares and self.policy != "expert":
            raise ValueError(f"policy is {self.policy}: noisy_share and random_share are shares of the expert's worlds")


@dataclass(frozen=True)
class TokenizerConfig:
    """The frozen tokenizer: Cosmos architecture, resampling before it, pooling after it.

    weights: `embedded` (the small one that ships with the package), `random` (tests, debugging), a folder in the
    diffusers layout (config.json + safetensors), or NVIDIA's own .pt or .jit. The architecture fields apply to
    `random`, `fit-tokenizer`, .pt and .jit; a diffusers folder brings its own.
    """

    weights: str = "embedded"  # `embedded`, `random`, or the folder or file of the weights
    frames_per_latent: int = setting(1, choices=(1, 2, 4, 8))  # c: frames that one latent step covers
    window: int = setting(1, at_least=1)  # frames that are encoded together: 1 + k c
    # Frames are resampled (bicubic, a=-0.5) to this many pixels a side before the encoder.
    image_size: int = setting(64, at_least=8, at_most=2**13)
    pool: int = setting(2, choices=(1, 2, 4, 8))  # neighbouring latents a side that are averaged into one token
    encoder_channels: tuple[int, ...] = (48, 80, 80)  # channels of the encoder's levels
    decoder_channels: tuple[int, ...] = (48, 64, 80)  # channels of the decoder's levels
    layers: int = setting(1, at_least=1, at_most=2**6)  # residual blocks a level
    patch_size: int = setting(4, choices=(1, 2, 4))  # pixels a side of the wavelet patches that the encoder reads
    spatial_compression: int = setting(8, choices=(4, 8, 16))  # pixels a side that one latent covers before pooling
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the seed of random weights
    trust_jit: bool = False  # whether a .jit may be loaded, which can run code that is in it

    def __post_init__(self) -> None:
        LatentClock(self.frames_per_latent, self.window)
        if not all(1 <= n <= 2**14 for n in (*self.encoder_channels, *self.decoder_channels)):
            raise ValueError(f"encoder_channels and decoder_channels must be from 1 to {2**14}")

    @property
    def clock(self) -> LatentClock:
        return LatentClock(self.frames_per_latent, self.window)


@dataclass(frozen=True)
class EnginesConfig:
    """What runs the frozen tokenizer, and what `build-engines` builds. Free to change in a run."""

    # What runs the tokenizer; auto: the fastest engine that is installed for this machine, or eager where none is.
    backend: str = setting(
        "auto",
        choices=("auto", "eager", "inductor", "aot-inductor", "tensorrt_rtx", "tensorrt", "torch-tensorrt"),
    )
    # The arithmetic of engines; auto: fp16 on a card, fp32 on a CPU.
    precision: str = setting("auto", choices=("auto", "fp32", "fp16", "bf16"))
    # Clips at once that engines are built for; empty: 1 and 4 on a CPU, 1, 4 and 16 on a card.
    batches: tuple[int, ...] = ()
    acting_frames: tuple[int, ...] = ()  # lengths in frames that are served for one clip besides the whole window
    resample_inside: bool = False  # whether the engine takes uint8 frames of data.frame_size
    pool_inside: bool = False  # whether the engine returns pooled tokens
    channels_last: bool = False  # whether eager on a card runs in channels_last_3d
    directory: str = ""  # where engines lie; empty: fastdreamer/engines in the user's cache
    memory_gb: float = setting(0.0, at_least=0.0)  # GiB of activations of one chunk; 0: 0.25 on a CPU, 2 on a card

    def __post_init__(self) -> None:
        if any(n < 1 for n in (*self.batches, *self.acting_frames)):
            raise ValueError("batches and acting_frames must be 1 or more")


@dataclass(frozen=True)
class SamplingConfig:
    """Which crops a batch holds; lengths and unlabelled video are phase 1's. Every batch has batch_size crops."""

    short_window: int = setting(0, at_least=0)  # steps of a short crop (P 3.4 alternates lengths); 0: long crops only
    long_every: int = setting(4, at_least=1)  # every how many batches one is of dynamics.window steps
    # The share of batches of one step, whose action is masked.
    single_step: float = setting(0.0, at_least=0.0, below=1.0)
    # The share of the labelled crops that come from episodes drawn by their summed |reward|. Phases 1 (as recorded) and
    # 2 (of the crop's own task).
    reward_weighted: float = setting(0.0, at_least=0.0, at_most=1.0)
    # The share of the labelled training episodes, the best by the task's return, whose actions phase 2 clones ("%BC",
    # Chen et al. 2021, arXiv:2106.01345). Of the others it learns what the world pays, not what to do.
    clone_top: float = setting(1.0, above=0.0, at_most=1.0)
    clone_by: str = ""  # the task by whose return they are the best; empty: the task that is trained
    # The share of the crops from video without actions, where the store has video with them too.
    unlabelled: float = setting(0.5, at_least=0.0, at_most=1.0)
    # Batches that a thread makes ahead, for a card that reads from host memory and for a memory-mapped store; 0: none.
    # A draw from RAM is a fraction of a millisecond, so on a CPU the thread would only contend with the step.
    prefetch: int = setting(2, at_least=0)

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
    # Above 0: how many folders of recordings have a learned TASK token of their own. Tasks with names need none:
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
    # Where training puts its steps. grid: all of tau's levels, weighed by P's ramp. sampled: where imagination has
    # them, which is context_share at the context's level and the rest at the K levels it samples through, all weighed
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
    value_range: float = setting(20.0, above=0.0)  # the same of values
    readout: str = setting("latents", choices=("latents", "agent_tokens"))  # what the heads read
    # What the reward of a step is told from: the step; the one before it too (transition); the one before it and the
    # chunk taken there (action), which imagination knows best; or all three.
    reward_reads: str = setting("state", choices=("state", "transition", "action", "all"))
    # Dropout of the reward head while it learns; off in imagination.
    reward_dropout: float = setting(0.0, at_least=0.0, below=1.0)
    reward_members: int = setting(1, at_least=1)  # how many heads learn the reward alike; the least of them counts
    # The exponent of the focal loss of the policy; 0 is plain cross-entropy.
    focal_gamma: float = setting(0.0, at_least=0.0)
    # Above 0: heads on latents also read a trace of the actions before, which fades by this factor a step.
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


@dataclass(frozen=True)
class TrainConfig:
    """One phase's optimisation: linear warm-up, cosine decay to `final_rate` of the rate, EMA, clipping.

    optimizer: `adamw`, or `muon` for the matrices of the transformer's blocks and AdamW for all else.
    """

    # `adamw`, or `muon` for the blocks' matrices and AdamW for all else.
    optimizer: str = setting("adamw", choices=("adamw", "muon"))
    steps: int = setting(1000, at_least=1)  # optimiser steps of the phase
    batch_size: int = setting(16, at_least=1, at_most=2**20)  # crops of a batch; in phase 3 dreams
    accumulate: int = setting(1, at_least=1)  # batches whose gradients are added up to one step
    # Crops at once: a batch goes through in pieces, with the gradient of the whole. 0: as many as the memory allows.
    micro_batch: int = setting(0, at_least=0)
    # Whether the blocks' inputs alone are kept and the rest is computed again: less memory, slower.
    recompute: bool = False
    learning_rate: float = setting(3e-4, above=0.0)  # the highest learning rate
    final_rate: float = setting(0.1, at_least=0.0, at_most=1.0)  # the last learning rate over the highest
    warmup_steps: int = setting(50, at_least=0)  # steps until the learning rate is at its highest
    weight_decay: float = setting(0.01, at_least=0.0)  # decoupled weight decay
    clip_norm: float = setting(1.0, above=0.0)  # the largest norm of the gradient; a larger one is scaled down
    max_skipped: int = setting(20, at_least=1)  # steps in a row whose loss or gradient is not finite; then it stops
    ema_decay: float = setting(0.99, at_least=0.0, below=1.0)  # the decay of the averaged weights a step
    checkpoint_every: int = setting(200, at_least=1)  # steps between checkpoints
    log_every: int = setting(10, at_least=1)  # steps between lines of metrics


@dataclass(frozen=True)
class CloningConfig(TrainConfig):
    """Phase 2."""

    # Above 0: of the averaged heads those with the least held-out loss count, looked for at every twentieth of the
    # steps; and the phase ends after this share of its steps without better ones.
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
    merge_commit: str = setting("auto", choices=("auto", "on", "off"))
    # What one CUDA graph holds. auto: a step on a card; horizon: the whole rollout (slower to capture).
    capture: str = setting("auto", choices=("auto", "off", "step", "horizon"))


@dataclass(frozen=True)
class EvaluationConfig:
    """`eval`: closed loop in the real environment, open loop on held-out episodes."""

    episodes: int = setting(30, at_least=1)  # worlds that every policy plays
    max_steps: int = setting(300, at_least=1)  # actions until an episode is cut off
    # The first world; the recordings' worlds count from record.seed.
    seed: int = setting(1_000_000, at_least=0, at_most=SEED_MOST)
    execute: int = setting(0, at_least=0)  # actions of a chunk that are executed; 0 means the whole chunk
    workers: int = setting(0, at_least=0)  # processes that play; 0: one a core for Crafter, one for Minecraft
    crops: int = setting(64, at_least=1)  # held-out windows for the evaluation of the world model
    samples: int = setting(8, at_least=1)  # imagined futures of each window
    context: int = setting(4, at_least=1)  # real steps before the open loop
    # The Minecraft simulator; auto: what is installed.
    backend: str = setting("auto", choices=("auto", "minestudio", "minerl"))
    minerl_task: str = ""  # the `minerl` package's name of the task to play; empty: the one of data.env
    leave_out: tuple[str, ...] = ()  # action components kept at their no-op because the simulator has none of them
    task: int = setting(0, at_least=0)  # which TASK token acts, where dynamics.tasks is above 0
    bootstrap: int = setting(2000, at_least=100)  # resamples behind an interval


@dataclass(frozen=True)
class StudyConfig:
    """`study`: a recipe over seeds, with controls."""

    real_games: int = setting(32, at_least=1)  # games at once where the real game stands in place of the dream


@dataclass(frozen=True)
class Config:
    """All of it. `device` and `precision` are chosen once at start-up and printed."""

    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the seed of everything that training draws
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))  # where it runs; auto: a card where there is one
    # The arithmetic of training; auto: bf16 where the machine has instructions for it, else fp32.
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"))
    # Whether torch.compile lies under the training steps and the imagination. auto: on a card; on a CPU it takes a
    # minute or two a phase, which pays in runs that are longer than the demo.
    compile: str = setting("auto", choices=("auto", "on", "off"))
    memory_gb: float = setting(0.0, at_least=0.0)  # what a run may take, in GiB; 0: the card's own (no limit on a CPU)
    data: DataConfig = field(default_factory=DataConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    engines: EnginesConfig = field(default_factory=EnginesConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    forcing: ForcingConfig = field(default_factory=ForcingConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    tokenizer_fit: TokenizerFitConfig = field(default_factory=TokenizerFitConfig)
    decoder: TrainConfig = field(default_factory=TrainConfig)  # pooled latents -> frames, for pictures only
    phase1: TrainConfig = field(default_factory=TrainConfig)
    phase2: CloningConfig = field(default_factory=CloningConfig)
    phase3: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

    def __post_init__(self) -> None:
        dynamics, imagination = self.dynamics, self.imagination
        reach = imagination.start_context + imagination.horizon
        if dynamics.context == dynamics.window and reach > dynamics.window:
            raise ValueError(
                f"imagination.start_context + imagination.horizon is {reach}, past the trained window "
                f"{dynamics.window}: lower them, or train with dynamics.context below dynamics.window"
            )
        if self.sampling.short_window >= dynamics.window:
            raise ValueError(
                f"sampling.short_window {self.sampling.short_window} must be below dynamics.window {dynamics.window}; "
                "0 is for long crops alone"
            )
        if self.evaluation.context >= dynamics.window:
            raise ValueError(f"evaluation.context {self.evaluation.context} must be below the window {dynamics.window}")
        if self.heads.readout == "agent_tokens" and dynamics.agent_tokens == 0:
            raise ValueError("heads.readout is agent_tokens but dynamics.agent_tokens is 0")
        if imagination.merge_commit == "on" and self.heads.readout == "agent_tokens":
            raise ValueError(
                "imagination.merge_commit is on but heads.readout is agent_tokens, which are read at the commit: "
                "set it to auto"
            )
        if len(self.tasks.names) > 1 and dynamics.tasks:
            raise ValueError(
                f"dynamics.tasks is {dynamics.tasks}, but tasks.names names {len(self.tasks.names)} tasks, which have "
                "TASK tokens of their own: set dynamics.tasks to 0"
            )
        if 0 < self.task_count <= self.evaluation.task:
            raise ValueError(f"evaluation.task is {self.evaluation.task}; there are {self.task_count} tasks")
        if self.evaluation.execute > self.tokenizer.frames_per_latent:
            raise ValueError(
                f"evaluation.execute {self.evaluation.execute} exceeds the chunk of {self.tokenizer.frames_per_latent}"
            )

    @property
    def task_count(self) -> int:
        """TASK tokens: one a named task where there are several, else dynamics.tasks; 0 where nothing is told apart."""
        return len(self.tasks.names) if len(self.tasks.names) > 1 else self.dynamics.tasks


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a preset (`crafter`) or a YAML file, with overrides such as `phase1.steps=100` on top.

    A file may say `base: NAME_OR_PATH` to start from another one; a path there is relative to the file.

    Raises:
        UserError: for a missing or broken file, an unknown key, a wrong type, or a value out of bounds.
    """
    return read_settings(Config, name_or_path, overrides)

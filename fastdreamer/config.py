"""Every setting of FastDreamer, as frozen dataclasses that check their own bounds.

A configuration file is YAML with these groups as sections; `settings.py` reads, overrides, checks and hashes it.
Every default is explained where it is defined; sources are the Dreamer 4 paper (arXiv:2509.24527, "P" below).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastdreamer.settings import SEED_MOST, setting
from fastdreamer.shapes import LatentClock


@dataclass(frozen=True)
class DataConfig:
    """Where recordings and latents live. Empty paths mean inside the run directory."""

    env: str = setting(
        "crafter",
        choices=(
            "crafter", "minerl_treechop", "minerl_navigate", "minerl_obtain", "minerl_basalt", "minerl_vector", "vpt"
        ),
    )  # fmt: skip
    recordings: str = ""
    store: str = ""
    frame_size: int = setting(64, at_least=8, at_most=2**13)  # pixels a side of the recorded frames
    held_out: float = setting(0.1, above=0.0, at_most=0.5)  # fraction of episodes never trained on
    memory_limit_gb: float = setting(4.0, at_least=0.0)  # a larger store is memory-mapped instead of read
    # Where training keeps the latents; ram maps a store beyond memory_limit_gb. auto: the card up to card_limit_gb.
    resident: str = setting("auto", choices=("auto", "ram", "card"))
    card_limit_gb: float = setting(0.5, at_least=0.0)
    decoder: str = setting("auto", choices=("auto", "pyav", "nvdec"))  # auto: nvdec on a card with DALI, else pyav
    resampler: str = setting("auto", choices=("auto", "torch", "dali"))  # auto: dali on a card with DALI, else torch
    decode_threads: int = setting(0, at_least=0)  # episodes decoded at once; 0: one a core, at most 8
    max_damaged: float = setting(0.2, at_least=0.0, at_most=1.0)  # a larger share of damaged episodes stops `encode`
    check_metadata: bool = True  # refuse a recording whose metadata.json contradicts its video or its rewards
    skip_null: bool = False  # VPT: leave out frames at which nothing was done, as its own loader does


@dataclass(frozen=True)
class RecordConfig:
    """`record`: episodes of real play. `noise` is the expert's share of random actions (state coverage).

    With policy `expert`, `noisy_share` of the episodes are played with `noisy_noise` in its place, and `random_share`
    at random: a world model must have seen failures to imagine them.
    """

    policy: str = setting("expert", choices=("expert", "random"))
    episodes: int = setting(48, at_least=1)
    max_steps: int = setting(500, at_least=1)
    noise: float = setting(0.05, at_least=0.0, at_most=1.0)
    noisy_share: float = setting(0.0, at_least=0.0, at_most=1.0)
    noisy_noise: float = setting(0.5, at_least=0.0, at_most=1.0)
    random_share: float = setting(0.0, at_least=0.0, at_most=1.0)
    # Random actions of noisy and random play: uniform, or kinds of actions first (see `envs.mix.KIND_WEIGHTS`), which
    # tries the world more often: uniform play hardly ever does something to what stands in front of it.
    chance: str = setting("uniform", choices=("uniform", "kinds"))
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)

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

    weights: str = "embedded"
    frames_per_latent: int = setting(1, choices=(1, 2, 4, 8))
    window: int = setting(1, at_least=1)
    image_size: int = setting(
        64, at_least=8, at_most=2**13
    )  # frames are resampled (bicubic, a=-0.5) to this before the encoder
    pool: int = setting(2, choices=(1, 2, 4, 8))
    encoder_channels: tuple[int, ...] = (48, 80, 80)
    decoder_channels: tuple[int, ...] = (48, 64, 80)
    layers: int = setting(1, at_least=1, at_most=2**6)
    patch_size: int = setting(4, choices=(1, 2, 4))
    spatial_compression: int = setting(8, choices=(4, 8, 16))
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # of random weights
    trust_jit: bool = False  # load a .jit, which can run code that is in it

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

    # auto: the fastest engine that is installed for this machine, or eager where none is.
    backend: str = setting(
        "auto",
        choices=("auto", "eager", "inductor", "aot-inductor", "tensorrt_rtx", "tensorrt", "torch-tensorrt"),
    )
    precision: str = setting("auto", choices=("auto", "fp32", "fp16", "bf16"))  # auto: fp16 on a card, fp32 on a CPU
    batches: tuple[int, ...] = ()  # clips at once; empty: 1 and 4 on a CPU, 1, 4 and 16 on a card
    acting_frames: tuple[int, ...] = ()  # lengths served for one clip besides the whole window
    resample_inside: bool = False  # the engine takes uint8 frames of data.frame_size
    pool_inside: bool = False  # the engine returns pooled tokens
    channels_last: bool = False  # eager on a card in channels_last_3d
    directory: str = ""  # default: fastdreamer/engines in the user's cache
    memory_gb: float = setting(0.0, at_least=0.0)  # activations of one chunk; 0: 0.25 on a CPU, 2 on a card

    def __post_init__(self) -> None:
        if any(n < 1 for n in (*self.batches, *self.acting_frames)):
            raise ValueError("batches and acting_frames must be 1 or more")


@dataclass(frozen=True)
class SamplingConfig:
    """Which crops a batch holds; lengths and unlabelled video are phase 1's. Every batch has batch_size crops."""

    short_window: int = setting(0, at_least=0)  # steps of a short crop (P 3.4 alternates lengths); 0: long ones only
    long_every: int = setting(4, at_least=1)  # every how many batches one is of dynamics.window steps
    single_step: float = setting(0.0, at_least=0.0, below=1.0)  # share of batches of one step, its action masked
    # Share of the labelled crops that come from episodes drawn by their summed |reward|. Phases 1 (as recorded) and 2
    # (of the crop's own task).
    reward_weighted: float = setting(0.0, at_least=0.0, at_most=1.0)
    # Share of the labelled training episodes, the best by the task's return, whose actions phase 2 clones ("%BC", Chen
    # et al. 2021, arXiv:2106.01345). Of the others it learns what the world pays, not what to do.
    clone_top: float = setting(1.0, above=0.0, at_most=1.0)
    clone_by: str = ""  # the name of the task by whose return they are the best; empty: the task that is trained
    # Share of the crops from video without actions, where the store has video with them too.
    unlabelled: float = setting(0.5, at_least=0.0, at_most=1.0)
    # Batches made ahead by a thread, for a card that reads from host memory and for a memory-mapped store; 0: none. A
    # draw from RAM is a fraction of a millisecond, so on a CPU the thread would only contend with the step.
    prefetch: int = setting(2, at_least=0)

    def __post_init__(self) -> None:
        if self.short_window == 1:
            raise ValueError("short_window is 1: crops of one step are sampling.single_step's; set it to 0, or 2 up")


@dataclass(frozen=True)
class TasksConfig:
    """What phases 2 and 3 train for: names of `data.tasks` (`reward`, `unlocks`, `first:COUNTER`, a counter's name).

    Rewards come from what the latent store counts, so that other tasks need no encoding and no phase 1. Empty: the
    recorded reward, without a name. Two or more are trained in equal shares; a learned TASK token tells them apart.
    """

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice or not all(self.names):
            raise ValueError(f"names has {twice[0]} twice" if twice else "names has an empty name")


@dataclass(frozen=True)
class DynamicsConfig:
    """The block-causal transformer (P 3.4). `context` < `window` makes time attention a band of that width."""

    dim: int = setting(128, at_least=8, at_most=2**16)
    layers: int = setting(4, at_least=1, at_most=2**10)
    heads: int = setting(4, at_least=1)
    kv_heads: int = setting(2, at_least=1)
    mlp_ratio: float = setting(2.667, above=0.0)
    time_every: int = setting(4, at_least=1)  # every how many layers one attends over time, the first of all included
    registers: int = setting(4, at_least=0)
    window: int = setting(16, at_least=2)  # W: training sequence length in latent steps
    context: int = setting(16, at_least=1)  # C: how far time attention reaches, in latent steps
    soft_cap: float = setting(0.0, at_least=0.0)  # attention logit soft-cap; 0 is off
    agent_tokens: int = setting(0, at_least=0)  # read everything, are read by nothing
    # Spatial tokens of a step: 16, or neighbours of the 4x4 grid together, which costs less a step.
    spatial_tokens: int = setting(16, choices=(1, 4, 16))
    linear_start: bool = False  # the network predicts what a ridge regression from the step before leaves
    # Above 0: a learned TASK token for each of that many folders of recordings. Tasks with names need none: `tasks`.
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

    finest_steps: int = setting(64, choices=(2, 4, 8, 16, 32, 64, 128))  # K_max; d_min = 1 / K_max
    sample_steps: int = setting(4, choices=(1, 2, 4, 8, 16, 32, 64))  # K: steps of d = 1/K from noise
    boot_fraction: float = setting(0.25, at_least=0.0, at_most=1.0)  # share of sequences trained as bootstrap
    boot_warmup: float = setting(0.1, at_least=0.0, at_most=1.0)  # share of the run before any bootstrap
    # Where training puts its steps. grid: all of tau's levels, weighed by P's ramp. sampled: where imagination has
    # them: context_share at the context's level, the rest at the K levels it samples through, all weighed alike.
    levels: str = setting("grid", choices=("grid", "sampled"))
    context_share: float = setting(0.75, at_least=0.0, below=1.0)
    context_signal: float = setting(0.9, above=0.0, at_most=1.0)  # signal level of context, snapped to the grid

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

    hidden: int = setting(256, at_least=1, at_most=2**16)
    layers: int = setting(2, at_least=1, at_most=2**10)
    bins: int = setting(255, at_least=3, at_most=2**16)
    reward_range: float = setting(20.0, above=0.0)  # r: bins are symexp(linspace(-r, r))
    value_range: float = setting(20.0, above=0.0)
    readout: str = setting("latents", choices=("latents", "agent_tokens"))
    # What the reward of a step is told from: the step; the one before it too (transition); the one before it and the
    # chunk taken there (action), which imagination knows best; or all three.
    reward_reads: str = setting("state", choices=("state", "transition", "action", "all"))
    reward_dropout: float = setting(0.0, at_least=0.0, below=1.0)  # while it learns; off in imagination
    reward_members: int = setting(1, at_least=1)  # heads that learn the reward alike; the least of them counts
    focal_gamma: float = setting(0.0, at_least=0.0)  # 0 is plain cross-entropy
    # Above 0: heads on latents also read a trace of the actions before, which fades by this factor a step.
    history: float = setting(0.0, at_least=0.0, below=1.0)
    input_noise: float = setting(0.0, at_least=0.0)  # spread of the noise on the latents that heads learn from
    policy_dropout: float = setting(0.0, at_least=0.0, below=1.0)  # while cloning; off in imagination
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

    optimizer: str = setting("adamw", choices=("adamw", "muon"))
    steps: int = setting(1000, at_least=1)
    batch_size: int = setting(16, at_least=1, at_most=2**20)
    accumulate: int = setting(1, at_least=1)
    # Crops at once: a batch goes through in pieces, with the gradient of the whole. 0: as many as the memory allows.
    micro_batch: int = setting(0, at_least=0)
    recompute: bool = False  # keep the transformer blocks' inputs alone and compute the rest again: less memory, slower
    learning_rate: float = setting(3e-4, above=0.0)
    final_rate: float = setting(0.1, at_least=0.0, at_most=1.0)
    warmup_steps: int = setting(50, at_least=0)
    weight_decay: float = setting(0.01, at_least=0.0)
    clip_norm: float = setting(1.0, above=0.0)
    max_skipped: int = setting(20, at_least=1)  # steps in a row whose loss or gradient is not finite; then it stops
    ema_decay: float = setting(0.99, at_least=0.0, below=1.0)
    checkpoint_every: int = setting(200, at_least=1)
    log_every: int = setting(10, at_least=1)


@dataclass(frozen=True)
class CloningConfig(TrainConfig):
    """Phase 2."""

    # Above 0: of the averaged heads those with the least held-out loss count, looked for at every twentieth of the
    # steps; and the phase ends after this share of its steps without better ones.
    patience: float = setting(0.0, at_least=0.0, at_most=1.0)


@dataclass(frozen=True)
class TokenizerFitConfig(TrainConfig):
    """`fit-tokenizer`. Single frames: the encoder first, then the convolutional decoder on the finished encoder."""

    encoder_share: float = setting(0.5, above=0.0, below=1.0)  # of the steps; longer clips fit both together


@dataclass(frozen=True)
class ImaginationConfig:
    """Phase 3: rollouts and PMPO (P 3.3, Eq. 9-11). Rates are a frame for gamma, a latent step for lambda."""

    horizon: int = setting(15, at_least=1)  # H, latent steps
    start_context: int = setting(1, at_least=1)  # real latent steps before the rollout
    gamma: float = setting(0.997, above=0.0, at_most=1.0)
    lambda_: float = setting(0.95, at_least=0.0, at_most=1.0)
    alpha: float = setting(0.5, at_least=0.0, at_most=1.0)  # weight of the D+ set
    beta: float = setting(0.3, at_least=0.0)  # prior KL
    # Value-only steps that open the phase: so many, and then more until the critic fits the policy that plays, which is
    # where the running mean of the advantages is at most critic_bias of their RMS (0: at once), for half of the phase.
    critic_steps: int = setting(0, at_least=0)
    critic_bias: float = setting(0.0, at_least=0.0, at_most=1.0)
    value_rate: float = setting(1.0, above=0.0)  # the value head's learning rate, times phase3's
    target_decay: float = setting(
        0.0, at_least=0.0, below=1.0
    )  # of the averaged value head that returns start from; 0: none
    # Commit a step with the first denoising pass of the next: K passes a step, not K + 1. auto: where the policy reads
    # latents. Compared with the plain order, in fp32, before it is used.
    merge_commit: str = setting("auto", choices=("auto", "on", "off"))
    # What one CUDA graph holds. auto: a step on a card; horizon: the whole rollout (slower to capture).
    capture: str = setting("auto", choices=("auto", "off", "step", "horizon"))


@dataclass(frozen=True)
class EvaluationConfig:
    """`eval`: closed loop in the real environment, open loop on held-out episodes."""

    episodes: int = setting(30, at_least=1)
    max_steps: int = setting(300, at_least=1)
    seed: int = setting(1_000_000, at_least=0, at_most=SEED_MOST)  # worlds; recordings count from record.seed
    execute: int = setting(0, at_least=0)  # actions of a chunk that are executed; 0 means the whole chunk
    workers: int = setting(0, at_least=0)  # processes; 0: one a core for Crafter, one for Minecraft
    crops: int = setting(64, at_least=1)  # held-out windows for the world-model evaluation
    samples: int = setting(8, at_least=1)
    context: int = setting(4, at_least=1)  # real steps before the open loop
    backend: str = setting("auto", choices=("auto", "minestudio", "minerl"))  # Minecraft; auto: what is installed
    minerl_task: str = ""  # the `minerl` package's name of the task to play; empty: the one of data.env
    leave_out: tuple[str, ...] = ()  # action components kept at their no-op because the simulator has none of them
    task: int = setting(0, at_least=0)  # which TASK token acts, where dynamics.tasks is above 0
    bootstrap: int = setting(2000, at_least=100)


@dataclass(frozen=True)
class StudyConfig:
    """`study`: a recipe over seeds, with controls."""

    real_games: int = setting(32, at_least=1)  # games at once where the real game stands in place of the dream


@dataclass(frozen=True)
class Config:
    """All of it. `device` and `precision` are chosen once at start-up and printed."""

    seed: int = setting(0, at_least=0, at_most=SEED_MOST)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"))
    # torch.compile under the training steps and the imagination. auto: on a card; on a CPU it takes a minute or two a
    # phase, which pays in runs that are longer than the demo.
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

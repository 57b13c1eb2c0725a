"""Settings of recordings: where they and their latents lie, how they are read, and how play is recorded."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import SEED_MOST, setting


@dataclass(frozen=True)
class DataConfig:
    """Folders of recordings and latents, and how they are read. Empty paths mean inside the run directory."""

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
    # A store larger than so many GiB stays on disk: what is in it is read when used.
    memory_limit_gb: float = setting(4.0, at_least=0.0, free="always")
    # The home of latents in training; ram is the disk beyond memory_limit_gb, auto is the GPU up to card_limit_gb.
    resident: str = setting("auto", choices=("auto", "ram", "card"), free="always")
    # GiB of latents that auto puts on the GPU at most.
    card_limit_gb: float = setting(0.5, at_least=0.0, free="always")
    # What decodes videos; auto: nvdec on a GPU with DALI, else pyav.
    decoder: str = setting("auto", choices=("auto", "pyav", "nvdec"), free="always")
    # What resamples frames; auto: dali on a GPU with DALI, else torch.
    resampler: str = setting("auto", choices=("auto", "torch", "dali"), free="always")
    # Episodes that are decoded at once; 0: one a core, at most 8.
    decode_threads: int = setting(0, at_least=0, free="always")
    # A larger share of damaged episodes stops `encode`.
    max_damaged: float = setting(0.2, at_least=0.0, at_most=1.0, free="always")
    # Whether a recording is refused whose metadata.json contradicts its video or its rewards.
    check_metadata: bool = setting(True, free="always")
    skip_null: bool = False  # whether frames of VPT at which nothing was done are left out, as its own loader does


@dataclass(frozen=True)
class RecordConfig:
    """`record`: episodes of real play. `noise` is the expert's share of random actions (state coverage).

    With policy `expert`, `noisy_share` of the episodes are played with `noisy_noise` in its place, and `random_share`
    at random: a world model must have seen failures to imagine them.
    """

    policy: str = setting("expert", choices=("expert", "random", "human"))  # who plays
    episodes: int = setting(48, at_least=1)  # how many episodes are recorded, one world each
    max_steps: int = setting(500, at_least=1)  # actions until an episode is cut off
    noise: float = setting(0.05, at_least=0.0, at_most=1.0)  # the expert's share of random actions
    # The share of the episodes that the expert plays with noisy_noise.
    noisy_share: float = setting(0.0, at_least=0.0, at_most=1.0)
    noisy_noise: float = setting(0.5, at_least=0.0, at_most=1.0)  # the expert's share of random actions in those
    random_share: float = setting(0.0, at_least=0.0, at_most=1.0)  # the share of the episodes that is played at random
    # How random actions of noisy and random play are drawn: uniform, or kinds of actions first (see
    # `envs.mix.KIND_WEIGHTS`), which tries the world more often: uniform play hardly ever does something to what stands
    # in front of it; held: kinds, kept up for some steps and often nothing at all, as a person plays.
    chance: str = setting("uniform", choices=("uniform", "kinds", "held"))
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the first episode's world; later ones count up

    def __post_init__(self) -> None:
        shares = self.noisy_share + self.random_share
        if shares > 1:
            raise ValueError(f"noisy_share and random_share are {shares:g} together; they must be at most 1")
        if shares and self.policy == "random":
            raise ValueError(f"policy is {self.policy}: noisy_share and random_share are shares of the expert's worlds")

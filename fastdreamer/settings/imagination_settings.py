"""Settings of training in imagination."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import setting


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

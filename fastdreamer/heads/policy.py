"""The policy: independent categorical distributions over every (position in the chunk, action component)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import HeadsConfig
from fastdreamer.heads.mlp import MLP


class Policy(nn.Module):
    """pi(chunk | state). Logits are (b, c, sum of sizes); each component owns a slice of the last axis."""

    def __init__(self, config: HeadsConfig, inputs: int, chunk: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.chunk, self.sizes = chunk, sizes
        self.net = MLP(inputs, config.hidden, config.layers, chunk * sum(sizes), config.policy_dropout)

    def forward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b c a"]:
        """Logits of the next chunk, in fp32."""
        return self.net(features).float().unflatten(-1, (self.chunk, sum(self.sizes)))

    def log_softmax(self, logits: Float[Tensor, "*b c a"]) -> tuple[Tensor, ...]:
        """Log-probabilities, a tensor (*b, c, size) a component."""
        return tuple(F.log_softmax(part, -1) for part in logits.split(self.sizes, -1))

    def log_prob(self, logits: Float[Tensor, "*b c a"], actions: Int[Tensor, "*b c k"]) -> Float[Tensor, "*b c k"]:
        """Log-probability of each component of each position."""
        parts = self.log_softmax(logits)
        return torch.stack([p.gather(-1, actions[..., i : i + 1]).squeeze(-1) for i, p in enumerate(parts)], -1)

    def entropy(self, logits: Float[Tensor, "*b c a"]) -> Float[Tensor, "*b"]:
        """Entropy summed over positions and components, in nats."""
        return torch.stack([-(p.exp() * p).sum((-2, -1)) for p in self.log_softmax(logits)], -1).sum(-1)

    def kl(self, logits: Float[Tensor, "*b c a"], prior: Float[Tensor, "*b c a"]) -> Float[Tensor, "*b"]:
        """KL[pi || prior] in closed form, summed over positions and components.

        A one-sample estimate would have zero expected gradient where it matters, so it is never sampled.
        """
        pairs = zip(self.log_softmax(logits), self.log_softmax(prior), strict=True)
        return torch.stack([(p.exp() * (p - q)).sum((-2, -1)) for p, q in pairs], -1).sum(-1)

    def act(
        self, logits: Float[Tensor, "*b c a"], greedy: bool = False, generator: torch.Generator | None = None
    ) -> Int[Tensor, "*b c k"]:
        """Samples (or takes the mode of) every component."""
        if greedy:
            return self.choose(logits)
        device = logits.device if generator is None else generator.device
        return self.choose(logits, torch.rand(logits.shape, generator=generator, device=device).to(logits.device))

    def choose(
        self, logits: Float[Tensor, "*b c a"], uniform: Float[Tensor, "*b c a"] | None = None
    ) -> Int[Tensor, "*b c k"]:
        """The mode of every component, or with `uniform` in [0, 1) a sample: the Gumbel trick, without a host sync."""
        if uniform is not None:
            logits = logits - torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return torch.stack([part.argmax(-1) for part in logits.split(self.sizes, -1)], -1)


def cloning_loss(
    policy: Policy,
    logits: Float[Tensor, "*b c a"],
    actions: Int[Tensor, "*b c k"],
    valid: Bool[Tensor, "*b c"],
    shares: Float[Tensor, "*b"],
    focal_gamma: float = 0.0,
) -> Tensor:
    """Cross-entropy of every valid (position, component), summed over both; summed over states, each times its share.

    `focal_gamma` > 0 weighs each term by (1 - p)^gamma (Lin et al. 2017, arXiv:1708.02002).
    """
    log_prob = policy.log_prob(logits, actions)
    if focal_gamma:
        log_prob = log_prob * (1 - log_prob.exp()).pow(focal_gamma)
    per_state = -(log_prob * valid.unsqueeze(-1)).sum((-2, -1))
    return (per_state * shares).sum()

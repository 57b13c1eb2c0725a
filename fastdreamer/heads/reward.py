"""Scalar heads on symexp two-hot bins (reward, value) and the Bernoulli continuation head.

Source: DreamerV3 (arXiv:2301.04104), Eq. 9-10, with interpolation in raw space (see fastdreamer_kernels).
"""

from __future__ import annotations

import torch
from fastdreamer_kernels import padded, symexp_bins, two_hot_decode, two_hot_loss
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.config import HeadsConfig
from fastdreamer.heads.mlp import MLP


class TwoHotHead(nn.Module):
    """Predicts a scalar as a categorical over symexp bins within +-symexp(limit).

    Its last layer is padded to a multiple of 8 columns, so that rows of logits are aligned for the kernels; the bins
    are the first `config.bins` of them.

    Several `members` are trained alike from starts of their own and read as the least of them: where recordings do not
    say what a state pays they disagree, and a policy that seeks the greatest reward ends up exactly there.
    Source of the pessimism: MOPO (arXiv:2005.13239); of the least of several: TD3 (arXiv:1802.09477).
    """

    centres: Tensor

    def __init__(self, config: HeadsConfig, inputs: int, limit: float, dropout: float = 0.0, members: int = 1) -> None:
        super().__init__()
        nets = [MLP(inputs, config.hidden, config.layers, padded(config.bins), dropout) for _ in range(members)]
        self.net, self.others = nets[0], nn.ModuleList(nets[1:])
        self.register_buffer("centres", symexp_bins(config.bins, limit), persistent=False)

    def forward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*m cols"]:
        """Logits over the bins, and padding, in the type that autocast gives: the two-hot operations sum in fp32.

        `*m` is `*b`, with the members behind where there are several.
        """
        out: Tensor = self.net(features)
        return torch.stack([out, *(net(features) for net in self.others)], -2) if self.others else out

    @property
    def is_trained(self) -> bool:
        """Whether it has ever learned: its output starts as zeros and stays so without a target."""
        return bool(self.net.out.weight.any())

    def decode(self, logits: Float[Tensor, "*m cols"]) -> Float[Tensor, "*b"]:
        """The expected scalar; the least of its members' where there are several."""
        expected = two_hot_decode(logits, self.centres)
        return expected.amin(-1) if self.others else expected

    def loss(
        self,
        logits: Float[Tensor, "*m cols"],
        targets: Float[Tensor, "*b"],
        shares: Float[Tensor, "*b"],
    ) -> Tensor:
        """Cross-entropy summed over rows, each times its share (see `shares_of`); the mean over members.

        Whatever scales the loss belongs into the shares: a row's incoming gradient is then 1, and the backward pass of
        the kernel has nothing to do.
        """
        if self.others:
            targets, shares = (x[..., None].expand(logits.shape[:-1]) for x in (targets, shares / logits.shape[-2]))
        return two_hot_loss(logits, targets, self.centres, shares).sum()


def shares_of(weights: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Weights that sum to 1, for a weighted mean; all 0 where no row counts."""
    return weights / weights.sum().clamp(min=1e-6)


class Continuation(nn.Module):
    """P(the episode goes on after arriving here)."""

    def __init__(self, config: HeadsConfig, inputs: int) -> None:
        super().__init__()
        self.net = MLP(inputs, config.hidden, config.layers, 1)

    def forward(self, features: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """Logits of continuing, in fp32."""
        out: Tensor = self.net(features).float().squeeze(-1)
        return out


def continuation_loss(
    logits: Float[Tensor, "*b"], continues: Float[Tensor, "*b"], shares: Float[Tensor, "*b"]
) -> Tensor:
    """Binary cross-entropy summed over steps, each times its share."""
    return (F.binary_cross_entropy_with_logits(logits, continues, reduction="none") * shares).sum()

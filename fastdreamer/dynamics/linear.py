"""The linear start: what a ridge regression from the step before and the action says of a step, and how sure it is.

Let mu be the linear prediction of a clean latent and s2 the variance of what is left. Seen through noise,
z~ = (1 - tau) z0 + tau z with z ~ N(mu, s2) has the posterior mean mu + k (z~ - tau mu), k = tau s2 / v, and the
posterior variance (1 - tau)^2 s2 / v, where v = (1 - tau)^2 + tau^2 s2. The network predicts what is left in units of
that posterior's spread, so a network that says 0 is the exact denoiser of the linear model, and training begins there.

The step before is itself seen through noise; under the normalised latents' own prior N(0, 1) its estimate is
x = tau z~ / (tau^2 + (1 - tau)^2), right to a share rho = tau^2 / (tau^2 + (1 - tau)^2), and s2 widens to
rho s2 + 1 - rho. A step without a past has rho = 0: the prior itself.
Source: ours; the posterior of a linear Gaussian model (Bishop 2006, section 2.3.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.shapes import CHANNELS, TOKENS

WIDTH = TOKENS * CHANNELS
MATRIX_CHOICES = 32
"""Most choices of an action that have a matrix each; where there are more, they shift the prediction alone."""
RIDGE = 100.0
"""Penalty of the latents' weights, in squared normalised latents: as many samples as it says pull half-way."""
SHIFT_RIDGE = 20.0
"""Penalty of constants and shifts."""
LEAST_VARIANCE = 1e-4


@dataclass(frozen=True)
class Prediction:
    """What the linear model says of a step before its own noisy latents are looked at."""

    mean: Float[Tensor, "b l n z"]
    variance: Float[Tensor, "b l n z"]

    def posterior(
        self, noisy: Float[Tensor, "b l n z"], tau: Float[Tensor, "b l 1 1"]
    ) -> tuple[Float[Tensor, "b l n z"], Float[Tensor, "b l n z"]]:
        """Mean and standard deviation of the clean latents given the noisy ones at signal level tau."""
        total = (1 - tau).square() + tau.square() * self.variance
        mean = self.mean + tau * self.variance / total * (noisy - tau * self.mean)
        return mean, (1 - tau) * (self.variance / total).sqrt()


class LinearDynamics(nn.Module):
    """z_t = x + W x + b + (a matrix and a shift of the action), x being the step before; buffers alone, nothing trains.

    Args:
        choices: entries of an action's multi-hot (chunk times the sum of the components' sizes).
        has_matrices: whether each choice has a matrix of its own, or a shift alone.
    """

    weight: Tensor
    variance: Tensor

    def __init__(self, choices: int, has_matrices: bool) -> None:
        super().__init__()
        self.choices, self.has_matrices = choices, has_matrices
        rows = (choices + 1) * (WIDTH + 1) if has_matrices else WIDTH + 1 + choices
        self.register_buffer("weight", torch.zeros(rows, WIDTH))
        self.register_buffer("variance", torch.ones(TOKENS, CHANNELS))

    def forward(
        self,
        before: Float[Tensor, "b l n z"],
        tau: Float[Tensor, "b l"],
        action: Float[Tensor, "b l h"],
    ) -> Prediction:
        """Predict every step.

        Args:
            before: the step before each, as noisy as it is known; anything where tau is 0.
            tau: its signal level; 0 where there is none.
            action: multi-hot of the chunk that leads into each step; zeros where it is unknown.
        """
        with torch.autocast(before.device.type, enabled=False):
            tau, action = tau.float()[..., None, None], action.float()
            power = tau.square() + (1 - tau).square()
            x = (before * (tau / power)).flatten(2)
            features = self.features(x)
            left = features @ self.weight[: WIDTH + 1]
            if self.has_matrices:
                each = features @ self.weight[WIDTH + 1 :].view(self.choices, WIDTH + 1, -1).transpose(0, 1).flatten(1)
                left = left + (action[..., None, :] @ each.unflatten(-1, (self.choices, WIDTH))).squeeze(-2)
            else:
                left = left + action @ self.weight[WIDTH + 1 :]
            rho = tau.square() / power
            mean = (x + left).unflatten(-1, (TOKENS, CHANNELS))
            return Prediction(mean, rho * self.variance + 1 - rho)

    @staticmethod
    def features(x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b w1"]:
        """The latents and a constant, side by side."""
        return torch.cat([x, torch.ones_like(x[..., :1])], -1)

    @torch.no_grad()
    def fit(self, transitions: Iterable[Transitions]) -> int:
        """Ridge regression by streaming normal equations: each transition is read once; returns how many there were.

        Matrices are fitted to what the common one leaves, so that a rare choice stays near it.
        """
        sums = Sums(self.choices, self.has_matrices)
        for some in transitions:
            sums.add(some)
        weight, variance = sums.solve()
        self.weight.copy_(weight)
        self.variance.copy_(variance.view(TOKENS, CHANNELS).clamp(min=LEAST_VARIANCE))
        return sums.count


@dataclass(frozen=True)
class Transitions:
    """Pairs of neighbouring steps: normalised latents, and the multi-hot of the action between them."""

    before: Float[Tensor, "m w"]
    after: Float[Tensor, "m w"]
    action: Float[Tensor, "m h"]


class Sums:
    """The normal equations' sums, in fp64: of all transitions, and with matrices of each choice's own."""

    def __init__(self, choices: int, has_matrices: bool) -> None:
        self.has_matrices, self.count = has_matrices, 0
        width = WIDTH + 1 + (0 if has_matrices else choices)
        groups = choices + 1 if has_matrices else 1
        self.gram = torch.zeros(groups, width, width, dtype=torch.float64)
        self.cross = torch.zeros(groups, width, WIDTH, dtype=torch.float64)
        self.square = torch.zeros(groups, WIDTH, dtype=torch.float64)

    def add(self, some: Transitions) -> None:
        """Adds transitions to the sums."""
        self.count += len(some.before)
        x = LinearDynamics.features(some.before.double())
        y, action = some.after.double() - some.before.double(), some.action.double()
        if not self.has_matrices:
            x = torch.cat([x, action], -1)
        self._add(0, x, y)
        if self.has_matrices:
            for choice in range(action.shape[1]):
                rows = action[:, choice].nonzero()[:, 0]
                if len(rows):
                    self._add(choice + 1, x[rows], y[rows])

    def _add(self, group: int, x: Tensor, y: Tensor) -> None:
        self.gram[group] += x.T @ x
        self.cross[group] += x.T @ y
        self.square[group] += y.square().sum(0)

    def solve(self) -> tuple[Float[Tensor, "r w"], Float[Tensor, " w"]]:
        """All weights, one below the other, and the variance of what they leave."""
        penalty = torch.full(self.gram.shape[1:2], SHIFT_RIDGE, dtype=torch.float64)
        penalty[:WIDTH] = RIDGE
        penalty = penalty.diag()
        common = torch.linalg.solve(self.gram[0] + penalty, self.cross[0])
        weights, left = [common], self._left(0, common)
        for group in range(1, len(self.gram)):
            own = torch.linalg.solve(self.gram[group] + penalty, self.cross[group] - self.gram[group] @ common)
            left = left - self._left(group, common) + self._left(group, common + own)
            weights.append(own)
        return torch.cat(weights).float(), (left / max(1, self.count)).clamp(min=0).float()

    def _left(self, group: int, weight: Tensor) -> Tensor:
        """Sum of squares that a weight leaves."""
        explained = (weight * (2 * self.cross[group] - self.gram[group] @ weight)).sum(0)
        return self.square[group] - explained

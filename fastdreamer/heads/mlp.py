"""The trunk every head shares in shape: RMSNorm'd SiLU layers, and an output layer that starts at zero."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.dynamics.norm import RMSNorm


class MLP(nn.Module):
    """`layers` hidden layers of width `hidden`, then a linear output whose weights start at zero.

    A zero output makes the first policy uniform and the first reward and value exactly 0 (DreamerV3, section "Critic
    learning"), so that no head starts by exploiting its own random initialisation.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for i in range(layers):
            stack += [nn.Linear(inputs if i == 0 else hidden, hidden), RMSNorm(hidden), nn.SiLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*stack)
        self.out = nn.Linear(hidden if layers else inputs, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        out: Tensor = self.out(self.hidden(x))
        return out

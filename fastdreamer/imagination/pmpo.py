"""PMPO: the policy objective that needs only the sign of the advantage.

Source: Dreamer 4 (arXiv:2509.24527), Eq. 11; Abdolmaleki et al. 2024, arXiv:2410.04166. The plan's -(A log pi) is the
special case without the separate means and the prior; those are kept because without them the larger set dominates
and the policy leaves the data.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pmpo_loss(
    log_prob: Float[Tensor, "*b"],
    advantage: Float[Tensor, "*b"],
    kl_prior: Float[Tensor, "*b"],
    weight: Float[Tensor, "*b"],
    alpha: float = 0.5,
    beta: float = 0.3,
) -> dict[str, Tensor]:
    """(1-alpha) mean_{D-} ln pi - alpha mean_{D+} ln pi + beta mean KL, D+ = {A >= 0}.

    Each set is averaged separately, so their sizes do not matter; an empty set contributes 0.

    Args:
        log_prob: ln pi of the whole chunk.
        advantage: only its sign counts.
        kl_prior: KL[pi || prior], closed form.
        weight: probability that the imagined step is before the episode's end.
        alpha: weight of the positive set.
        beta: weight of the prior.

    Returns:
        `policy` (the objective), `positive`, `negative`, `prior` (its three terms, unscaled).
    """
    is_positive = (advantage >= 0).to(log_prob.dtype)

    def mean(values: Tensor, members: Tensor) -> Tensor:
        share = members * weight
        return (values * share).sum() / share.sum().clamp(min=1e-8)

    positive, negative = mean(log_prob, is_positive), mean(log_prob, 1 - is_positive)
    prior = (kl_prior * weight).sum() / weight.sum().clamp(min=1e-8)
    policy = (1 - alpha) * negative - alpha * positive + beta * prior
    return {"policy": policy, "positive": positive, "negative": negative, "prior": prior}

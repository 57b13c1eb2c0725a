"""The limits of what is healthy, as checks of plain figures: the training loop and `diagnose` ask the same questions.

Sources: the limits named in the Dreamer 4 plan's debugging tables; entropy is in nats a frame, summed over the
components of an action.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from fastdreamer.health.checks import Check, check
from fastdreamer.system.advice import command

EXPLODING, VANISHING = 100.0, 1e-6
COLLAPSED, CERTAIN = 0.1, 1.0  # nats a frame
FEW = 10  # steps in D+ and in D-
FLAT = 0.02  # a loss that fell by less than this share of its start
SPIKE = 5.0  # times the median around it
WAITING, STARVED = 0.05, 0.25
CONSTANT = 0.01
FAR = 1.0  # nats a frame from the cloned policy
ONE_SIDED = 0.9
AGREEING, TELLING = 0.4, 0.2  # correlation of advantages, real against imagined; reliability of the real ones
HONEST = (0.7, 1.4)  # imagined over real reward
MISJUDGED = 1.5  # times the reward that is paid where the policy goes
FALSE_REWARD, MUCH = 0.1, 0.5  # predicted an episode where nothing is paid; a reward is 1 or so


def section(phase: int) -> str:
    """The settings of a phase; 0 is the pixel decoder."""
    return f"phase{phase}" if phase else "decoder"


def finite(phase: int, loss: float) -> Check:
    """Check that a loss is finite."""
    return check(
        "loss", "loss", f"{loss:.4g}", "a finite number",
        f"lower {section(phase)}.learning_rate, and check the inputs with: {command('inspect')}",
        red=not math.isfinite(loss),
    )  # fmt: skip


def skipped_steps(phase: int, count: int, limit: int) -> Check:
    """Check how many steps were left out because their loss or gradient was not finite."""
    return check(
        "gradient", "skipped steps", str(count), "0",
        f"lower {section(phase)}.learning_rate; {limit} in a row stop the run",
        red=count >= limit, amber=count > 0,
    )  # fmt: skip


def gradient_norm(phase: int, norm: float) -> Check:
    """Check the gradient's norm before clipping."""
    is_large, is_small = not norm <= EXPLODING, norm < VANISHING
    remedy = (
        f"lower {section(phase)}.learning_rate or {section(phase)}.clip_norm"
        if is_large
        else "nothing is learned: check that what should train requires gradients (the rows of group models)"
    )
    return check(
        "gradient", "gradient norm", f"{norm:.3g}", f"{VANISHING:g} to {EXPLODING:g}", remedy, red=is_large or is_small
    )


def loss_curve(phase: int, losses: Sequence[float]) -> Check:
    """Check that the logged losses, in order, are neither flat nor spiking."""
    name, expected = "loss curve", "falls, without spikes"
    known = [loss for loss in losses if math.isfinite(loss)]
    if len(known) < 12:
        return Check("loss", name, f"{len(known)} logged steps", expected, "too early")
    third = len(known) // 3
    first, last = statistics.median(known[:third]), statistics.median(known[-third:])
    spikes = sum(
        value > SPIKE * statistics.median(known[max(0, i - 5) : i + 6])
        for i, value in enumerate(known[third:], start=third)
    )
    fallen = (first - last) / abs(first) if first else 0.0
    if spikes:
        return check(
            "loss", name, f"{spikes} spikes", expected,
            f"lower phase{phase}.learning_rate or raise phase{phase}.warmup_steps", amber=spikes < 3, red=spikes >= 3,
        )  # fmt: skip
    return check(
        "loss", name, f"fell by {fallen:.1%}", expected,
        f"it does not learn: raise phase{phase}.learning_rate, and see the rows of group models", red=fallen < FLAT,
    )  # fmt: skip


def wait_share(share: float, phase: int = 1) -> Check:
    """Check the share of a step's time that went by waiting for batches."""
    return check(
        "data", "waiting for data", f"{share:.1%} of a step", f"at most {WAITING:.0%}",
        "raise sampling.prefetch or data.memory_limit_gb, or put the store on a faster disk; where it waits is shown "
        f"by: {command('profile', phase=max(phase, 1), tool='pyspy')}",
        of=(share,), red=share > STARVED, amber=share > WAITING,
    )  # fmt: skip


def cloning_accuracy(accuracy: float, majority: float, step: int) -> Check:
    """Check the mean accuracy over the components against always naming each component's commonest choice."""
    name, value, expected = "bc accuracy", f"{accuracy:.1%}", f"above the commonest choice's {majority:.1%}"
    if step < 100:
        return Check("policy", name, f"{value} at step {step}", expected, "too early")
    return check(
        "policy", name, value, expected,
        "the policy does not look at the frame: train longer, raise phase2.learning_rate, or heads.focal_gamma where "
        "one action dominates", of=(accuracy, majority),
        red=step >= 1000 and accuracy < 0.05, amber=accuracy <= majority,
    )  # fmt: skip


def policy_entropy(phase: int, nats: float) -> Check:
    """Check the policy's entropy in nats a frame, summed over components."""
    remedy = (
        "the policy is collapsing: raise heads.policy_dropout or heads.focal_gamma, or train fewer steps of phase 2"
        if phase == 2
        else "the policy converges too early: raise imagination.beta, or lower phase3.learning_rate"
    )
    return check(
        "policy", "policy entropy", f"{nats:.2f} nats a frame", f"above {CERTAIN:g}", remedy,
        of=(nats,), red=nats < COLLAPSED, amber=phase == 2 and nats < CERTAIN,
    )  # fmt: skip


def reward_spread(spread: float, recorded: float) -> Check:
    """Check the standard deviation of the predicted rewards beside that of the recorded ones."""
    return check(
        "reward", "spread of predicted rewards", f"{spread:.3g}", f"at least {CONSTANT:g} (recorded {recorded:.3g})",
        "the reward head gives one answer for all: train phase 2 longer, with sampling.reward_weighted above 0, or "
        "record play that earns rewards", of=(spread,), red=spread < CONSTANT,
    )  # fmt: skip


def reward_on_play(predicted: float, paid: float, low: float | None) -> Check:
    """Check predicted against paid reward an episode of real play; `low` is the lower bound of their ratio."""
    value, factor = f"{predicted:.2f} predicted, {paid:.2f} paid an episode", math.inf
    if paid > 0:
        factor = predicted / paid
        value += f": {factor:.2f} times"
    is_false = paid <= 0 and predicted > FALSE_REWARD
    is_much = factor >= MISJUDGED if paid > 0 else is_false
    is_sure = (low is not None and low > 1) if paid > 0 else predicted > MUCH
    remedy = (
        "the reward head pays where the game does not, and imagination will please it: record play with failures in it "
        "(record.noisy_share, record.random_share), raise heads.reward_dropout, let the head read the action "
        "(heads.reward_reads=action), let the least of several heads count (heads.reward_members=4), or stop phase 2 "
        "by its held-out loss (phase2.patience=0.25)"
        if is_much
        else "the reward head misses rewards where the policy goes: train phase 2 longer, with "
        "sampling.reward_weighted above 0, or record play that earns them in more ways"
    )
    return check(
        "reward", "predicted against paid reward", value, f"{1 / MISJUDGED:.2f} to {MISJUDGED:g} times", remedy,
        of=(predicted, paid), red=is_much and is_sure, amber=is_much or factor <= 1 / MISJUDGED,
    )  # fmt: skip


def value_on_play(value: float, earned: float, spread: float) -> Check:
    """Check the value of a state of the policy's own real play; `spread` is that of what is earned from there."""
    bias = abs(value - earned) / max(spread, 1e-6)
    return check(
        "value", "value on real play", f"{value:.2f} a state, {earned:.2f} earned from there (spread {spread:.2f})",
        "within a spread of what is earned",
        "the critic judges another player: raise imagination.critic_steps, so that it learns what this policy earns "
        "before the policy moves; where predicted and paid reward differ, mend the reward head first",
        of=(bias, spread), red=bias > 2, amber=bias > 1,
    )  # fmt: skip


def advantages(mean: float, spread: float) -> Check:
    """Check mean and spread of the advantages of imagined steps."""
    return check(
        "advantage", "advantages", f"mean {mean:.3g}, spread {spread:.3g}", "spread above 0",
        "no imagined step is better than another, so nothing can be learned: see the rows of group reward",
        of=(mean, spread), red=not spread > 1e-6,
    )  # fmt: skip


def advantage_sets(positive: float, negative: float) -> Check:
    """Check the sizes of PMPO's D+ and D-, or their means over a few steps."""
    positive, negative = (round(n) if math.isfinite(n) else n for n in (positive, negative))
    total = positive + negative
    return check(
        "advantage", "D+ and D-", f"{positive} and {negative}", f"at least {FEW} steps in both",
        "raise phase3.batch_size or imagination.horizon; where one stays empty, the value head is off (group value)",
        of=(positive, negative), red=max(positive, negative) < FEW, amber=total > 0 and min(positive, negative) < FEW,
    )  # fmt: skip


def imagined_rewards(mean: float, spread: float, share: float) -> Check:
    """Check mean and spread of the rewards of a rollout; `share` of them is not 0."""
    return check(
        "imagination", "imagined rewards", f"mean {mean:.3g}, spread {spread:.3g}, {share:.0%} not 0", "not all alike",
        "the reward head is broken or never fires: see phase 2's rows of group reward",
        of=(mean, spread, share), red=share == 0 or spread < 1e-6,
    )  # fmt: skip


def critic_fits(bias: float, bound: float) -> Check:
    """Check that the critic fitted the policy that plays before that policy moved; `bias` in RMS of the advantages."""
    return check(
        "value", "critic before the policy moves", f"bias {bias:.2g} of the advantages' size", f"at most {bound:g}",
        "the value head judged another policy when PMPO began: raise imagination.value_rate or critic_steps",
        of=(bias,), amber=bias > bound,
    )  # fmt: skip


def kl_to_prior(nats: float) -> Check:
    """Check the KL to the cloned policy, nats a frame."""
    return check(
        "prior", "KL to the cloned policy", f"{nats:.3g} nats a frame", f"at most {FAR:g}",
        "the policy leaves what the recordings show: raise imagination.beta, or train fewer steps",
        of=(nats,), amber=nats > FAR,
    )  # fmt: skip


def action_ratio(mean: float, low: float, high: float) -> Check:
    """Check the open-loop error under shuffled actions over that under the real ones, with its 95 % interval."""
    return check(
        "actions", "error under shuffled actions", f"{mean:.4f} of the real ones' ({low:.4f} to {high:.4f})", "above 1",
        "the world model does not listen to actions: train phase 1 longer, lower sampling.unlabelled, or check that "
        f"actions and frames belong together with: {command('inspect')}", of=(mean, low, high),
        red=high <= 1.0,
    )  # fmt: skip


def reach(steps: int, trained: int, is_banded: bool) -> Check:
    """Check a dream's latent steps, its real ones included, against the longest sequence trained on."""
    return check(
        "imagination", "reach of a dream", f"{steps} steps", f"at most the {trained} trained on, or banded attention",
        "lower imagination.horizon or imagination.start_context, or train phase 1 on longer episodes, or with "
        "dynamics.context below dynamics.window", red=steps > trained and not is_banded,
    )  # fmt: skip


Span = tuple[float, float, float]  # mean, and its 95 % interval


def advantage_agreement(reliability: float, raw: Span, disattenuated: Span | None) -> Check:
    """Check real against imagined advantages of single actions, on the policy's own states.

    Args:
        reliability: how reliable the real advantages are; where it is low the game was not asked often enough.
        raw: the correlation as measured.
        disattenuated: the correlation without the noise of both sides, where that can be told. The larger one counts.
    """
    which, (mean, low, high) = "as measured", raw
    if disattenuated is not None and disattenuated[0] > mean:
        which, (mean, low, high) = "without noise", disattenuated
    name, expected = "imagined against real advantages", f"a correlation of at least {AGREEING:g}"
    value = f"{mean:.2f} [{low:.2f}, {high:.2f}] {which}"
    if not reliability >= TELLING:
        value = f"cannot tell: the real ones agree with themselves at {reliability:.2f} only"
        return Check("imagination", name, value, expected, "too early", "more tries: raise --tries, or --states")
    return check(
        "imagination", name, value, expected,
        "imagination does not know which action is better, so phase 3 cannot help: train phase 1 longer, record play "
        "with failures in it (record.noise), or choose a task whose reward comes within imagination.horizon",
        of=(mean, low, high), red=high < AGREEING, amber=mean < AGREEING,
    )  # fmt: skip


def optimism(where: str, imagined: float, real: Span, ratio: Span | None) -> Check:
    """Check imagined over real return; without a ratio the real one may be 0."""
    low, high = HONEST
    name, expected = f"optimism on {where}", f"{low:g} to {high:g}"
    is_low = ratio is not None and ratio[0] < low
    remedy = (
        "imagination misses what the game pays: train phases 1 and 2 longer, with sampling.reward_weighted above 0"
        if is_low
        else "the reward head is wrong where the policy goes: record play of more kinds (record.noise), train fewer "
        "steps of phase 2, or raise imagination.beta"
    )
    if ratio is None:
        value, is_far = f"{imagined:.3f} imagined, {real[0]:.3f} real", not imagined <= high * max(real[2], 0.0)
        if not is_far:
            return Check(
                "imagination", name, value, expected, "too early", "too little is earned there to tell: raise --states"
            )
        return check("imagination", name, value, expected, remedy, red=True)
    return check(
        "imagination", name, f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]", expected, remedy,
        of=ratio, red=ratio[1] > high or ratio[2] < low, amber=not low <= ratio[0] <= high,
    )  # fmt: skip

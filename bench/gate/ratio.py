"""A time over a reference's, in pairs until it is precise enough; built for machines that do other work as well.

Each timing is short, so that an interruption spoils few of them; pairs are taken in the order ABBA; the median of the
pairs and an error from their middle, not their tails, are untouched by the few that were interrupted.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Sequence

from bench.gate.expectations import Timed
from bench.gate.rows.base import Work
from bench.timing import seconds_of

PRECISE = 0.12 / 3
"""Standard error of the median, relative: three of them are 12 %. What is not as precise is not gated."""
AIM = 0.025
"""The standard error at which pairs end before the time is up."""
TARGET_S = 0.004
LEAST_PAIRS = 16


def until_precise(work: Work, budget_s: float) -> Timed:
    """Pairs of the row's two arms, at least LEAST_PAIRS, until the error is AIM or the time is up."""
    ours, reference = work.ours, work.reference
    assert ours is not None and reference is not None
    for arm in (ours, reference, ours, reference):
        arm.run(arm.prepare())
    slower = max(min(seconds_of(arm, 1) for _ in range(2)) for arm in (ours, reference))
    calls = max(1, round(TARGET_S / max(slower, 1e-7)))
    ratios: list[float] = []
    times: list[float] = []
    began = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while True:
            first, second = seconds_of(reference, calls), seconds_of(ours, calls)
            third, fourth = seconds_of(ours, calls), seconds_of(reference, calls)
            ratios += [second / first, third / fourth]
            times += [second, third]
            error = median_error(ratios)
            is_over = time.perf_counter() - began > budget_s
            if (len(ratios) >= LEAST_PAIRS and error <= AIM) or (is_over and len(ratios) >= 4):
                break
    finally:
        gc.enable()
    seconds = statistics.median(times)
    ratio = math.exp(statistics.median(map(math.log, ratios)))
    return Timed(ratio, error, len(ratios), seconds, work.items / seconds, work.unit)


def is_precise(timed: Timed) -> bool:
    """Whether three standard errors of the median are at most 12 %."""
    return timed.error <= PRECISE


def median_error(ratios: Sequence[float]) -> float:
    """Relative standard error of the median, from the distance of two order statistics around it.

    Source: McKean and Schrader 1984. Needs no shape of the distribution, and no outlier moves it.
    """
    logs, n = sorted(map(math.log, ratios)), len(ratios)
    if n < 8:
        return math.inf
    z = 2.5758
    k = max(1, round((n + 1) / 2 - z * math.sqrt(n / 4)))
    return (logs[n - k] - logs[k - 1]) / (2 * z)

"""Watching a run: the logged figures are held against what is healthy, and what is not is said once and kept.

Kept in the run's flags.json, by the settings' name of the phase: {"phase2": [{...Check, "step": 40}, ...]}. A gate
that was forced stands there too, at step 0 (see `tools.diagnosis.gates`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check
from fastdreamer.run import run_files
from fastdreamer.run.lock import place_of
from fastdreamer.run.metrics import read_metrics

EARLY = 100  # steps, after the warm-up, before it is judged what has been learned
RECENT = 5  # readings of a noisy figure that are judged together


Row = Mapping[str, float]
"""The figures of a logged step, with `step`; what is not finite may be nan."""


def checks_of(config: Config, number: int, rows: Sequence[Row]) -> Iterator[Check]:
    """What can be said of a phase (0: the pixel decoder) after the last of all its logged steps so far, at no cost."""
    now, train = rows[-1], config.phase(number) if number else config.decoder
    yield flags.finite(number, now["loss"])
    yield flags.skipped_steps(number, int(now["skipped_steps"]), train.max_skipped)
    yield flags.gradient_norm(number, now["grad_norm"])
    if not (math.isfinite(now["loss"]) and math.isfinite(now["grad_norm"])):
        return  # the other figures follow from that
    waits = rows[1:]  # the first step starts everything up
    if len(waits) >= RECENT and "data/wait_share" in now:
        waiting = flags.wait_share(recent(waits, "data/wait_share"), number)
        if waiting.verdict == "red":  # a few per cent are what short steps have anyway
            yield waiting
    is_early = now["step"] < EARLY + train.warmup_steps
    curve = {1: "loss/dynamics", 2: "loss/policy"}.get(number)
    # The sum of the terms is no curve: each is divided by its own size. Judging takes as long as the curve is.
    if curve and not is_early and len(rows) % (1 + len(rows) // 50) == 0:
        yield flags.loss_curve(number, [row.get(curve, math.nan) for row in rows])
    if number == 2:
        yield from _cloning(config, rows, is_early)
    elif number == 3:
        yield from _imagining(config, rows)


def _cloning(config: Config, rows: Sequence[Row], is_early: bool) -> Iterator[Check]:
    now = rows[-1]
    yield flags.policy_entropy(2, now["entropy"] / config.tokenizer.frames_per_latent)
    if is_early:
        return
    yield flags.cloning_accuracy(recent(rows, "bc_accuracy"), now["majority_accuracy"], int(now["step"]))
    if "reward_std" in now:
        yield flags.reward_spread(recent(rows, "reward_std"), now["recorded_reward_std"])


def _imagining(config: Config, rows: Sequence[Row]) -> Iterator[Check]:
    now, c = rows[-1], config.tokenizer.frames_per_latent
    yield flags.imagined_rewards(now["imagined_reward"], now["imagined_reward_std"], now["imagined_reward_share"])
    yield flags.policy_entropy(3, now["entropy"] / c)
    yield flags.kl_to_prior(now["kl_prior"] / c)
    settings = config.imagination
    if settings.critic_bias and now["step"] > config.phase3.steps // 2 and not now.get("calibrated", 1.0):
        yield flags.critic_fits(now["critic_bias"], settings.critic_bias)
    if now["step"] > config.imagination.critic_steps:  # before, advantages train nothing
        yield flags.advantages(now["advantage_mean"], now["advantage_std"])
        yield flags.advantage_sets(recent(rows, "positive"), recent(rows, "negative"))


def recent(rows: Sequence[Row], name: str) -> float:
    """Mean of the newest RECENT readings of a figure that are finite; nan without any."""
    known = [row[name] for row in rows[-RECENT:] if math.isfinite(row.get(name, math.nan))]
    return sum(known) / len(known) if known else math.nan


class Watch:
    """Looks at a phase while it trains; a resumed one goes on where its checkpoint stood.

    Attributes:
        raised: what stands in flags.json for the phase: checks as dicts, each with its `step`.
    """

    def __init__(
        self,
        config: Config,
        number: int,
        run_dir: Path,
        done: int,
        title: str,
        forced: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`done` steps were taken before; what is in `forced` was raised by gates before the phase began.

        Raises:
            UserError: if flags.json is damaged.
        """
        self.config, self.number, self.run_dir, self.title = config, number, run_dir, title
        before = read_flags(run_dir).get(flags.section(number), [])
        kept = [entry for entry in before if 0 < entry["step"] <= done]
        self.raised = [dict(entry) | {"step": 0, "forced": True} for entry in forced] + kept
        if self.raised != before:
            self._keep()
        self._said = {entry["name"] for entry in kept}
        self._rows: list[Row] = []
        for row in read_metrics(run_dir) if done else ():
            if row["phase"] == number and row["step"] <= done:
                self._rows.append({name: math.nan if value is None else float(value) for name, value in row.items()})
        with suppress(KeyError, ValueError):  # a line of an older version, or a damaged one, lacks figures
            if self._rows:  # its checks could not be kept where the disk failed just then
                self._judge(int(self._rows[-1]["step"]))

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the last logged step; empty before it."""
        return {name: value for name, value in (self._rows or [{}])[-1].items() if name not in ("phase", "step")}

    def see(self, step: int, figures: Mapping[str, float]) -> None:
        """Judges a logged step; a check that is raised for the first time is printed on stderr and kept."""
        self._rows.append({"step": float(step), **figures})
        self._judge(step)

    def _judge(self, step: int) -> None:
        fresh = [c for c in checks_of(self.config, self.number, self._rows) if c.is_raised and c.name not in self._said]
        for check in fresh:
            self._said.add(check.name)
            self.raised.append(check.to_dict() | {"step": step})
            print(f"{self.title}: warning at step {step}: {check.sentence()}", file=sys.stderr, flush=True)
        if fresh:
            self._keep()

    def _keep(self) -> None:
        place = place_of(self.run_dir)
        found = read_flags(place) | {flags.section(self.number): self.raised}
        run_files.FLAGS.write(place, {name: entries for name, entries in sorted(found.items()) if entries})


def read_flags(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """What was raised in a run, by phase ("phase1", "decoder"); nothing where there is no file.

    Raises:
        UserError: if the file is damaged.
    """
    return run_files.FLAGS.read(run_dir)

"""What is unhealthy is said once, on one line, with its remedy, and kept; what is healthy is not said."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.heads.agent import Agent
from fastdreamer.health.watch import EARLY, Watch, checks_of, read_flags
from fastdreamer.latents import loader
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.episode import Episode, write_episode
from fastdreamer.latents.manifest import read_manifest, write_manifest
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.metrics import read_metrics
from fastdreamer.system.progress import track
from fastdreamer.training import build
from fastdreamer.training.train import train

from .test_resume import StopAfter

Small = Callable[..., Config]
MakeRun = Callable[..., Path]
BATCHES = ("phase1.batch_size=16", "phase2.batch_size=16", "phase3.batch_size=32", "dynamics.dim=32")
LEARNING = ("phase2.steps=120", "phase2.learning_rate=0.002", "phase2.log_every=8", "phase2.checkpoint_every=120")
IMAGINING = ("phase2.learning_rate=0.003", "phase2.steps=20", "phase3.log_every=1")


def rewrite(run: Path, change: Callable[[Episode], Episode]) -> None:
    """Changes every episode of a run's store."""
    manifest = read_manifest(run / "store")
    for episode in LatentStore.open(run / "store").episodes:
        manifest["episodes"][episode.name] = write_episode(run / "store", change(episode), "test")
    write_manifest(run / "store", manifest)


def learnable(episode: Episode) -> Episode:
    """Five actions at a time are played, which five the latents show; the last five earn rewards where they lead."""
    chunk = len(episode.actions) // (len(episode.latents) - 1)
    generator = torch.Generator().manual_seed(len(episode.name))
    choice = torch.randint(0, 3, (len(episode.latents),), generator=generator)
    latents = episode.latents.clone()
    latents[:, 0, :3] = 4 * torch.nn.functional.one_hot(choice, 3).half()
    latents[1:, 1, :3] = latents[:-1, 0, :3]
    played = choice[:-1].repeat_interleave(chunk)[:, None]
    actions = 5 * played + torch.randint(0, 5, played.shape, generator=generator)
    rewards = (played[:, 0] == 2).float() / chunk
    return replace(episode, latents=latents, actions=actions.to(episode.actions.dtype), rewards=rewards)


def one_action(episode: Episode) -> Episode:
    return replace(learnable(episode), actions=torch.full_like(episode.actions, 3))


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if ": warning at step " in line]


def slow_batches(patch: pytest.MonkeyPatch) -> None:
    """A batch takes as long as half a step, by the made-up clock that the loader reads."""
    plain = CropSampler.batch

    def batch(sampler: CropSampler, number: int) -> object:
        loader.time.now += 0.1  # type: ignore[attr-defined]
        return plain(sampler, number)

    patch.setattr(CropSampler, "batch", batch)


def changed_agent(patch: pytest.MonkeyPatch, change: Callable[[Agent], object]) -> None:
    plain = Agent.__init__

    def init(agent: Agent, *args: Any) -> None:
        plain(agent, *args)
        change(agent)

    patch.setattr(Agent, "__init__", init)


def dead_reward_head(patch: pytest.MonkeyPatch) -> None:
    changed_agent(patch, lambda agent: agent.reward.net.out.requires_grad_(False))


def collapsed_policy(patch: pytest.MonkeyPatch) -> None:
    changed_agent(patch, lambda agent: agent.policy.net.out.bias.data.view(-1, 17)[:, 0].fill_(8.0))


def changed_parent(patch: pytest.MonkeyPatch, change: Callable[[Agent], object]) -> None:
    """Phase 3 starts from another agent than phase 2 left."""
    plain = build.agent_from

    def agent_from(*args: Any) -> Agent:
        agent = plain(*args)
        change(agent)
        return agent

    patch.setattr(build, "agent_from", agent_from)


def no_reward(patch: pytest.MonkeyPatch) -> None:
    changed_parent(patch, lambda agent: agent.reward.net.out.bias.data[20].fill_(200.0))  # the bin of 0, of 41


def one_thing_to_do(patch: pytest.MonkeyPatch) -> None:
    changed_parent(patch, lambda agent: agent.policy.net.out.bias.data.view(-1, 17)[:, 0].fill_(8.0))


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


CAUSES = {
    "starved": (1, slow_batches, learnable, ("phase1.log_every=1", "phase1.steps=8"), {"waiting for data"}, "prefetch"),
    "dead reward head": (2, dead_reward_head, learnable, LEARNING, {"spread of predicted rewards"}, "train phase 2"),
    "one action": (2, nothing, one_action, LEARNING, {"policy entropy", "bc accuracy"}, "heads.focal_gamma"),
    "collapsed policy": (2, collapsed_policy, learnable, (), {"policy entropy"}, "heads.policy_dropout"),
    "no reward": (3, no_reward, learnable, IMAGINING, {"imagined rewards", "D+ and D-"}, "group"),
    "one thing to do": (
        3,
        one_thing_to_do,
        learnable,
        IMAGINING,
        {"policy entropy", "KL to the cloned policy"},
        "imagination.beta",
    ),
}


QUICK = ("starved", "collapsed policy")


@pytest.mark.parametrize(
    "cause", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CAUSES]
)
def test_a_cause_raises_its_own_flag_once_with_what_helps(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cause: str
) -> None:
    number, plant, data, overrides, expected, remedy = CAUSES[cause]
    config = small(*BATCHES, *overrides)
    run = new_run(config)
    rewrite(run, data)
    for phase in range(1, number):
        train(config, run, phase)
    capsys.readouterr()
    plant(monkeypatch)
    train(config, run, number)
    said = warnings(capsys.readouterr().err)
    raised = read_flags(run).pop(f"phase{number}")
    assert {entry["name"] for entry in raised} == expected and len(raised) == len(expected)
    for line, entry in zip(said, raised, strict=True):
        assert line.startswith(f"phase {number}: warning at step {entry['step']}: {entry['name']} is ")
        assert remedy in line and line.endswith(entry["remedy"])


@pytest.mark.slow
def test_a_healthy_run_says_nothing(small: Small, new_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(*BATCHES, *LEARNING, "phase1.steps=20", "phase3.steps=6", "phase3.log_every=1")
    run = new_run(config)
    rewrite(run, learnable)
    for phase in (1, 2, 3):
        train(config, run, phase)
    assert warnings(capsys.readouterr().err) == []
    assert not (run / "flags.json").exists()
    rows = [row for row in read_metrics(run) if row["phase"] == 3]
    assert all(row["positive"] + row["negative"] == 32 * config.imagination.horizon for row in rows)
    assert all(row["imagined_reward_std"] > 0 and 0 < row["imagined_reward_share"] <= 1 for row in rows)


def test_flags_are_kept_over_a_resume_and_begin_anew_with_the_phase(
    small: Small, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(*BATCHES, "phase2.log_every=1", "phase2.steps=8")
    run = new_run(config)
    train(config, run, 1)
    (run / "flags.json").write_text(json.dumps({"phase1": [], "phase2": [{"name": "of old", "step": 3}]}))
    collapsed_policy(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        StopAfter(patch, 3)
        train(config, run, 2)
    first = read_flags(run)["phase2"]
    assert [(entry["name"], entry["step"]) for entry in first] == [("policy entropy", 1)]
    assert len(warnings(capsys.readouterr().err)) == 1
    (run / "flags.json").write_text(json.dumps({"phase2": [*first, {"name": "of a step undone", "step": 5}]}))
    train(config, run, 2, resume=True)
    assert warnings(capsys.readouterr().err) == [] and read_flags(run) == {"phase2": first}


def test_a_damaged_file_of_flags_is_one_line(small: Small, new_run: MakeRun) -> None:
    run = new_run(small())
    (run / "flags.json").write_text("[")
    with pytest.raises(UserError, match=r"flags\.json is damaged \(it is no JSON .*\): move it elsewhere") as caught:
        train(small(), run, 1)
    assert "\n" not in str(caught.value)


def row(step: float, **figures: float) -> dict[str, float]:
    plain = {"loss": 1.0, "grad_norm": 1.0, "skipped_steps": 0.0, "loss/dynamics": 1.0}
    return {"step": float(step)} | plain | figures


def test_a_curve_is_judged_once_there_is_something_to_learn_from(small: Small) -> None:
    config = small("phase1.warmup_steps=20")
    flat = [row(step) for step in range(5, 400, 5)]

    def judged(rows: list[dict[str, float]]) -> str:
        return next((check.value for check in checks_of(config, 1, rows) if check.name == "loss curve"), "")

    assert judged([r for r in flat if r["step"] < EARLY + 20]) == ""
    assert judged(flat[:24]) == "fell by 0.0%"
    falling = [row(r["step"], **{"loss/dynamics": 100.0 / r["step"]}) for r in flat[:40]]
    assert judged(falling).startswith("fell by 7")
    falling[30]["loss/dynamics"] *= 9
    assert judged(falling) == "1 spikes"


def test_a_step_that_is_not_finite_says_nothing_of_the_rest(small: Small) -> None:
    found = list(checks_of(small(), 2, [row(500, loss=float("nan"), grad_norm=float("nan"), skipped_steps=1.0)]))
    assert {check.group for check in found if check.is_raised} == {"loss", "gradient"}


@pytest.mark.parametrize(("number", "expected"), [(2, {"policy entropy"}), (3, {"KL to the cloned policy"})])
def test_entropy_and_kl_are_judged_a_frame_not_a_chunk(small: Small, number: int, expected: set[str]) -> None:
    config = small()
    chunk = config.tokenizer.frames_per_latent
    imagined = {f"imagined_reward{end}": 0.5 for end in ("", "_std", "_share")}

    def raised(entropy: float, kl: float) -> set[str]:
        one = row(1, **imagined, entropy=entropy * chunk, kl_prior=kl * chunk, majority_accuracy=0.1)
        return {check.name for check in checks_of(config, number, [one]) if check.is_raised}

    assert raised(entropy=0.9, kl=1.1) == expected and raised(entropy=1.1, kl=0.9) == set()


def test_a_warning_is_a_line_of_its_own_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with track("phase 1", total=2) as bar:
        bar.advance(1)
        print("phase 1: warning at step 1: [x] is 3 (expected 0): mend it", file=sys.stderr, flush=True)
        bar.advance(1)
    lines = [line.rpartition("\x1b[2K")[2].rpartition("\r")[2] for line in terminal.text.splitlines()]
    assert "phase 1: warning at step 1: [x] is 3 (expected 0): mend it" in [line.strip() for line in lines]
    assert "2/2" in lines[-1] or "2/2" in terminal.text.splitlines()[-2]


def test_tensorboard_has_the_names_of_the_plan_beside_ours(small: Small, new_run: MakeRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small()
    run = new_run(config)
    plan = {
        1: {"loss/dynamics/total": "loss/dynamics"},
        2: {"bc_accuracy": "bc_accuracy", "pred_std": "reward_std"},
        3: dict(adv_mean="advantage_mean", adv_std="advantage_std", n_positive="positive", n_negative="negative"),
    }
    for phase, names in plan.items():
        train(config, run, phase)
        events = EventAccumulator(str(run / "tensorboard" / f"phase{phase}"))
        events.Reload()
        rows = [row for row in read_metrics(run) if row["phase"] == phase]
        assert {tag for tag in events.Tags()["scalars"] if not tag.startswith(f"phase{phase}/")} == names.keys()
        for theirs, ours in names.items():
            for tag in (theirs, f"phase{phase}/{ours}"):
                points = [(event.step, event.value) for event in events.Scalars(tag)]
                assert points == [(row["step"], pytest.approx(row[ours], rel=1e-6)) for row in rows], tag


@pytest.mark.parametrize("last", [{}, {"skipped_steps": None}], ids=["older", "damaged"])
def test_a_last_line_without_its_figures_does_not_stop_a_resume(
    small: Callable[..., Config], tmp_path: Path, last: dict[str, Any]
) -> None:
    row = {"phase": 3, "step": 4, "loss": 1.0, "grad_norm": 1.0, "time": 0.0} | last
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert Watch(small(), 3, tmp_path, 4, "phase 3").figures["loss"] == 1.0


def test_a_line_of_before_that_lacks_a_figure_is_judged_without_it(small: Callable[..., Config]) -> None:
    rows = [dict.fromkeys(("loss", "skipped_steps", "grad_norm", "step", "loss/dynamics"), 200.0) for _ in range(30)]
    del rows[3]["loss/dynamics"]
    assert "loss curve" in {check.name for check in checks_of(small(), 1, rows)}

"""A session as a page uses it: what moves, what stays, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdreamer.errors import UserError
from fastdreamer.play import session as module
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.session import Session, View
from fastdreamer.play.urgency import Superseded

from .conftest import CHUNKED, SINGLE, TOKENS

pytest.importorskip("crafter")
WALK = [[1], [2], [5], [3], [4], [5], [1], [1], [6], [2]]


def same(a: View, b: View, but: tuple[str, ...] = ("rewindable",)) -> bool:
    """Whether two views show and say the same."""
    alike = (a.real is None) == (b.real is None) and (a.real is None or np.array_equal(a.real, b.real))
    said = [{key: value for key, value in view.said.items() if key not in but} for view in (a, b)]
    return alike and np.array_equal(a.dream, b.dream) and said[0] == said[1]


@pytest.mark.parametrize("kind", ["single", "chunked"])
def test_real_frames_are_those_of_the_world_and_the_dream_moves_too(request: pytest.FixtureRequest, kind: str) -> None:
    from fastdreamer.envs.crafter import CrafterEnv

    loaded: Loaded = request.getfixturevalue(kind)
    session, c = Session(loaded), loaded.clock.frames_per_latent
    begun = session.start(seed=7)
    env = CrafterEnv(7, 100)
    first = env.reset()
    assert begun.said["step"] == 0 and begun.said["action"] == [] and np.array_equal(begun.real[-1], first)
    assert begun.said["drift"] == {"dream": 0.0, "copy": 0.0} and begun.said["episode"] == "crafter-7"
    for number, action in enumerate(WALK, 1):
        view = session.step(action)
        frames = [env.step(action[0])[0] for _ in range(c)]
        assert np.array_equal(view.real, np.stack(frames)) and view.dream.shape == view.real.shape
        assert view.said["step"] == view.said["dreamed"] == number and view.said["action"] == [action] * c
    assert view.said["drift"]["dream"] > 0 and view.said["drift"]["copy"] > 0
    json.dumps(view.said, allow_nan=False)
    json.dumps(session.describe(), allow_nan=False)


def test_latents_and_thoughts_are_those_of_the_models_called_plainly(single: Loaded) -> None:
    session = Session(single)
    session.start(seed=7)
    views = [session.step(action) for action in WALK[:3]]
    frames = [session.start(seed=7).real[-1]] + [view.real[-1] for view in views]
    world, agent = single.world, single.agents[3]
    raw = single.tokenizer.encode_episode(np.stack(frames))
    latents = world.normalise(raw, torch.zeros(len(raw), dtype=torch.int64))
    assert views[-1].said["drift"]["copy"] == pytest.approx(
        float((latents[3] - latents[0]).square().mean()), rel=1e-3, abs=2e-6
    )
    known = torch.ones(1, 1, dtype=torch.bool)
    traces = [agent.history.start(1)]
    for action in WALK[:3]:
        traces.append(agent.history.after(traces[-1], torch.tensor([[action]]), known))
    task = torch.zeros(1, dtype=torch.int64)
    features = torch.cat([agent.features(latents[i][None], None, task, traces[i]) for i in range(4)])
    said = views[-1].said["agent"]["3"]
    probabilities = agent.policy.log_softmax(agent.policy(features[3:]))[0].exp()[0, 0]
    assert np.allclose(said["probabilities"][0], probabilities, atol=2e-5)
    chunks = torch.tensor(WALK[:3])[None, :, None]
    assert said["reward"] == pytest.approx(float(agent.imagined_rewards(features[None], chunks)[0, -1]), abs=1e-4)
    assert said["value"] == pytest.approx(float(agent.returns_decoded(features[3])), abs=1e-4)
    assert said["continue"] == pytest.approx(float(agent.continues(features[None])[0, 3]), abs=1e-4)


def test_agent_tokens_see_the_real_steps(make: Callable[..., Loaded]) -> None:
    loaded = make(*CHUNKED, *TOKENS)
    session = Session(loaded)
    session.start(seed=7)
    a, b = session.step([1]).said["agent"]["3"], session.step([5]).said["agent"]["3"]
    assert a["probabilities"] != b["probabilities"] and a["value"] != b["value"]


@pytest.mark.parametrize("kind", ["single", "chunked"])
def test_what_is_rewound_comes_again_bit_for_bit(request: pytest.FixtureRequest, kind: str) -> None:
    session = Session(request.getfixturevalue(kind), seed=3)
    session.start(seed=7)
    session.choose(who="phase3")
    views = [session.view()] + [session.step() for _ in range(8)]
    for back in (3, 7, 8, 99):
        assert same(session.rewind(back), views[max(0, 8 - back)])
        again = [session.step() for _ in range(min(back, 8))]
        assert all(same(a, b) for a, b in zip(again, views[max(0, 8 - back) + 1 :], strict=True))
    assert len({view.said["action"][0][0] for view in views[1:]}) > 1, "the agent draws"


def test_rewinding_is_bounded_and_so_is_what_is_kept(single: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.REWINDS >= 100
    monkeypatch.setattr(module, "REWINDS", 5)
    session = Session(single)
    session.start(seed=7)
    views = [session.step(WALK[i % len(WALK)]) for i in range(9)]
    assert views[-1].said["rewindable"] == 5 and same(session.rewind(100), views[3])
    assert session.view().said["rewindable"] == 0


def test_a_fork_dreams_on_from_what_really_happened(single: Loaded) -> None:
    session = Session(single)
    session.start(seed=7)
    for action in WALK[:6]:
        session.step(action)
    forked = session.fork()
    assert forked.said["drift"] == {"dream": 0.0, "copy": 0.0} and forked.said["dreamed"] == 0
    after = session.step([5])
    assert after.said["dreamed"] == 1 and after.said["step"] == 7
    session.rewind(1)
    assert same(session.view(), forked) and same(session.fork(), forked) and same(session.step([5]), after)
    session.rewind(2)
    assert session.view().said["dreamed"] == 5, "before the fork lies the older dream"


def test_a_fork_sees_as_many_real_steps_as_the_world_model(single: Loaded) -> None:
    from fastdreamer.play.dream import Dream

    session = Session(single)
    session.start(seed=7)
    for action in WALK[:6]:
        session.step(action)
    now = session._moments[-1]
    assert now.real is not None and len(now.real.past) == single.config.dynamics.context == 3
    assert [int(step.actions[0, 0]) for step in now.real.past] == [3, 4, 5]
    session.fork()
    dream = Dream(single)
    dream.denoising = session.view().said["denoising"]
    latents, actions, known = (torch.stack(parts) for parts in zip(*now.real.past, strict=True))
    noise = torch.stack([session._here._chance.noise(step)[1] for step in (4, 5, 6)])
    dream.begin(latents, actions, known, noise, 6)
    dream.step(np.array([[5]]), session._here._chance.noise(7))
    session.step([5])
    assert torch.equal(dream.state(), session._dream.state())


def test_an_eager_cpu_begins_with_one_denoising_step_and_takes_as_many_as_are_chosen(single: Loaded) -> None:
    trained = single.config.forcing.sample_steps
    assert trained > 1 and not single.backend.compiles
    session = Session(single)
    assert session.view().said["denoising"] == 1
    assert session.choose(denoising=trained).said["denoising"] == trained


@pytest.mark.parametrize("kind", ["single", "chunked"])
def test_a_recording_of_a_world_is_played_on_from_any_step(
    request: pytest.FixtureRequest, kind: str, recorded: Path
) -> None:
    from fastdreamer.recordings.actions import action_space
    from fastdreamer.recordings.read import read_recording

    loaded: Loaded = request.getfixturevalue(kind)
    session, c = Session(loaded), loaded.clock.frames_per_latent
    whole = read_recording(loaded.recordings[1], action_space("crafter"))
    step = 20 // c
    view = session.start(recording=1, step=step)
    assert view.said["episode"].startswith("crafter-") and view.said["step"] == step
    assert np.array_equal(view.real, whole.frames[c * (step - 1) + 1 : c * step + 1])
    past = session._moments[-1].real.past
    raw = loaded.tokenizer.encode_episode(whole.frames)
    positions = torch.tensor([loaded.clock.position(s) for s in range(len(raw))])
    latents = loaded.world.normalise(raw, positions)
    for back, each in enumerate(reversed(past)):
        assert torch.allclose(each.latents, latents[step - back], atol=1e-3)
    session.choose(who="recorded")
    view = session.step()
    assert np.array_equal(view.real, whole.frames[c * step + 1 : c * step + c + 1])
    session.choose(who="you")
    assert session.step([0]).real is not None, "the world goes on under other keys"


@pytest.mark.parametrize("kind", ["single", "chunked"])
def test_a_recording_alone_is_real_until_other_actions_are_played(request: pytest.FixtureRequest, kind: str) -> None:
    from dataclasses import replace

    loaded = replace(request.getfixturevalue(kind), has_environment=False)
    session = Session(loaded)
    c = loaded.clock.frames_per_latent
    session.start(recording=0, step=2)
    session.choose(who="recorded")
    views = []
    while (view := session.step()).said["over"] is None:
        assert view.real is not None and view.said["paid"] is not None
        views.append(view)
    assert view.said["over"] == "end of recording" and view.said["step"] == -(-30 // c)
    assert same(session.step(), view), "what is over stays"
    session.rewind(3)
    assert session.view().real is not None and session.view().said["over"] is None
    session.choose(who="you")
    recorded = session._here.footage.chunk(session.view().said["step"] + 1)[0, 0]
    other = session.step([(int(recorded) + 1) % 17])
    assert other.real is None and other.said["drift"] == {"dream": None, "copy": None}
    assert other.said["agent"]["3"] == other.said["dreamed_agent"] and other.said["paid"] is None
    with pytest.raises(UserError, match="no real state here"):
        session.fork()
    more = session.step([1])
    assert more.real is None and not np.array_equal(more.dream, other.dream)
    assert session.rewind(2).real is not None


def test_an_episode_that_is_over_stays_so_and_the_dream_can_go_on_alone(
    chunked: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastdreamer.play import reality

    monkeypatch.setattr(reality.CrafterReality.__init__, "__defaults__", (6,))
    session = Session(chunked)
    session.start(seed=7)
    session.step([1])
    view = session.step([2])
    assert view.said["over"] == "cut" and view.said["action"] == [[2]] * 2
    assert np.array_equal(view.real[1], view.real[3]), "the chunk is padded with the last frame"
    assert same(session.step([3]), view)
    alone = session.fork()
    assert alone.said["over"] is None
    after = session.step([3])
    assert after.real is None and after.said["step"] == 3
    assert session.rewind(2).said["over"] is None and session.step([2]).said["over"] == "cut"


def test_players_act_as_they_are_called(single: Loaded) -> None:
    session = Session(single, seed=1)

    def played(who: str, greedy: bool = False) -> list[int]:
        session.start(seed=7)
        session.choose(who=who, greedy=greedy)
        session._here._chance.episode = 0
        return [session.step([0]).said["action"][0][0] for _ in range(8)]

    assert played("you") == [0] * 8
    assert played("random") == played("random") != played("phase2")
    assert played("phase2") != played("phase3") and played("phase3", True) == played("phase3", True)
    session.start(seed=7)
    session.choose(who="phase3", greedy=True)
    likeliest = int(np.argmax(session.view().said["agent"]["3"]["probabilities"][0]))
    assert session.step().said["action"] == [[likeliest]]


def test_what_is_no_choice_is_refused_and_changes_nothing(single: Loaded) -> None:
    session = Session(single)
    before = session.view()
    refused: list[Callable[[], object]] = [
        lambda: session.choose(who="nobody"), lambda: session.choose(who="recorded"),
        lambda: session.choose(greedy=1), lambda: session.choose(denoising=3), lambda: session.choose(denoising=True),
        lambda: session.choose(task=0), lambda: session.step([17]), lambda: session.step([True]),
        lambda: session.step([1, 1]), lambda: session.step("1"), lambda: session.rewind(-1),
        lambda: session.rewind(1.0), lambda: session.start(seed=-1), lambda: session.start(seed=2**31),
        lambda: session.start(seed="../x"), lambda: session.start(recording=2), lambda: session.start(recording="0"),
        lambda: session.start(recording=0, step=31), lambda: session.start(step=3), lambda: session.filmstrip(-1),
        lambda: session.start(seed=1, recording=0),
    ]  # fmt: skip
    for ask in refused:
        with pytest.raises(UserError) as error:
            ask()
        assert "\n" not in str(error.value)
        assert same(session.view(), before)


def test_a_task_token_changes_what_the_agents_think(make: Callable[..., Loaded]) -> None:
    session = Session(make(*SINGLE, "tasks.names=[collect_wood, collect_drink]"))
    assert session.describe()["tasks"] == ["collect_wood", "collect_drink"]
    first = session.view()
    other = session.choose(task=1)
    assert other.said["task"] == 1 and other.said["agent"] != first.said["agent"]
    session.step([1])
    session.choose(task=0)
    assert session.rewind(1).said["agent"] == first.said["agent"], "it is asked anew"


def test_a_step_that_fails_leaves_everything_where_it_was(single: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = Session(single), Session(single)
    for each in (session, other):
        each.start(seed=7)
        each.step([1])

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    for part, name in ((session._dream, "step"), (session._dream, "save"), (session._here.reality, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, fail)
            with pytest.raises(RuntimeError):
                session.step([5])
    assert same(session.step([2]), other.step([2]))
    with monkeypatch.context() as patch:
        patch.setattr(session._here, "rethought", fail)
        with pytest.raises(RuntimeError):
            session.step([5])
    assert same(session.complete(), other.step([5])), "the step was taken; what was left of it is done"


def test_a_step_is_in_sight_before_anybody_thinks_of_it_and_gives_way_until_the_dream_moves(single: Loaded) -> None:
    session, other = Session(single), Session(single)
    for each in (session, other):
        each.start(seed=7)
    before = session.view()
    with pytest.raises(Superseded):
        session.step_in_sight([1], lambda: True)
    assert same(session.view(), before)
    whole, first = other.step([5]), session.step_in_sight([5], lambda: False)
    assert np.array_equal(first.real, whole.real) and np.array_equal(first.dream, whole.dream)
    assert first.said["agent"] is first.said["dreamed_agent"] is first.said["drift"]["dream"] is None
    assert first.said["paid"] == whole.said["paid"] and first.said["step"] == whole.said["step"]
    for _ in range(2):  # what the encoder saw stays, what the agents think waits
        with pytest.raises(Superseded):
            session.complete(lambda: True)
    assert session.view().said["agent"] is None and session.complete().said == whole.said
    for act in (lambda one: one.step([2]), lambda one: one.fork(), lambda one: one.rewind(1)):
        session.step_in_sight([1])
        other.step([1])
        assert same(act(session), act(other)), "whatever comes next completes it first"


def test_a_filmstrip_shows_steps_of_the_recording(chunked: Loaded) -> None:
    session = Session(chunked)
    steps, frames = session.filmstrip(0)
    assert steps[0] == 0 and steps[-1] == 7 and len(frames) == len(steps) and frames.shape[1:] == (64, 64, 3)
    assert np.array_equal(session.start(recording=0, step=steps[-1]).real[-1], frames[-1])


def test_a_large_recording_is_held_in_parts(chunked: Loaded) -> None:
    from fastdreamer.play.film import Footage

    whole = Footage(chunked.recordings[0], chunked.config, chunked.clock)
    parts = Footage(chunked.recordings[0], chunked.config, chunked.clock, most_bytes=10 * 64 * 64 * 3)
    for step in (7, 0, 3, 8, 2):
        assert np.array_equal(whole.step_frames(step), parts.step_frames(step)) and len(parts._held) <= 10


def test_what_is_kept_is_flat(single: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments share what they have in common, and nothing else stays of what is past."""
    import gc
    import pickle

    monkeypatch.setattr(module, "REWINDS", 6)
    session = Session(single)
    session.start(seed=7)

    def kept(steps: int) -> tuple[int, int]:
        for _ in range(steps):
            session.step([0])
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())  # isinstance asks proxies
        return len(
            pickle.dumps([m.real and m.real.past for m in session._moments] + [m.fork for m in session._moments])
        ), tensors

    kept(12)
    first, later = kept(12), kept(40)
    assert later[0] < 1.02 * first[0] and later[1] <= first[1] + 2

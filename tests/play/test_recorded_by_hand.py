"""Episodes that a scripted browser plays are recordings like any other: inspected, encoded, trained on, and true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.browsers import Served
from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.inspect import inspect_recordings
from fastdreamer.recordings.read import read_recording
from play.tabs import Tab

pytestmark = pytest.mark.slow
EPISODES, STEPS = 10, 24
TRAINED = """
import sys
from pathlib import Path
from fastdreamer.config import load_config
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.train import train

run, recordings = RunDirectory(Path(sys.argv[1])), Path(sys.argv[2])
config = load_config("debug", ["tokenizer.frames_per_latent=1", "tokenizer.window=1", "phase1.steps=2"])
run.path.mkdir()
run.write_config(config)
encode_recordings(config, recordings, run.store(config))
train(config, run.path, 1)
"""


@pytest.fixture(scope="module")
def by_hand(chromium, small_run, tmp_path_factory) -> Path:
    """What was played in ten worlds: keys, the agent, a rewind, a key that is held."""
    folder = tmp_path_factory.mktemp("by hand")
    with Served("--run-dir", str(small_run), "--port", "0", "--record", str(folder)) as server:
        context = chromium.new_context()
        tab = Tab(context.new_page(), server.address)
        for episode in range(EPISODES):
            tab.press("d", "s", " ", "a", pause=0.02)
            if episode % 3 == 0:
                tab.page.keyboard.press(",")
                tab.until(lambda: tab.number("step") == 3, "rewind")
            tab.page.locator("#who label", has_text=("Random", "Phase 3")[episode % 2]).click()
            tab.page.select_option("#speed", "60")
            tab.until(lambda: tab.number("step") >= STEPS, "it plays")
            tab.page.locator("#who label", has_text="You").click()
            tab.page.select_option("#speed", "0")
            tab.until(lambda: tab.data("who") == "you")
            if episode < EPISODES - 1:
                before = tab.says("recording")
                tab.page.locator("#begin").click()
                tab.page.locator("#any").click()
                tab.until(lambda: tab.number("step") == 0 and tab.says("recording") != before, "another world")  # noqa: B023
        tab.is_clean()
        context.close()
        code, _, err = server.end()
    assert code == 0 and err == ""
    return folder


def test_ten_episodes_are_there_and_pass_inspect(by_hand):
    assert len(find_recordings(by_hand)) == EPISODES
    found = inspect_recordings(by_hand)
    assert found["episodes"] == EPISODES and found["damaged"] == [], found


def test_every_frame_is_what_its_actions_lead_to(by_hand):
    worlds = set()
    for recording in find_recordings(by_hand):
        episode = read_recording(recording, action_space("crafter"))
        seed = int(recording.name.split("crafter-")[1].split("_")[0])
        env = CrafterEnv(seed, 10_000)
        assert np.array_equal(env.reset(), episode.frames[0])
        for step, action in enumerate(episode.actions):
            frame, reward, *_ = env.step(action)
            assert np.array_equal(frame, episode.frames[step + 1]), (recording.name, step)
            assert reward == pytest.approx(float(episode.rewards[step]), abs=1e-6)
        assert len(episode.actions) >= STEPS
        worlds.add(seed)
    assert len(worlds) == EPISODES


def test_they_are_encoded_and_trained_on(by_hand, tmp_path):
    words = [sys.executable, "-c", TRAINED, str(tmp_path / "run"), str(by_hand)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = json.loads((tmp_path / "run" / "store" / "manifest.json").read_text())
    assert len(manifest["episodes"]) == EPISODES

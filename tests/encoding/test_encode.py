"""Recordings to store: alignment, resumption, kills, damage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastdreamer_engines import LIMITS

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.encoding import pipeline as encode_module
from fastdreamer.encoding import stream as stream_module
from fastdreamer.encoding.manifest_writer import ManifestWriter
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import FOLDER
from fastdreamer.latents.store import LatentStore, read_manifest, store_key
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from fastdreamer.tokenizer.frozen import FrozenTokenizer, tokenizer_fingerprint

SPACE = action_space("crafter")
MICRO = TokenizerConfig(
    weights="random", encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8), frames_per_latent=4, window=9
)
CONFIG = Config(device="cpu", tokenizer=MICRO)


def _with_data(**settings: Any) -> Config:
    return replace(CONFIG, data=replace(CONFIG.data, **settings))


def _trajectory(seed: int, frames: int = 23) -> Trajectory:
    rng = np.random.default_rng(seed)
    return Trajectory(
        name=f"v3_test_crafter-{seed}_0-{frames - 1}",
        frames=rng.integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8),
        actions=rng.integers(0, 17, (frames - 1, 1), dtype=np.uint8),
        rewards=rng.normal(size=frames - 1).astype(np.float32),
        terminals=np.arange(frames - 1) == frames - 2,
        valid=np.ones(frames, bool),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("resampler", ["torch", "dali"])
def test_an_encoder_of_half_precision_fills_a_store(tmp_path: Path, resampler: str, precision: str) -> None:
    if resampler == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
    recordings, config = _record(tmp_path / "recordings", 0), _with_data(resampler=resampler)
    half = replace(config, engines=replace(config.engines, backend="eager", precision=precision))
    encode_recordings(config, recordings, tmp_path / "fp32")
    encode_recordings(half, recordings, tmp_path / precision)
    stores = [LatentStore.open(tmp_path / name) for name in ("fp32", precision)]
    assert [store.manifest["key"]["precision"] for store in stores] == ["fp32", precision]
    expected, found = (store.episodes[0].latents.float() for store in stores)
    assert 0 < (found - expected).norm() / expected.norm() < LIMITS[precision]


def _record(root: Path, *seeds: int) -> Path:
    for seed in seeds:
        trajectory = _trajectory(seed)
        write_recording(root / "Crafter-test" / trajectory.name, trajectory, SPACE, {"terminated": True})
    return root


def test_an_episode_of_the_store_is_the_recording(tmp_path: Path) -> None:
    recordings = _record(tmp_path / "recordings", 0, 1, 2)
    result = encode_recordings(CONFIG, recordings, tmp_path / "store")
    assert (result["episodes"], result["frames"], result["steps"]) == (3, 69, 21)
    assert result["frames_per_s"] > 0 and result["skipped"] == {}
    store = LatentStore.open(tmp_path / "store", store_key(CONFIG, tokenizer_fingerprint(MICRO)))
    tokenizer = FrozenTokenizer.from_config(MICRO)
    for seed, episode in enumerate(store.episodes):
        expected = _trajectory(seed)
        assert episode.name == expected.name and episode.labelled
        assert np.array_equal(episode.actions, expected.actions)
        assert np.array_equal(episode.rewards, expected.rewards)
        assert np.array_equal(episode.terminals, expected.terminals) and episode.valid.all()
        assert torch.equal(episode.latents, tokenizer.encode_episode(expected.frames).half())


def test_the_task_of_an_episode_is_its_environment(tmp_path: Path) -> None:
    recordings = _record(tmp_path / "recordings", 0, 1)
    (recordings / "Crafter-other").mkdir()
    name = _trajectory(1).name
    (recordings / "Crafter-test" / name).rename(recordings / "Crafter-other" / name)
    encode_recordings(CONFIG, recordings, tmp_path / "store")
    store = LatentStore.open(tmp_path / "store")
    assert store.manifest["tasks"] == ["Crafter-other", "Crafter-test"]
    assert {episode.name: episode.task for episode in store.episodes} == {_trajectory(0).name: 1, name: 0}


def test_current_episodes_are_kept_changed_ones_encoded_again_and_gone_ones_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1, 2), tmp_path / "store"
    encode_recordings(CONFIG, recordings, store)
    names = [_trajectory(seed).name for seed in range(3)]
    before = {name: (store / FOLDER / f"{name}.safetensors").stat().st_mtime_ns for name in names}
    shutil.rmtree(recordings / "Crafter-test" / names[0])
    folder = recordings / "Crafter-test" / names[1]
    shutil.rmtree(folder)
    write_recording(folder, _trajectory(1), SPACE, {"terminated": False})
    _record(recordings, 3)
    encoded: list[str] = []
    plain = encode_module._episode
    monkeypatch.setattr(encode_module, "_episode", lambda *a: encoded.append(a[0].recording.name) or plain(*a))
    result = encode_recordings(CONFIG, recordings, store)
    assert result["kept"] == 1 and sorted(encoded) == [names[1], _trajectory(3).name]
    files = sorted(path.name for path in (store / FOLDER).iterdir())
    assert files == [f"{name}.safetensors" for name in (names[1], names[2], _trajectory(3).name)]
    assert (store / FOLDER / f"{names[2]}.safetensors").stat().st_mtime_ns == before[names[2]]
    assert not LatentStore.open(store).episodes[0].terminals.any()


def test_a_damaged_file_of_the_store_is_encoded_again(tmp_path: Path) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1), tmp_path / "store"
    encode_recordings(CONFIG, recordings, store)
    file = next((store / FOLDER).iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(UserError, match="damaged"):
        LatentStore.open(store)
    assert encode_recordings(CONFIG, recordings, store)["kept"] == 1
    assert len(LatentStore.open(store).episodes) == 2


def test_a_store_of_another_tokenizer_is_refused_and_left_alone(tmp_path: Path) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1), tmp_path / "store"
    encode_recordings(CONFIG, recordings, store)
    before = (store / "manifest.json").read_bytes()
    other = TokenizerConfig(**{**vars(MICRO), "seed": 1})
    with pytest.raises(UserError, match="made with tokenizer .* rebuild it with"):
        encode_recordings(Config(device="cpu", tokenizer=other), recordings, store)
    assert (store / "manifest.json").read_bytes() == before


def test_damaged_recordings_are_skipped_with_their_reasons(tmp_path: Path) -> None:
    recordings = _record(tmp_path / "recordings", 0, 1, 2)
    video = recordings / "Crafter-test" / _trajectory(1).name / "recording.mp4"
    video.write_bytes(video.read_bytes()[:200])
    tolerant = _with_data(max_damaged=0.4)
    result = encode_recordings(tolerant, recordings, tmp_path / "store")
    assert result["episodes"] == 2 and list(result["skipped"]) == [_trajectory(1).name]
    assert read_manifest(tmp_path / "store")["skipped"] == result["skipped"]
    for folder in (recordings / "Crafter-test").iterdir():
        (folder / "recording.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 recordings"):
        encode_recordings(_with_data(max_damaged=1), recordings, tmp_path / "other")


def test_too_many_damaged_recordings_stop_the_run_and_keep_what_is_done(tmp_path: Path) -> None:
    recordings, store = _record(tmp_path / "recordings", 0, 1, 2, 3, 4), tmp_path / "store"
    for seed in (3, 4):
        (recordings / "Crafter-test" / _trajectory(seed).name / "recording.mp4").write_bytes(b"")
    words = r"2 of 5 recordings are damaged, more than data.max_damaged=0.2; the first: .*crafter-3.*0 bytes.* raise"
    with pytest.raises(UserError, match=words):
        encode_recordings(_with_data(decode_threads=1), recordings, store)
    assert len(LatentStore.open(store).episodes) == 3
    result = encode_recordings(_with_data(max_damaged=0.4), recordings, store)
    assert result["kept"] == 3 and len(result["skipped"]) == 2
    for seed in (3, 4):  # mended: they are no longer set aside
        shutil.rmtree(recordings / "Crafter-test" / _trajectory(seed).name)
        _record(recordings, seed)
    result = encode_recordings(CONFIG, recordings, store)
    assert (result["episodes"], result["kept"], result["skipped"]) == (5, 3, {})
    assert read_manifest(store)["skipped"] == {}


def test_what_bounds_the_rate_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = _record(tmp_path / "recordings", 0, 1)
    undisturbed = encode_recordings(CONFIG, recordings, tmp_path / "a")
    assert undisturbed["bound_by"] in ("decode", "encode", "write")
    pause = max(0.5, 3 * undisturbed["seconds"])  # most of the run, however slow the machine is
    assert encode_recordings(CONFIG, recordings, tmp_path / "a")["bound_by"] == "nothing to encode"
    for stage, (owner, name) in {
        "decode": (stream_module, "count_frames"),
        "encode": (FrozenTokenizer, "encode_windows"),
        "write": (ManifestWriter, "enter"),
    }.items():
        plain = getattr(owner, name)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *a, plain=plain: (time.sleep(pause), plain(*a))[1])
            result = encode_recordings(_with_data(decode_threads=1), recordings, tmp_path / stage)
        assert result["bound_by"] == stage and result["shares"][stage] > 0.5, result


def test_a_kill_loses_at_most_what_is_in_hand(tmp_path: Path) -> None:
    """kill -9 while the third episode is being encoded: two are kept, and the next run does the rest."""
    recordings, store = _record(tmp_path / "recordings", *range(4)), tmp_path / "store"
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from fastdreamer.encoding import pipeline as encode
from test_encode import CONFIG
plain, calls = encode._episode, []
def slow(*arguments):
    calls.append(1)
    if len(calls) == 3:
        Path({str(tmp_path / "third")!r}).touch()
        time.sleep(600)
    return plain(*arguments)
encode._episode = slow
encode.encode_recordings(CONFIG, Path({str(recordings)!r}), Path({str(store)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        if (tmp_path / "third").exists() and len(read_manifest(store)["episodes"]) == 2:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "third").exists(), "it came to no third episode"
    assert len(LatentStore.open(store).episodes) == 2
    result = encode_recordings(CONFIG, recordings, store)
    assert (result["kept"], result["episodes"]) == (2, 4)
    assert len(LatentStore.open(store).episodes) == 4

"""Several processes encode one data set into one store: no episode twice, none lost, also when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from encoding.test_encode import CONFIG, _record, _trajectory

from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.latents.manifest import FOLDER
from fastdreamer.latents.store import LatentStore, read_manifest

COUNT = 12
SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from fastdreamer.encoding import pipeline as encode
from encoding.test_encode import _with_data
plain = encode._episode
def named(finished, latents):
    print("encoded", finished.recording.name, flush=True)
    time.sleep(float(sys.argv[3]))
    return plain(finished, latents)
encode._episode = named
config = _with_data(decode_threads=1)  # what many threads hold ahead of the encoder is left to no other process
print("done", encode.encode_recordings(config, Path(sys.argv[1]), Path(sys.argv[2]))["episodes"], flush=True)
"""


def start(recordings: Path, store: Path, seconds: float = 0.1) -> subprocess.Popen[str]:
    """A process that takes so long for an episode, and says which it encodes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(recordings), str(store), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def encodes(process: subprocess.Popen[str]) -> bool:
    """Waits until the process says that it encodes an episode; one that does not come to that is ended."""
    assert process.stdout
    limit = threading.Timer(600, process.kill)
    limit.start()
    try:
        return any(line.startswith("encoded") for line in process.stdout)
    finally:
        limit.cancel()


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The episodes that the process encoded, once it is done."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == f"done {COUNT}", out
    return [line.split()[1] for line in out.splitlines() if line.startswith("encoded")]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _record(tmp_path_factory.mktemp("shared"), *range(COUNT))


def test_each_episode_is_encoded_by_one_process(recordings: Path, tmp_path: Path) -> None:
    shares = [finish(process) for process in [start(recordings, tmp_path / "store") for _ in range(3)]]
    encoded = sorted(name for share in shares for name in share)
    assert encoded == sorted(_trajectory(seed).name for seed in range(COUNT))
    encode_recordings(CONFIG, recordings, tmp_path / "alone")
    shared, alone = LatentStore.open(tmp_path / "store"), LatentStore.open(tmp_path / "alone")
    assert shared.manifest == alone.manifest  # in the same order, with the same bits, hashes and splits


def test_what_a_killed_process_had_is_encoded_by_another(recordings: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    victim = start(recordings, store, seconds=1000)
    assert encodes(victim)
    survivor = start(recordings, store)
    assert encodes(survivor), "nothing was left to it"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    finish(survivor)
    assert sorted(read_manifest(store)["episodes"]) == sorted(_trajectory(seed).name for seed in range(COUNT))
    assert len(list((store / FOLDER).glob("*.safetensors"))) == len(list((store / FOLDER).iterdir())) == COUNT


@pytest.mark.slow
def test_the_ranks_of_torchrun_share_a_data_set(recordings: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["fastdreamer", "encode", "--config", "debug", "--recordings", str(recordings)]
    command += ["--store", str(tmp_path / "store"), "device=cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment, timeout=300)
    assert len(LatentStore.open(tmp_path / "store").episodes) == COUNT

"""Counters: read from every layout, kept by the store bit for bit, and absent where a recording or store has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdreamer.config import Config, RecordConfig, TokenizerConfig
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import write_manifest
from fastdreamer.latents.store import LatentStore, read_manifest
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.counters import compact, from_arrays, to_arrays, total_gain
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.recordings.tasks import task_rewards
from recordings.fixtures import obtain_arrays, write_minerl_recording

MICRO = TokenizerConfig(
    weights="random", encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8), frames_per_latent=4, window=9
)
CONFIG = Config(device="cpu", tokenizer=MICRO)
OBTAIN = action_space("minerl_obtain")


def test_what_crafter_counted_is_what_the_store_says(tmp_path: Path) -> None:
    pytest.importorskip("crafter")
    from fastdreamer.envs.crafter import CrafterEnv
    from fastdreamer.envs.record import record

    settings = RecordConfig(episodes=1, max_steps=60, noise=0.1)
    record(Config(record=settings), tmp_path / "recordings")
    encode_recordings(CONFIG, tmp_path / "recordings", tmp_path / "store")
    stores = [LatentStore.open(tmp_path / "store", memory_limit_gb=limit) for limit in (4.0, 0.0)]
    for seed, episodes in enumerate(zip(*(store.episodes for store in stores), strict=True)):
        env = CrafterEnv(seed, 60)
        env.reset()
        counted = [env.counters]
        for action in episodes[0].actions:
            env.step(action.numpy())
            counted.append(env.counters)
        assert {"wood", "sapling", "achievement.collect_wood"} <= set(counted[0])
        for episode in episodes:
            assert set(episode.counters) == set(counted[0])
            for name, values in episode.counters.items():
                assert values.dtype == torch.int8
                assert values.tolist() == [values[name] for values in counted], name
        unlocks = task_rewards("unlocks", np.zeros(60, np.float32), _numpy(episodes[0].counters))
        assert unlocks.sum() == sum(count > 0 for name, count in counted[-1].items() if "achievement." in name) > 0


@pytest.mark.parametrize("dialect", [3, 4])
def test_minerls_inventory_is_read_in_both_dialects(tmp_path: Path, dialect: int) -> None:
    arrays = obtain_arrays(40, dialect)
    log = np.arange(41) // 7
    arrays["observation$inventory$log"] = log
    arrays["observation$inventory$log2#1" if dialect == 4 else "observation$inventory.log2#1"] = 300.0 * log
    write_minerl_recording(tmp_path, arrays, extra=3)
    read = read_recording(find_recordings(tmp_path)[0], OBTAIN)
    assert set(read.counters) == {"log", "log2#1"}
    assert np.array_equal(read.counters["log"], log) and np.array_equal(read.counters["log2#1"], 300 * log)
    assert task_rewards("log", read.rewards, read.counters).sum() == total_gain(log) == 5


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        (np.zeros(40, int), r"observation\$inventory\$log has shape \(40,\); 40 rewards need 41 rows"),
        (np.zeros((41, 2), int), r"inventory\$log is int64 of shape \(41, 2\); a counter must be whole numbers"),
        (np.full(41, "oak"), r"inventory\$log is <U3"),
        (np.where(np.arange(41) == 9, -1, 0), r"inventory\$log is -1 in row 9; a counter must be a whole number"),
        (np.where(np.arange(41) == 8, 0.5, 0), r"is 0.5 in row 8"),
        (np.where(np.arange(41) == 7, np.nan, 0), r"is nan in row 7"),
        (np.where(np.arange(41) == 6, 2**31, 0), r"is 2147483648 in row 6"),
    ],
)
def test_damaged_counters_are_named(tmp_path: Path, values: np.ndarray, refusal: str) -> None:
    write_minerl_recording(tmp_path, obtain_arrays(40) | {"observation$inventory$log": values})
    with pytest.raises(DamagedRecording, match=refusal):
        read_recording(find_recordings(tmp_path)[0], OBTAIN)


@pytest.mark.parametrize(("most", "kind"), [(127, np.int8), (128, np.int16), (2**15 - 1, np.int16), (2**15, np.int32)])
def test_integers_are_no_wider_than_they_need_be(most: int, kind: type) -> None:
    values = np.array([0, most, 0])
    assert compact(values).dtype == kind and compact(values).tolist() == values.tolist()
    assert np.diff(compact(values)).tolist() == [most, -most]


def test_names_survive_the_layout() -> None:
    counters = {name: np.arange(3) for name in ("wood", "log#0", "achievement.collect_wood", "mine_block.oak_log")}
    arrays = to_arrays(counters)
    assert list(arrays)[::2] == ["observation$inventory$wood", "observation$achievement$collect_wood"]
    assert list(from_arrays({key.replace(".", "$"): values for key, values in arrays.items()})) == list(counters)


def test_a_store_without_counters_opens_and_one_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    write_minerl_recording(tmp_path / "recordings", obtain_arrays(20))
    write_minerl_recording(tmp_path / "recordings", obtain_arrays(20), number=1)
    store = tmp_path / "store"
    config = Config(device="cpu", tokenizer=MICRO, data=type(CONFIG.data)(env="minerl_obtain"))
    encode_recordings(config, tmp_path / "recordings", store)
    assert [list(episode.counters) for episode in LatentStore.open(store).episodes] == [["log"], ["log"]]
    manifest = read_manifest(store)
    _entries(manifest)[1]["counters"] = ["log", "planks"]
    write_manifest(store, manifest)
    with pytest.raises(UserError, match=r"counters are torch.int8 \(21, 1\), not integers \(21, 2\)"):
        LatentStore.open(store)
    for entry in _entries(manifest):
        del entry["counters"]
    write_manifest(store, json.loads(json.dumps(manifest)))
    assert [dict(episode.counters) for episode in LatentStore.open(store).episodes] == [{}, {}]


def _entries(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return list(manifest["episodes"].values())


def _numpy(counters: Any) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in counters.items()}

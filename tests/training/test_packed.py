"""A packed run serves as the run does, except for going on with its phases; what it shares is checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fastdreamer
from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.kept_config import check_run
from fastdreamer.settings import differences, dump_config
from fastdreamer.tools.packing import pack as module
from fastdreamer.tools.packing.pack import Pack, pack
from fastdreamer.training.models import agent_from, prior_from, world_model_from
from fastdreamer.training.train import train

from .test_foreign import hash_anew

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(small: Callable[..., Config]) -> Config:
    return small("phase2.patience=0.5", "phase2.steps=12")


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("packed") / "run"
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
    dump_config(config, run / "config.yaml")
    for phase in (1, 2, 3):
        train(config, run, phase)
    return run


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(run, out, Pack(recordings=0))
    return out


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "copy")


def models(run: Path, config: Config) -> dict[str, nn.Module]:
    """Everything that readers make of a run's checkpoints."""
    found: dict[str, nn.Module] = {}
    for phase in (1, 2, 3):
        checkpoint = RunDirectory(run).load(phase, config)
        found[f"world {phase}"] = world_model_from(checkpoint, config, CPU)
        if phase > 1:
            found[f"agent {phase}"] = agent_from(checkpoint, config, CPU)
            found[f"prior {phase}"] = prior_from(checkpoint, config, CPU)
    return found


def weights(run: Path, config: Config) -> dict[str, torch.Tensor]:
    named = models(run, config).items()
    return {f"{name} {key}": value for name, model in named for key, value in model.state_dict().items()}


def test_everything_reads_the_weights_that_the_run_has(run: Path, packed: Path, config: Config) -> None:
    before, after = weights(run, config), weights(packed, config)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "best" in load_checkpoint(run / "checkpoints" / "phase2").tensors, "else this shows nothing of the best ones"


def test_each_tensor_stands_once_and_nothing_stands_that_only_training_needs(run: Path, packed: Path) -> None:
    files = {path.relative_to(packed).as_posix() for path in packed.rglob("*.safetensors")}
    assert files == {f"checkpoints/phase{n}/step-{step:08d}/ema.safetensors" for n, step in ((1, 6), (2, 12), (3, 4))}
    assert len({path.stat().st_mode for path in (packed / "checkpoints").rglob("*.*")}) == 1, (
        "whom it is given reads all"
    )
    assert sum((packed / f).stat().st_size for f in files) < sum(
        (run / f).stat().st_size for f in [*files, *(f.replace("ema", "frozen-world") for f in files if "e1" not in f)]
    )


def test_half_precision_is_half_the_size_and_near(run: Path, packed: Path, config: Config, tmp_path: Path) -> None:
    pack(run, tmp_path / "half", Pack(recordings=0, half=True))
    size = [sum(p.stat().st_size for p in at.rglob("ema.safetensors")) for at in (packed, tmp_path / "half")]
    assert size[1] < 0.6 * size[0]
    loaded = RunDirectory(tmp_path / "half").load(3, config).tensors
    assert {x.dtype for group in loaded.values() for x in group.values()} == {torch.float32}, "and whole in use"
    before, after = weights(packed, config), weights(tmp_path / "half", config)
    floats = [name for name in before if before[name].is_floating_point() and before[name].numel()]
    assert any(not torch.equal(before[name], after[name]) for name in floats)
    for name in floats:
        assert after[name].dtype == before[name].dtype
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)


def test_values_beyond_half_precision_stay_whole() -> None:
    from fastdreamer.run.sharing import halved

    given = {"large": torch.tensor([1e5]), "small": torch.tensor([0.5]), "count": torch.tensor([70_000])}
    assert {name: x.dtype for name, x in halved(given).items()} == {
        "large": torch.float32, "small": torch.float16, "count": torch.int64
    }  # fmt: skip


def test_the_configuration_is_the_runs_without_what_is_its_machines(packed: Path, config: Config) -> None:
    kept = RunDirectory(packed).config()
    assert set(differences(config, kept)) == {"device", "data.recordings"}
    assert (kept.device, kept.data.recordings) == ("auto", "") and config.device == "cpu"
    check_run(packed, replace(kept, device="cpu"))


def test_a_notebook_opens_it(packed: Path) -> None:
    opened = fastdreamer.open_run(packed)
    assert opened.phase == 3 and sorted(opened.checkpoints) == [1, 2, 3]
    assert opened.agent is not None and opened.world_model is not None


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_no_phase_goes_on_from_it(copy: Path, config: Config, phase: int) -> None:
    write_synthetic_store(copy / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
    with pytest.raises(UserError, match=f"is packed, without the optimiser, so phase {phase} cannot go on") as caught:
        train(config, copy, phase, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("phase", [2, 3])
def test_the_next_phase_builds_on_it_as_on_the_run(
    run: Path, packed: Path, config: Config, tmp_path: Path, phase: int
) -> None:
    shutil.copytree(run / "store", tmp_path / "other" / "store")
    train(config, tmp_path / "other", phase, checkpoint=packed / "checkpoints" / f"phase{phase - 1}")
    ours, theirs = (RunDirectory(at).load(phase, config).tensors["model"] for at in (tmp_path / "other", run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_shared_part_that_is_another_one_is_refused(copy: Path, config: Config) -> None:
    folder = copy / "checkpoints" / "phase1" / "step-00000006"
    tensors = load_file(folder / "ema.safetensors")
    save_file({name: x + 1 for name, x in tensors.items()}, folder / "ema.safetensors")
    hash_anew(folder)
    assert RunDirectory(copy).load(1, config).is_packed
    with pytest.raises(UserError, match="its frozen-world is that of phase 1, which is gone or another one"):
        RunDirectory(copy).load(2, config)


def test_only_a_packed_checkpoint_may_lack_the_trained_weights(copy: Path, config: Config) -> None:
    folder = copy / "checkpoints" / "phase1" / "step-00000006"
    state = json.loads((folder / "state.json").read_text())
    del state["packed"]
    (folder / "state.json").write_text(json.dumps(state))
    hash_anew(folder)
    with pytest.raises(UserError, match=r"it lacks model\.safetensors"):
        RunDirectory(copy).load(1, config)


def test_it_is_there_whole_or_not_at_all(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("the last thing that is written fails")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the last thing"):
        patch.setattr(module, "write_card", fail)
        pack(run, tmp_path / "out", Pack(recordings=0))
    assert list(tmp_path.iterdir()) == []
    pack(run, tmp_path / "out", Pack(recordings=0))
    with pytest.raises(UserError, match="already exists"):
        pack(run, tmp_path / "out", Pack(recordings=0))


def test_a_run_of_phase_1_alone_is_packed_and_one_without_it_is_not(run: Path, config: Config, tmp_path: Path) -> None:
    part = shutil.copytree(run, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "phase2")
    shutil.rmtree(part / "checkpoints" / "phase3")
    assert list(pack(part, tmp_path / "one", Pack(recordings=0))["phases"]) == ["1"]
    shutil.copytree(run / "checkpoints" / "phase2", part / "checkpoints" / "phase2")
    shutil.rmtree(part / "checkpoints" / "phase1")
    with pytest.raises(UserError, match="has no phase 1 checkpoint, and a world model is what is packed"):
        pack(part, tmp_path / "two", Pack(recordings=0))


def test_an_agent_of_another_world_model_keeps_its_own(run: Path, config: Config, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    folder = other / "checkpoints" / "phase1" / "step-00000006"
    tensors = load_file(folder / "ema.safetensors")
    save_file({name: x * 2 for name, x in tensors.items()}, folder / "ema.safetensors")
    hash_anew(folder)
    pack(other, tmp_path / "out", Pack(recordings=0))
    before, after = weights(other, config), weights(tmp_path / "out", config)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out" / "checkpoints" / "phase2" / "step-00000012" / "frozen-world.safetensors").exists()


@pytest.mark.parametrize(
    ("recordings", "refusal"),
    [
        (-1, "--recordings is -1; it must be at least 0"),
        (2, "held-out episodes: give --recordings 1 or fewer"),
        (1, "there is no folder /nonexistent"),
    ],
)
def test_recordings_that_are_not_there_are_a_line(run: Path, tmp_path: Path, recordings: int, refusal: str) -> None:
    with pytest.raises(UserError, match=refusal):
        pack(run, tmp_path / "out", Pack(recordings=recordings))
    assert list(tmp_path.iterdir()) == []

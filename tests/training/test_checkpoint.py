"""What a checkpoint holds is checked where it is read, and no message takes a good one away."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.errors import Stopped, UserError
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.ranks.membership import Ranks, T
from fastdreamer.recordings.actions import action_space
from fastdreamer.run import checkpoint as module
from fastdreamer.run.checkpoint import load_checkpoint, save_checkpoint, steps_in
from fastdreamer.run.metrics import read_metrics
from fastdreamer.run.rank_files import write_part
from fastdreamer.training.keeping import Keeper
from fastdreamer.training.train import train

from .test_resume import checkpoints_equal, timeless

Small = Callable[..., Config]
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, config = tmp_path_factory.mktemp("trained") / "it's a run", small()
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space("crafter"), episodes=3, steps=12, seed=0)
    train(config, run, 1)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / trained.name)


def newest(run: Path) -> Path:
    return steps_in(run / "checkpoints" / "phase1")[-1]


def write(found: Path, name: str, content: bytes) -> None:
    """Changes a file, and its hash in the manifest."""
    (found / name).write_bytes(content)
    hashes = json.loads((found / "manifest.json").read_text())
    (found / "manifest.json").write_text(json.dumps(hashes | {name: hashlib.sha256(content).hexdigest()}))


class Other:
    """Another rank that writes, in the same process."""

    def __init__(self, groups: dict[str, dict[str, torch.Tensor]]) -> None:
        self.groups = groups

    def begin(self, folder: Path) -> None:
        self.folder = folder

    def finish(self) -> dict[str, str]:
        return write_part(self.folder, 1, self.groups)


def test_what_several_ranks_wrote_is_read_as_one_and_every_file_of_it_counts(tmp_path: Path, small: Small) -> None:
    a, b, c = torch.arange(3.0), torch.arange(4.0), torch.arange(5.0)
    theirs = {"model": {"b": b}, "ema": {"a": a, "b": b}, "optimizer": {}}
    groups = {"model": {"a": a, "c": c}, "ema": {"c": c}, "frozen-world": {"a": a}}
    written = save_checkpoint(tmp_path, 1, 7, groups, small(), "synthetic", others=Other(theirs))
    found = load_checkpoint(written)
    assert {name: set(group) for name, group in found.tensors.items()} == {
        "model": {"a", "b", "c"}, "ema": {"a", "b", "c"}, "frozen-world": {"a"},
    }  # fmt: skip
    assert torch.equal(found.tensors["model"]["b"], b) and torch.equal(found.tensors["ema"]["c"], c)
    (part,) = written.glob("model-part*")
    whole = part.read_bytes()
    for damage, said in ((whole[:-1] + b"x", "SHA-256 of model-part0001"), (None, "lacks model-part0001")):
        part.unlink() if damage is None else part.write_bytes(damage)
        with pytest.raises(UserError, match=said):
            load_checkpoint(written)
        part.write_bytes(whole)
    save_file({"a": a}, part)
    write(written, part.name, part.read_bytes())
    with pytest.raises(UserError, match="a of model is in two files"):
        load_checkpoint(written)


class Elsewhere(Ranks):
    """A rank whose disk is not the main one's."""

    rank, world = 1, 2

    def from_main(self, name: str, value: T) -> T:
        return "/no/such/folder"  # type: ignore[return-value]


def test_a_rank_that_does_not_see_the_run_s_folder_says_so() -> None:
    keeper = object.__new__(Keeper)
    keeper.backend = Backend(torch.device("cpu"), "fp32", ranks=Elsewhere())
    with pytest.raises(UserError, match="/no/such/folder, where .* step 7, is not there .* that all ranks share"):
        keeper._save_part(7, {"model": {}, "ema": {}})


MANIFESTS = [
    "{}", "[]", "null", '"x"', "[" * 100_000, "{", "\0", '{"state.json": 1}', '{"state.json": {}}', "\udcff"
]  # fmt: skip


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_damaged_manifest_is_one_line_with_what_goes_on(run: Path, text: str) -> None:
    (newest(run) / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(run / "checkpoints" / "phase1")
    message, _, printed = str(caught.value).partition(" with: ")
    assert "\n" not in message and "delete" not in message and "rm " not in message
    words = shlex.split(printed)
    assert words[:2] == ["fastdreamer", "train"] and words[words.index("--run-dir") + 1] == str(run)
    assert words[words.index("--checkpoint") + 1] == str(run / "checkpoints" / "phase1" / "step-00000003")


@pytest.mark.parametrize("name", ["../../metrics.jsonl", "/etc/passwd", "a/../state.json", ".hidden.json", "x\n.json"])
def test_a_manifest_names_no_file_outside_its_checkpoint(run: Path, name: str) -> None:
    manifest = newest(run) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {name: "0" * 64}))
    with pytest.raises(UserError, match="no file of a checkpoint"):
        load_checkpoint(newest(run))


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors", "ema.safetensors"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (newest(run) / name).unlink()
    with pytest.raises(UserError, match=f"it lacks {name}"):
        load_checkpoint(newest(run))


def test_tensors_that_the_manifest_does_not_know_are_not_read(run: Path) -> None:
    save_file({"x": torch.zeros(1)}, newest(run) / "extra.safetensors")
    with pytest.raises(UserError, match="SHA-256 of extra"):
        load_checkpoint(newest(run))


CHANGES: list[Callable[[dict], object]] = [
    lambda state: state.pop("phase"),
    lambda state: state.update(step=-1),
    lambda state: state.update(step=math.nan),
    lambda state: state.update(architecture=[]),
    lambda state: state["architecture"].update(dynamics=3),
    lambda state: state.update(training=None),
    lambda state: state.update(latents=7),
    lambda state: state.update(skipped="ab"),
    lambda state: state.update(skipped=[1]),
    lambda state: state.update(forced=[{}]),
]


@pytest.mark.parametrize("change", CHANGES)
def test_content_behind_a_right_hash_is_checked(run: Path, change: Callable[[dict], object], small: Small) -> None:
    state = json.loads((newest(run) / "state.json").read_text())
    change(state)
    write(newest(run), "state.json", json.dumps(state).encode())
    with pytest.raises(UserError, match=r"damaged \(state\.json"):
        train(small(), run, 1, resume=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_read(run: Path, value: float) -> None:
    tensors = load_file(newest(run) / "ema.safetensors")
    name = next(name for name, x in tensors.items() if x.is_floating_point() and x.numel())
    tensors[name].view(-1)[0] = value
    save_file(tensors, newest(run) / "spoiled")
    write(newest(run), "ema.safetensors", (newest(run) / "spoiled").read_bytes())
    with pytest.raises(UserError, match=f"ema {name} is not finite"):
        load_checkpoint(newest(run))


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_what_cannot_be_read_may_be_whole(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, *given: object, **more: object) -> object:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *given, **more)

    plain = Path.open
    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(UserError, match="Permission denied.*may be whole, so let this account read it") as caught:
        load_checkpoint(newest(run))
    assert "delete" not in str(caught.value) and not isinstance(caught.value, module.Damaged)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_with_the_same_bits(
    run: Path, trained: Path, small: Small
) -> None:
    (newest(run) / "manifest.json").write_text("{}")
    older = steps_in(run / "checkpoints" / "phase1")[0]
    train(small("phase1.checkpoint_every=1"), run, 1, resume=True, checkpoint=older)
    assert checkpoints_equal(newest(run), newest(trained)) and timeless(run) == timeless(trained)
    assert [path.name for path in sorted(newest(run).parent.iterdir())] == ["step-00000005", "step-00000006"]
    with pytest.raises(UserError, match="newer than .* and whole: leave --checkpoint out"):
        train(small(), run, 1, resume=True, checkpoint=steps_in(run / "checkpoints" / "phase1")[0])
    assert len(steps_in(run / "checkpoints" / "phase1")) == 2


def test_a_newer_checkpoint_that_only_this_account_cannot_read_stays(
    run: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, last = steps_in(run / "checkpoints" / "phase1")
    hashed = module.sha256_file

    def fails(path: Path) -> str:
        if path.parent == last:
            raise PermissionError(13, "Permission denied", str(path))
        return hashed(path)

    monkeypatch.setattr(module, "sha256_file", fails)
    with pytest.raises(UserError, match="may be whole"):
        train(small(), run, 1, resume=True, checkpoint=older)
    assert last.is_dir()


def test_the_checkpoint_that_a_phase_was_built_on_may_be_named_again_on_resume(run: Path, small: Small) -> None:
    parent = run / "checkpoints" / "phase1"
    train(small(), run, 2, checkpoint=parent)
    train(small(), run, 2, resume=True, checkpoint=parent)


def test_a_kill_while_old_ones_are_removed_leaves_no_half_checkpoint(
    run: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(path: Path, *given: object, **more: object) -> None:
        (path / "manifest.json").unlink()
        raise Killed

    older = steps_in(run / "checkpoints" / "phase1")[0]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", killed)
        save_checkpoint(older.parent, 1, 7, {"model": {"x": torch.zeros(1)}}, small(), "synthetic")
    assert [path.name for path in steps_in(older.parent)] == ["step-00000006", "step-00000007"]
    shutil.rmtree(older.parent / "step-00000007")
    train(small("phase1.steps=7"), run, 1, resume=True)
    assert [path.name for path in sorted(older.parent.iterdir())] == ["step-00000006", "step-00000007"]


def test_weights_that_are_not_finite_are_not_saved(run: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdreamer.training import optim

    plain, calls = optim.EMA.update, []

    def spoils(ema: optim.EMA, *given: object) -> None:
        plain(ema, *given)  # type: ignore[arg-type]
        calls.append(given)
        if len(calls) == 2:
            next(value for value in ema.state.values() if value.is_floating_point()).view(-1)[0] = math.nan

    monkeypatch.setattr(optim.EMA, "update", spoils)
    with pytest.raises(Stopped, match=r"step 9: ema \S+ is not finite, so nothing was saved and older") as caught:
        train(small("phase1.steps=9"), run, 1, resume=True)
    assert "--resume" not in str(caught.value)
    assert load_checkpoint(run / "checkpoints" / "phase1").step == 6


@pytest.mark.parametrize("setting", ["phase1.log_every=1", "phase1.checkpoint_every=1"])
def test_intervals_may_change_on_resume(small: Small, run: Path, trained: Path, setting: str) -> None:
    shutil.rmtree(newest(run))
    train(small(setting), run, 1, resume=True)
    assert checkpoints_equal(newest(run), newest(trained))


def test_more_steps_go_on_at_the_rate_of_the_longer_phase_and_say_so(
    small: Small, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = small("phase1.steps=12", "phase1.log_every=1", "phase1.warmup_steps=2")
    shorter = small("phase1.warmup_steps=2")
    shutil.rmtree(run / "checkpoints")
    train(shorter, run, 1)
    capsys.readouterr()
    train(longer, run, 1, resume=True)
    assert "phase1: 12 steps instead of 6, and from step 7 on the learning rate is that of step 7 of 12" in (
        capsys.readouterr().out
    )
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(run) if row["phase"] == 1}
    peak, floor = longer.phase1.learning_rate, longer.phase1.final_rate
    for step in range(7, 13):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1 - 2) / 10))
        assert rates[step] == pytest.approx(peak * (floor + (1 - floor) * cosine))
    with pytest.raises(UserError, match=r"has done 12 steps, phase1\.steps is 6: set it to 12 or more"):
        train(shorter, run, 1, resume=True)


def test_as_root_or_not_a_pipe_in_a_checkpoint_is_no_file_of_it(run: Path) -> None:
    (newest(run) / "model.safetensors").unlink()
    os.mkfifo(newest(run) / "model.safetensors")
    with pytest.raises(UserError, match="it lacks model"):
        load_checkpoint(newest(run))

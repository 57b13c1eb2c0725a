"""A checkpoint whose hashes are right and whose content is not what the phase is made of is refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import CONTENT, load_checkpoint
from fastdreamer.system.files import sha256_file
from fastdreamer.training.train import train

Tensors = dict[str, Tensor]
OTHER: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "no random numbers": ("random", lambda d: {}),
    "random numbers cut short": ("random", lambda d: {name: x[:10] for name, x in d.items()}),
    "torch's missing": ("random", lambda d: {name: x for name, x in d.items() if name != "torch"}),
    "an optimiser of other names": ("optimizer", lambda d: {f"x{i}": x for i, x in enumerate(d.values())}),
    "of an unknown weight": ("optimizer", lambda d: d | {"0.99999.step": next(iter(d.values()))}),
    "of a third optimiser": ("optimizer", lambda d: d | {"9.0.step": next(iter(d.values()))}),
    "of other sizes": ("optimizer", lambda d: {name: x.new_zeros(2) for name, x in d.items()}),
    "an average missing": ("ema", lambda d: dict(list(d.items())[1:])),
    "an average too many": ("ema", lambda d: d | {"more": next(iter(d.values())).clone()}),
    "averages of other sizes": ("ema", lambda d: {name: x.new_zeros(0) for name, x in d.items()}),
}
STATES: dict[str, Mapping[str, Any]] = {"another step": {"step": 3}, "no phase": {"phase": 7}}


def hash_anew(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    hashes = {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(json.dumps(hashes))


@pytest.fixture(scope="module")
def trained(small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fastdreamer.latents.synthetic import write_synthetic_store
    from fastdreamer.recordings.actions import action_space

    run, config = tmp_path_factory.mktemp("foreign") / "run", small()
    write_synthetic_store(run / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
    train(config, run, 1, draws=False)
    return run


@pytest.mark.parametrize("what", [*OTHER, *STATES])
def test_what_is_not_of_the_phase_is_refused_in_a_line(
    small: Callable[..., Config], trained: Path, tmp_path: Path, what: str
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    checkpoint = run / "checkpoints" / "phase1" / "step-00000006"
    if what in OTHER:
        group, change = OTHER[what]
        file = checkpoint / f"{group}.safetensors"
        tensors = {name: x.contiguous().clone() for name, x in change(load_file(file)).items()}
        file.unlink()
        if tensors:
            save_file(tensors, file)
    else:
        state = json.loads((checkpoint / "state.json").read_text()) | STATES[what]
        (checkpoint / "state.json").write_text(json.dumps(state))
    hash_anew(checkpoint)
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError) as error:
        train(small("phase1.steps=7"), run, 1, resume=True, draws=False)
    assert str(checkpoint) in str(error.value) and "\n" not in str(error.value)
    assert sorted(run.rglob("*")) == before


def test_a_checkpoint_in_another_phases_folder_is_no_checkpoint_of_it(
    small: Callable[..., Config], trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(run / "checkpoints" / "phase1", run / "checkpoints" / "phase2")
    assert load_checkpoint(run / "checkpoints" / "phase2").phase == 1
    with pytest.raises(UserError, match="is a checkpoint of phase 1"):
        train(small(), run, 2, resume=True)


@pytest.mark.parametrize("best", [[math.nan, 3, 1], [1.0, math.inf, 1], [1.0, math.nan, 1], [1.0, 3]])
def test_the_best_loss_and_its_step_are_numbers(best: list[float]) -> None:
    shape: Any = CONTENT["best?"]
    assert shape(best) and not shape([1.0, 3, 1])

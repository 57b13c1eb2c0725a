"""Engines are built, compared, installed, found again, and refused when anything about them changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fastdreamer_engines import local_target
from test_cosmos import SHAPES

from fastdreamer.config import Config, EnginesConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer.engines import build_engines as building
from fastdreamer.tokenizer.engines import installed as engines
from fastdreamer.tokenizer.engines.build_engines import build_engines
from fastdreamer.tokenizer.engines.installed import open_tokenizer

CPU = torch.device("cpu")
HERE = local_target(CPU)
TINY = dataclasses.replace(SHAPES[8], window=17)


def tiny_config(root: Path, tokenizer: Any = TINY, **settings: Any) -> Config:
    settings = {"batches": (1, 2), **settings}
    return Config(tokenizer=tokenizer, engines=EnginesConfig(directory=str(root), **settings))


@pytest.fixture(scope="module")
def rtx_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cards") / "engines"
    built = build_engines(tiny_config(root), CPU, ["sm86"], ["tensorrt_rtx"])
    assert [row["status"] for row in built["engines"]] == ["built, not yet run"] and built["refused"] == {}
    return root


def test_an_engine_for_another_card_is_compared_in_onnx_runtime_and_says_it_never_ran(rtx_root: Path) -> None:
    (folder,) = rtx_root.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())["engine"]
    assert [(c["how"], c["shape"]) for c in manifest["parity"]] == [
        ("onnxruntime fp32", "1x17"), ("onnxruntime fp16", "1x17"), ("onnxruntime fp16", "2x17"),
    ]  # fmt: skip
    assert all(c["relative_error"] <= c["limit"] and c["limit"] <= 5e-3 for c in manifest["parity"])
    assert manifest["parity"][0]["relative_error"] <= 5e-5 == manifest["parity"][0]["limit"]
    assert manifest["inputs"]["2x17"] == [2, 3, 17, 32, 32] and manifest["outputs"]["2x17"] == [2, 16, 3, 4, 4]
    assert set(manifest["files"]) == {"1x17.plan", "2x17.plan"} and manifest["measured"] == {}
    assert rtx_root.stat().st_mode & 0o777 == 0o700 == folder.stat().st_mode & 0o777


def test_a_second_build_keeps_what_is_current_and_rebuilds_what_is_not(rtx_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(rtx_root, tmp_path / "engines")
    root.chmod(0o700)
    arguments = (tiny_config(root), CPU, ["sm86"], ["tensorrt_rtx"])
    before = (next(root.iterdir()) / "manifest.json").read_bytes()
    (row,) = build_engines(*arguments)["engines"]
    assert row["kept"] and (Path(row["folder"]) / "manifest.json").read_bytes() == before
    plan = Path(row["folder"]) / "1x17.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"\0")
    (row,) = build_engines(*arguments)["engines"]
    assert not row["kept"]
    (row,) = build_engines(*arguments)["engines"]
    assert row["kept"]


def test_an_engine_for_a_card_does_not_serve_this_machine(rtx_root: Path) -> None:
    assert open_tokenizer(tiny_config(rtx_root), CPU).backend == "eager"
    with pytest.raises(UserError, match="no tensorrt_rtx engine of this tokenizer for cpu.*build-engines --backend"):
        open_tokenizer(tiny_config(rtx_root, backend="tensorrt_rtx"), CPU)


def test_an_engine_of_another_card_under_this_machines_name_is_refused(rtx_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "engines"
    (folder,) = rtx_root.iterdir()
    shutil.copytree(folder, root / folder.name.replace("sm86", HERE))
    root.chmod(0o700)
    with pytest.raises(UserError, match=f"target sm86 instead of {HERE}; rebuild it with: fastdreamer build-engines"):
        open_tokenizer(tiny_config(root), CPU)


@pytest.mark.parametrize(
    ("targets", "backends", "word"),
    [
        (["gpu"], [], "target 'gpu' is none"),
        (["sm86"], ["fast"], "no engine backend 'fast'"),
        (["sm86"], ["aot-inductor"], "cannot be built here"),
        (["sm90"], ["tensorrt_rtx"], "TensorRT-RTX does not build for sm90"),
        (["sm86"], ["torch-tensorrt"], "torch_tensorrt cannot be imported|cannot be built here"),
    ],
)
def test_what_cannot_be_built_here_is_refused_in_one_line(
    tmp_path: Path, targets: list[str], backends: list[str], word: str
) -> None:
    with pytest.raises(UserError, match=word) as caught:
        build_engines(tiny_config(tmp_path / "engines"), CPU, targets, backends)
    assert "\n" not in str(caught.value)


def test_lengths_that_are_none_of_the_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="acting_frames 10"):
        build_engines(tiny_config(tmp_path, acting_frames=(10,)), CPU, ["sm86"], ["tensorrt_rtx"])


def test_a_graph_over_its_limit_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(building.LIMITS, "fp32", 1e-9)
    built = build_engines(tiny_config(tmp_path / "engines", batches=(1,)), CPU, ["sm86"], ["tensorrt_rtx"])
    assert built["engines"] == [] and "the limit of fp16 is 1e-09: not installed" in next(
        iter(built["refused"].values())
    )
    assert list((tmp_path / "engines").iterdir()) == []


def test_names_tell_tokenizers_apart_by_what_the_user_calls_them(tmp_path: Path) -> None:
    variants = [TINY, dataclasses.replace(TINY, seed=1), dataclasses.replace(TINY, weights="weights/a/vae")]
    variants.append(dataclasses.replace(TINY, weights="weights/b/vae"))
    names = [engines.identity(tiny_config(tmp_path, tokenizer)) for tokenizer in variants]
    assert len(set(names)) == len(names) and names[2].startswith("a-vae-")


@pytest.mark.long
def test_a_killed_build_leaves_the_cache_sound_and_the_next_one_goes_on(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
import test_engines as t
config = t.tiny_config(Path({str(tmp_path / "engines")!r}), batches=(1,))
t.build_engines(config, t.CPU, ["sm86"], ["tensorrt_rtx"])
t.build_engines(config, t.CPU)
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    root, deadline = tmp_path / "engines", time.monotonic() + 120
    while not list(root.glob(".*aot-inductor*.tmp-*")):  # the second engine has begun
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert open_tokenizer(tiny_config(root), CPU).backend == "eager"
    rows = build_engines(tiny_config(root, batches=(1,)), CPU, ["sm86"], ["tensorrt_rtx"])["engines"]
    rows += build_engines(tiny_config(root, batches=(1,)), CPU)["engines"]
    assert [row["kept"] for row in rows] == [True, False]
    assert sorted(path.name for path in root.iterdir()) == sorted(Path(row["folder"]).name for row in rows)


def test_the_command_prints_a_table_and_json_and_its_exit_code_tells_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastdreamer.cli import main

    words = ["build-engines", "--config", "debug", "--random-weights", "--target", "sm120", "--backend", "tensorrt_rtx"]
    words += [f"engines.directory={tmp_path / 'engines'}", "engines.batches=[1]", "--json"]
    with monkeypatch.context() as patch:
        patch.setitem(building.LIMITS, "fp32", 1e-12)
        assert main(words) == 1
    assert "REFUSED" in capsys.readouterr().out
    assert main(words) == 0
    *table, last = capsys.readouterr().out.splitlines()
    (row,) = json.loads(last)["engines"]
    assert any(line.split()[:4] == ["encoder", "tensorrt_rtx", "sm120", "fp16"] for line in table)
    assert row["bytes"] > 0 and row["gflop"].keys() == {"1x33"} and not row["kept"]

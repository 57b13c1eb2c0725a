"""Weights that are missing, damaged or not the run's; engines that are stale, damaged, or of no concern."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fastdreamer_engines import local_target
from fastdreamer_engines.manifest import MANIFEST, manifest_bytes

from fastdreamer.config import Config, load_config
from fastdreamer.system.advice import Call, running
from fastdreamer.tokenizer.cosmos import EMBEDDED
from fastdreamer.tokenizer.engines.engine_jobs import engine_spec
from fastdreamer.tokenizer.engines.installed import UNRUN, VERIFIED, engine_key, folder_name
from fastdreamer.tools.doctor.tokenizer_component import engine_rows, weights_part

HERE = local_target(torch.device("cpu"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "weights"))


def config_of(*overrides: str) -> Config:
    return load_config("crafter", overrides)


def test_the_embedded_weights_are_ok() -> None:
    part = weights_part(config_of())
    assert part.verdict == "ok" and part.found.startswith("embedded, fingerprint ")
    assert "random" in weights_part(config_of("tokenizer.weights=random")).found


def test_missing_weights_come_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    part = weights_part(config_of(f"tokenizer.weights={tmp_path / 'none'}"))
    assert (part.found, part.verdict) == ("not there", "missing")
    assert part.mend == f"fastdreamer fetch-weights --out {tmp_path / 'none'}"
    assert weights_part(config_of("tokenizer.weights=none.pt")).mend == "mend the path"


def test_weights_of_another_shape_are_wrong(own: Path) -> None:
    part = weights_part(config_of(f"tokenizer.weights={own}", "tokenizer.spatial_compression=16", "tokenizer.pool=1"))
    assert part.verdict == "wrong" and "compresses by 8 in space" in part.found and part.mend == "set it to 8"


def test_weights_that_changed_since_they_were_fetched_are_wrong(own: Path) -> None:
    names = ("config.json", "diffusion_pytorch_model.safetensors")
    record = {name: {"sha256": "0" * 64, "bytes": (own / name).stat().st_size} for name in names}
    (own / "fetched.json").write_text(json.dumps({"repo": "a/b", "revision": "0" * 40, "files": record}))
    part = weights_part(config_of(f"tokenizer.weights={own}"))
    assert part.verdict == "wrong" and "damaged or changed" in part.found and "fastdreamer fetch-weights" in part.mend


def test_weights_that_cannot_be_read_are_wrong(own: Path) -> None:
    (own / "config.json").write_text("{")
    assert weights_part(config_of(f"tokenizer.weights={own}")).verdict == "wrong"


def test_latents_of_another_tokenizer_are_wrong(tmp_path: Path) -> None:
    key = {"tokenizer": "f" * 32, "frames_per_latent": 1, "window": 1}
    space = {"name": "crafter", "fingerprint": "0" * 32}
    manifest: dict[str, Any] = {"format": 1, "key": key, "space": space, "episodes": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    part = weights_part(config_of(), tmp_path)
    assert part.verdict == "wrong" and "the run's latents are of ffffffffffff" in part.found
    assert weights_part(config_of(), tmp_path / "none").verdict == "ok"


def install(root: Path, config: Config, target: str = HERE, backend: str = "aot-inductor", **changed: str) -> Path:
    """An engine as build-engines writes it, but for what the backend would compile."""
    spec = engine_spec(config, "encoder", target)
    folder = root / folder_name(config, spec, backend, target)
    folder.mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    (folder / "1x1.pt2").write_bytes(b"machine code")
    key = engine_key(config, spec, backend, target) | changed
    body = {"key": key, "spec": spec.to_dict(), "status": VERIFIED if target == HERE else UNRUN}
    (folder / MANIFEST).write_bytes(manifest_bytes(folder, body))
    return folder


def rows_of(config: Config) -> list[dict[str, Any]]:
    found = engine_rows(config)
    assert found["error"] == ""
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def test_engines_are_listed_with_their_states(tmp_path: Path) -> None:
    root = tmp_path / "engines"
    config = config_of(f"engines.directory={root}")
    assert engine_rows(config) == {"root": str(root), "rows": [], "error": "", "lacking": ""}
    install(root, config)
    install(root, config, "sm86", "tensorrt_rtx")
    (root / "timing.cache").write_text("")
    (root / ".scratch.tmp-1").mkdir()
    rows = rows_of(config)
    assert [(row["backend"], row["target"], row["precision"], row["state"]) for row in rows] == [
        ("tensorrt_rtx", "sm86", "fp16", UNRUN), ("aot-inductor", HERE, "fp32", VERIFIED),
    ]  # fmt: skip
    assert not any(row["blocks"] or row["mend"] for row in rows)


def test_a_stale_engine_blocks_and_names_what_changed_and_the_command(tmp_path: Path) -> None:
    config = config_of(f"engines.directory={tmp_path / 'engines'}")
    folder = install(tmp_path / "engines", config, library="torch 2.12.0 abc")
    with running(Call((), {"config": "crafter"})):
        (row,) = rows_of(config)
    assert row["state"] == "stale" and row["blocks"] and row["reason"].startswith("was built with library torch 2.12.0")
    assert row["mend"] == "fastdreamer build-engines --config crafter --backend aot-inductor --precision fp32"
    assert str(folder) not in row["reason"]
    eager = config_of(f"engines.directory={tmp_path / 'engines'}", "engines.backend=eager")
    assert [row["blocks"] for row in rows_of(eager)] == [False]


def test_damaged_engines_are_told_from_stale_ones(tmp_path: Path, monkeypatch) -> None:
    config = config_of(f"engines.directory={tmp_path / 'engines'}")
    folder = install(tmp_path / "engines", config)
    code = folder / "1x1.pt2"
    code.write_bytes(b"machine c0de")
    (row,) = rows_of(config)
    assert (row["state"], row["blocks"]) == ("damaged", True) and "1x1.pt2" in row["reason"]
    monkeypatch.setattr("fastdreamer.tools.doctor.tokenizer_component.HASHED_BYTES", 0)  # too large to be read whole
    assert rows_of(config)[0]["state"] == VERIFIED
    code.write_bytes(b"machine")
    assert rows_of(config)[0]["state"] == "damaged"
    (folder / MANIFEST).write_text("{}")
    assert rows_of(config)[0]["state"] == "damaged"
    (folder / MANIFEST).unlink()
    assert rows_of(config)[0]["state"] == "damaged"


def test_engines_of_another_tokenizer_or_card_block_nothing(tmp_path: Path) -> None:
    root = tmp_path / "engines"
    config = config_of(f"engines.directory={root}")
    other = config_of(f"engines.directory={root}", "tokenizer.weights=random")
    install(root, other, library="torch 2.12.0 abc")
    install(root, config, "sm86", "tensorrt_rtx", library="tensorrt_rtx 1.6")
    rows = {row["backend"]: row for row in rows_of(config)}
    assert rows["aot-inductor"]["state"] == VERIFIED and "another tokenizer" in rows["aot-inductor"]["reason"]
    assert rows["tensorrt_rtx"]["state"] == "stale" and "--target sm86" in rows["tensorrt_rtx"]["mend"]
    assert not any(row["blocks"] for row in rows.values())


def test_a_backend_that_is_named_and_not_installed_is_said(tmp_path: Path) -> None:
    config = config_of(f"engines.directory={tmp_path / 'engines'}", "engines.backend=aot-inductor")
    assert engine_rows(config)["lacking"] == "aot-inductor"
    install(tmp_path / "engines", config)
    assert engine_rows(config)["lacking"] == ""


def test_engines_that_others_may_write_to_are_wrong(tmp_path: Path) -> None:
    root = tmp_path / "engines"
    root.mkdir()
    root.chmod(0o777)
    assert "can be written by others" in engine_rows(config_of(f"engines.directory={root}"))["error"]

"""The whole pipeline on configs/debug.yaml, as a user runs it: real Crafter, every phase, evaluation and report."""

from __future__ import annotations

import dataclasses
import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastdreamer.system.files import sha256_file
from fastdreamer.tools.packing.card import read_card, told

SHORT = ["record.episodes=4", "record.max_steps=60", "evaluation.episodes=2", "evaluation.max_steps=16"]
COMMAND = [sys.executable, "-c", "from fastdreamer.cli import run; run()"]


def fastdreamer(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    done = fastdreamer("demo", "--config", "debug", "--run-dir", str(folder), "--json", *SHORT)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["eval"] == json.loads((folder / "summary.json").read_text())["eval"]
    return folder


def test_the_summary_holds_policies_controls_losses_and_seconds(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    for policy in ("random", "phase2", "phase3"):
        row = summary["eval"]["policies"][policy]
        assert row["episodes"] == 2 and row["return_low"] <= row["return_mean"] <= row["return_high"]
    assert {"shuffled_over_real", "noop_over_real"} <= summary["world_model"]["ratios"].keys()
    assert {"phase1", "phase2", "phase3"} <= summary["losses"].keys()
    assert {"record", "encode", "phase1", "phase2", "phase3", "eval"} <= summary["seconds"].keys()


def test_the_report_stands_alone_with_filmstrips(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert 'src="http' not in page and "<script" not in page


def test_diagnose_prints_a_table_and_json_and_its_exit_code_tells_a_red_flag(run_dir: Path) -> None:
    done = fastdreamer("diagnose", "--run-dir", str(run_dir), "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == int(result["red"] > 0) and "Traceback" not in done.stderr, done.stderr
    assert list(result["phases"]) == ["phase1", "phase2", "phase3"] and "expected" in done.stdout
    kept = json.loads((run_dir / "diagnosis.json").read_text())["phases"]
    raised = [c for phase in kept.values() for c in phase["checks"] if c["verdict"] in ("red", "amber")]
    page = (run_dir / "report.html").read_text()
    assert raised and all(html.escape(c["name"]) in page for c in raised), "the report shows what is raised"
    assert "D+ and" in page and "Values against lambda-returns" in page
    assert list((run_dir / "diagnosis" / "phase1").glob("*reconstruction.png"))


def test_an_audit_plays_the_real_game_on_from_recorded_and_own_states(run_dir: Path) -> None:
    import torch

    from fastdreamer.config import load_config
    from fastdreamer.device import Backend
    from fastdreamer.run.directory import RunDirectory
    from fastdreamer.tools.diagnosis.audit import Effort, audit

    config = load_config(str(run_dir / "config.yaml"), ["imagination.horizon=1", "evaluation.max_steps=16"])
    found = audit(config, RunDirectory(run_dir), Backend(torch.device("cpu"), "fp32"), Effort(states=2, tries=2))
    assert {kind: of["states"] for kind, of in found["kinds"].items()} == {"recorded": 2, "own": 2}
    assert found["notes"] == [], "what was recorded plays again as it was recorded"


def checks_of(run_dir: Path, phase: int) -> dict[str, dict[str, str]]:
    done = fastdreamer("diagnose", "--phase", str(phase), "--run-dir", str(run_dir), "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    return {c["name"]: c for c in result["phases"][f"phase{phase}"]["checks"]}


def test_a_store_of_other_latents_than_the_recordings_give_is_a_flag(run_dir: Path, tmp_path: Path) -> None:
    from fastdreamer.latents.episode import write_episode
    from fastdreamer.latents.manifest import write_manifest
    from fastdreamer.latents.store import LatentStore, read_manifest

    run = shutil.copytree(run_dir, tmp_path / "run")
    manifest = read_manifest(run / "store")
    for episode in LatentStore.open(run / "store").episodes:
        changed = dataclasses.replace(episode, latents=episode.latents.flip(1))
        manifest["episodes"][episode.name] = write_episode(run / "store", changed, "test")
    write_manifest(run / "store", manifest)
    found, before = checks_of(run, 2)["stored against fresh latents"], checks_of(run_dir, 2)
    assert found["verdict"] == "red" and "encode again" in found["remedy"]
    assert before["stored against fresh latents"]["verdict"] == "ok" == before["latent steps"]["verdict"]
    assert before["latent steps"]["value"] == "5 of 33 frames" and before["input range"]["verdict"] == "ok"


def test_eval_prints_the_same_shape_of_numbers(run_dir: Path) -> None:
    done = fastdreamer("eval", "--run-dir", str(run_dir), "--json")
    assert done.returncode == 0, done.stderr
    policies = json.loads(done.stdout.splitlines()[-1])["eval"]["policies"]
    assert {"random", "phase2", "phase3"} <= policies.keys()


def test_a_finished_demo_runs_again_without_training_again(run_dir: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (run_dir / "checkpoints").rglob("model.safetensors")}
    done = fastdreamer("demo", "--config", "debug", "--run-dir", str(run_dir), *SHORT)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_packed_run_is_evaluated_reported_and_inspected_and_its_phases_do_not_go_on(
    run_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    done = fastdreamer("pack", "--run-dir", str(run_dir), "--out", str(out), "--recordings", "1", "--half", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "card.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]).items() >= card.items()
    episodes = card["data"]["train"]["episodes"], card["data"]["held_out"]["episodes"]
    assert sum(episodes) == 4 == sum(kind["episodes"] for kind in card["data"]["players"].values())
    assert card["data"]["recorded"]["seed"] == 0 and card["data"]["licence"].startswith("MIT")
    world_model = json.loads((run_dir / "world_model.json").read_text())
    assert card["open_loop"]["copy_last"] == world_model["copy_last"] and len(card["phases"]) == 4
    row = card["returns"]["reward"]["phase3"]
    assert row["return_low"] <= row["return_mean"] <= row["return_high"] and row["episodes"] == 2
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {*card["sha256"], "card.json"} and all(sha256_file(out / f) == h for f, h in card["sha256"].items())
    (recording,) = (out / "recordings").glob("*/*")
    entry = json.loads((out / "store" / "manifest.json").read_text())["episodes"]
    assert list(entry) == card["recordings"] == [recording.name] and entry[recording.name]["split"] == "held_out"

    shown = told(read_card(out))
    assert "error" in shown and f"held out: {episodes[1]} episodes" in shown["data"]
    assert "phase3 " in shown["returns, reward"]
    assert read_card(run_dir) == {}

    for words in (["eval", *SHORT[2:]], ["report"], ["inspect"]):
        done = fastdreamer(*words, "--run-dir", str(out))
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr
    done = fastdreamer("diagnose", "--phase", "3", "--run-dir", str(out))
    assert done.returncode == 2 and "give the run that it was packed from" in done.stderr
    assert json.loads((out / "evaluation.json").read_text())["policies"]["phase3"]["episodes"] == 2
    done = fastdreamer("train", "--phase", "1", "--resume", "--run-dir", str(out))
    assert done.returncode == 2 and "is packed, without the optimiser" in done.stderr
    done = fastdreamer("pack", "--run-dir", str(run_dir), "--out", str(out))
    assert done.returncode == 2 and "already exists" in done.stderr


def test_pack_takes_no_settings(run_dir: Path, tmp_path: Path) -> None:
    done = fastdreamer("pack", "--run-dir", str(run_dir), "--out", str(tmp_path / "out"), "phase1.steps=3")
    assert done.returncode == 2 and "leave --config and settings out" in done.stderr and not list(tmp_path.iterdir())


def test_a_flipped_byte_in_a_latent_file_is_one_line_and_exit_2(run_dir: Path) -> None:
    file = sorted((run_dir / "store" / "episodes").iterdir())[0]
    clean = file.read_bytes()
    spoiled = bytearray(clean)
    spoiled[-1] ^= 1
    file.write_bytes(bytes(spoiled))
    done = fastdreamer("train", "--phase", "2", "--resume", "--run-dir", str(run_dir))
    file.write_bytes(clean)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error:" in line and file.name in line]
    assert "Traceback" not in done.stderr

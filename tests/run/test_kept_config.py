"""A run's configuration: held against its hash, and never in the way of a corrected command."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from fastdreamer.config import Config, load_config
from fastdreamer.errors import Stopped, UserError
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.kept_config import check_run, kept_configuration, run_config
from fastdreamer.settings import dump_config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    dump_config(load_config("debug"), tmp_path / "config.yaml")
    return tmp_path


def test_no_flipped_byte_is_accepted_with_another_content(run: Path) -> None:
    """Of 600 flipped bytes 7 were accepted once."""
    clean, config = (run / "config.yaml").read_bytes(), load_config("debug")
    chance, refused = random.Random(0), 0
    for _ in range(150):
        spoiled = bytearray(clean)
        spoiled[chance.randrange(len(clean))] ^= 1 << chance.randrange(8)
        (run / "config.yaml").write_bytes(bytes(spoiled))
        try:
            assert RunDirectory(run).config() == config
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_a_digit_that_still_reads_is_refused_and_taken_without_the_first_line(run: Path) -> None:
    text = (run / "config.yaml").read_text().replace("seed: 0", "seed: 8")
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not what was written .* take that line out"):
        RunDirectory(run).config()
    (run / "config.yaml").write_text(text.partition("\n")[2])
    assert RunDirectory(run).config().seed == 8


def test_comments_and_order_and_older_versions_are_no_change(run: Path) -> None:
    import hashlib
    import json

    from fastdreamer.system.yaml_text import dump_yaml, parse_yaml

    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "# mine\n\n")
    run_config(run)
    tree = parse_yaml((run / "config.yaml").read_text(), "text")
    del tree["imagination"]["critic_bias"], tree["study"]  # of a version that did not have them
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    (run / "config.yaml").write_text(f"# resolved configuration {digest}\n{dump_yaml(tree)}")
    assert RunDirectory(run).config() == load_config("debug")


WRONG = ["phase1.steps=7", "seed=3"]


@pytest.mark.parametrize(
    "error", [KeyError("ours"), UserError("no"), Stopped("no"), KeyboardInterrupt(), SystemExit(143)]
)
def test_a_command_that_made_nothing_leaves_nothing_that_refuses_the_corrected_one(
    tmp_path: Path, error: BaseException
) -> None:
    run = tmp_path / "run"
    with pytest.raises(type(error)), kept_configuration(run, load_config("debug", WRONG)):
        (run / "store").mkdir()
        (run / "store" / "manifest.json").touch()
        raise error
    assert not (run / "config.yaml").exists()
    with kept_configuration(run, load_config("debug")):
        pass


@pytest.mark.parametrize("made", ["checkpoints/phase1/step-00000003", "store/episodes/a.safetensors"])
@pytest.mark.parametrize("error", [KeyError("ours"), UserError("no"), Stopped("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_new", [True, False])
def test_the_configuration_stays_with_what_was_made_with_it(
    tmp_path: Path, error: BaseException, made: str, is_new: bool
) -> None:
    longer = load_config("debug", ["phase1.steps=70"])
    if not is_new:
        dump_config(load_config("debug"), tmp_path / "config.yaml")
    with pytest.raises(type(error)), kept_configuration(tmp_path, longer):
        (tmp_path / made).mkdir(parents=True)
        raise error
    assert RunDirectory(tmp_path).config() == longer


def test_a_full_disk_is_told_and_not_that_the_configuration_could_not_be_put_back(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise UserError("cannot write config.yaml: the disk is full")

    with (
        pytest.raises(UserError, match="cannot write the store"),
        kept_configuration(run, load_config("debug", ["phase1.steps=70"])),
    ):
        monkeypatch.setattr("fastdreamer.run.kept_config.write_atomic", full)
        raise UserError("cannot write the store: the disk is full")


def test_an_edited_configuration_gets_a_right_first_line_with_the_next_work(run: Path) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("seed: 0", "seed: 8"))
    config: Config = load_config(run / "config.yaml")  # as --config
    with kept_configuration(run, config):
        pass
    assert RunDirectory(run).config().seed == 8 and re.match("# resolved", (run / "config.yaml").read_text())


def left_by_a_kill(run: Path) -> None:
    """What `train` has written before its first checkpoint is whole."""
    dump_config(load_config("debug", ["phase1.learning_rate=1"]), run / "config.yaml")
    for name in ("tensorboard/phase1", "checkpoints/phase1/.step-00000003.tmp-1", "store/episodes"):
        (run / name).mkdir(parents=True)
    for name in ("metrics.jsonl", "store.json", "flags.json", "error-20260101-000000-x.txt", ".lock"):
        (run / name).touch()


def test_a_command_that_was_killed_before_it_made_anything_does_not_refuse_the_corrected_one(tmp_path: Path) -> None:
    left_by_a_kill(tmp_path)
    with kept_configuration(tmp_path, load_config("debug")):
        pass
    assert RunDirectory(tmp_path).config() == load_config("debug")


@pytest.mark.parametrize(
    "made",
    [
        "checkpoints/phase0/step-00000010",
        "store/episodes/a.safetensors",
        "recordings/Crafter-expert/v3_x/recording.mp4",
        "evaluation.json",
        "seed-0/checkpoints",
        "what nobody knows",
    ],
)
def test_whatever_may_have_been_made_with_a_configuration_binds_it(tmp_path: Path, made: str) -> None:
    left_by_a_kill(tmp_path)
    (tmp_path / made).mkdir(parents=True)
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"was made with phase1\.learning_rate=1"):
        check_run(tmp_path, load_config("debug"))
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("change", [("# resolved", "# mine"), ("seed: 0", "seed: 8")])
def test_a_configuration_that_somebody_wrote_binds_also_where_nothing_was_made(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    dump_config(load_config("debug"), tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace(*change))
    with pytest.raises(UserError, match=r"was made with"):
        check_run(tmp_path, load_config("debug", ["seed=1"]))


def test_a_phase_2_that_saved_nothing_binds_no_task(tmp_path: Path) -> None:
    dump_config(load_config("debug"), tmp_path / "config.yaml")
    (tmp_path / "checkpoints" / "phase1" / "step-00000003").mkdir(parents=True)
    (tmp_path / "checkpoints" / "phase2" / ".step-00000003.tmp-1").mkdir(parents=True)
    check_run(tmp_path, load_config("debug", ["sampling.clone_top=0.5"]))
    (tmp_path / "checkpoints" / "phase2" / "step-00000003").mkdir()
    with pytest.raises(UserError, match=r"sampling\.clone_top"):
        check_run(tmp_path, load_config("debug", ["sampling.clone_top=0.5"]))


@pytest.mark.parametrize("text", ["", "\n\n", "# resolved configuration 12", "---\n"])
def test_a_configuration_that_lost_its_content_does_not_stand_for_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is empty"):
        RunDirectory(tmp_path).config()

"""Configuration files as editors, shells and people write them: read as they are meant, or refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from fastdreamer.config import Config, DataConfig, load_config
from fastdreamer.errors import UserError
from fastdreamer.settings import dump_config
from fastdreamer.system.files import anchored


@pytest.mark.parametrize(
    ("text", "read", "wanted"),
    [
        ("compile: off", "compile", "off"),
        ("compile: on", "compile", "on"),
        ("phase1: {steps: 1e4}", "phase1.steps", 10_000),
        ("phase1: {steps: 2.0}", "phase1.steps", 2),
        ("seed: 010", "seed", 10),
        ("seed: 0o17", "seed", 15),
        ("seed: 0x1f", "seed", 31),
        ("seed: 1_000", "seed", 1000),
        ("imagination: {capture: off}", "imagination.capture", "off"),
        ("tasks: {names: [on, 12:30, no]}", "tasks.names", ("on", "12:30", "no")),
        ("data: {store: 12:30}", "data.store", "12:30"),
        ("data: {skip_null: yes}", "data.skip_null", True),
        ("data: {skip_null: Off}", "data.skip_null", False),
    ],
)
def test_plain_words_and_numbers_mean_what_they_say(load, text, read, wanted):
    def setting(config: Config):
        found = config
        for name in read.split("."):
            found = getattr(found, name)
        return found

    found = setting(load(text))
    assert found == wanted and type(found) is type(wanted)
    section, _, rest = text.partition(": ")
    if not rest.startswith("{"):
        assert setting(load("", f"{section}={rest}")) == wanted


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=12:30", "seed must be an integer, found '12:30' (str)"),
        ("seed=0x_", "seed must be an integer, found '0x_' (str)"),
        (f"seed={2**64}", f"seed is {2**64} (int); it must be a number that 64 bits hold"),
        (f"seed={2**63 - 1}", "it must be at most 4611686018427387904"),
        ("record.seed=-1", "record.seed is -1; it must be at least 0"),
        (f"phase1.steps={10**30}", "that 64 bits hold"),
        ("phase1.steps=1.5", "phase1.steps must be an integer, found 1.5 (float)"),
        ("phase1.steps=1e23", "phase1.steps must be an integer, found 1e+23 (float)"),
        (f"phase1.learning_rate={'9' * 399}", "phase1.learning_rate must be a number, found 999"),
        ("phase1.learning_rate=1e400", "it must be a finite number"),
        (f"seed={'9' * 5000}", "not valid YAML: a number of 5000 digits"),
        ("seed=!!timestamp 2001-01-01", "not valid YAML: could not determine a constructor"),
        ("seed=2001-01-01", "seed must be an integer, found '2001-01-01' (str)"),
        ("seed=!!set {a}", "not valid YAML: could not determine a constructor"),
        ("seed=!!int x", "not valid YAML"),
        ("seed=!!binary x", "not valid YAML"),
        ("seed=&a [*a]", "not valid YAML: an alias leads back into itself"),
        ("phase1=&a {steps: *a}", "not valid YAML: an alias leads back into itself"),
        (f"seed={'[' * 5000}", "not valid YAML: it is nested too deeply"),
        (f"seed={'[' * 5000}{']' * 5000}", "not valid YAML: it is nested too deeply"),
        ("data.store=a\0b", "a text holds no NUL character"),
        (f"{'x' * 10**6}=1", "unknown setting"),
    ],
)
def test_no_override_is_a_traceback(load, override, words):
    with pytest.raises(UserError) as error:
        load("", override)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_aliases_that_grow_without_bound_are_refused_at_once(load):
    lines = ["a: &a0 [x, x]"] + [f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(12)]
    with pytest.raises(UserError, match="more than 10,000 values"):
        load("\n".join(lines))
    with pytest.raises(UserError, match="more than 10,000 values"):
        load("a: &x0 {k: 1}\n" + "\n".join(f"m{i}: &x{i + 1} {{a: *x{i}, b: *x{i}}}" for i in range(30)))


@pytest.mark.parametrize(
    "text", ["off", "12:30", "1e4", "010", "0o17", "2001-01-01", "~", "", "caf\u00e9", "\x1b[2J", "<<"]
)
def test_every_text_survives_the_disk(tmp_path, text):
    config = dataclasses.replace(Config(), data=DataConfig(store=text))
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@given(st.text(max_size=30))
@example_settings(max_examples=150)
def test_any_text_is_read_or_refused_in_one_line(text):
    for override in (f"seed={text}", f"tasks.names={text}", text):
        with contextlib.suppress(UserError):
            load_config("debug", [override])


def test_folders_mean_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    overrides = ["data.store=my store", "data.recordings=~/played", "engines.directory=~/e", "tokenizer.weights=w/vae"]
    config = anchored(load_config("debug", overrides))
    assert config.data.store == str(tmp_path / "my store")
    assert config.data.recordings == str(tmp_path / "home" / "played")
    assert config.engines.directory == str(tmp_path / "home" / "e")
    assert config.tokenizer.weights == "w/vae"
    assert anchored(config, weights=True).tokenizer.weights == str(tmp_path / "w" / "vae")
    assert anchored(load_config("debug"), weights=True) == load_config("debug")


def test_folders_beside_a_file_are_found_from_elsewhere(tmp_path, monkeypatch):
    place, other = tmp_path / "place", tmp_path / "other"
    (place / "store").mkdir(parents=True)
    other.mkdir()
    (place / "my.yaml").write_text("base: debug\ndata: {store: store, recordings: played}\n")
    monkeypatch.chdir(other)
    found = anchored(load_config(place / "my.yaml")).data
    assert found.store == str(place / "store") and found.recordings == str(other / "played")
    monkeypatch.chdir(place)
    assert anchored(load_config("./my.yaml")).data.store == str(place / "store")
    (other / "store").mkdir()
    monkeypatch.chdir(other)
    with pytest.raises(UserError, match="data.store is store, which is both .*place/store and .*other/store"):
        load_config(place / "my.yaml")
    dump_config(dataclasses.replace(Config(), data=DataConfig(store="store")), place / "config.yaml")
    assert load_config(place / "config.yaml").data.store == "store"  # a run's, of before


@pytest.mark.parametrize("text", ["~nosuchuser", "~nosuchuser/x", "~"])
def test_a_home_that_is_not_there_is_one_line(tmp_path, monkeypatch, text):
    def fail(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    with pytest.raises(UserError, match="no home directory|no user 'nosuchuser'"):
        anchored(load_config("debug", [f"data.store={text}"]))
    with pytest.raises(UserError, match="no home directory|no user 'nosuchuser'"):
        load_config(f"{text}/x.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_another_editor_is_read(tmp_path, encoding, end):
    """As Notepad and PowerShell write them."""
    data = f"seed: 3{end}phase1:{end}  steps: 4{end}data: {{store: caf\u00e9}}{end}".encode(encoding)
    (tmp_path / "a.yaml").write_bytes(b"\xfe\xff" + data if encoding == "utf-16-be" else data)
    config = load_config(tmp_path / "a.yaml")
    assert (config.seed, config.phase1.steps, config.data.store) == (3, 4, "caf\u00e9")


def test_an_encoding_that_nothing_tells_is_named_with_its_line(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"seed: 3\n# caf\xe9\n")
    with pytest.raises(UserError, match=r"a\.yaml, line 2: it cannot be read as UTF-8: save it as UTF-8"):
        load_config(tmp_path / "a.yaml")


def test_a_section_whose_lines_are_all_comments_changes_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("base: debug\nphase1:\n  # steps: 4\nphase2:\n")
    assert load_config(tmp_path / "a.yaml") == load_config("debug")
    assert load_config("debug", ["phase1=", "phase2=~"]) == load_config("debug")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1\u0663", "seed must be an integer, found '1\u0663' (str)"),
        ("phase1.learning_rate=1\u0663.5", "phase1.learning_rate must be a number, found '1\u0663.5' (str)"),
        ("data.store=\ud800", "data.store is '\\ud800' (str); a text holds no half of a character"),
        ("tasks.names=reward", "tasks.names must be a list, found 'reward' (str): write [reward]"),
        ("tasks.names=a,b", "write [a,b]"),
        ("engines.batches=(1,2)", "write [1,2]"),
        (
            "tokenizer.encoder_channels=[-8, 16]",
            "tokenizer: encoder_channels and decoder_channels must be from 1 to 16384",
        ),
        ("tokenizer.decoder_channels=[0]", "encoder_channels and decoder_channels must be from 1 to 16384"),
        (f"dynamics.dim={2**62}", f"dynamics.dim is {2**62}; it must be at most 65536"),
        (f"phase1.batch_size={2**63 - 1}", "it must be at most 1048576"),
        ("tokenizer.layers=99999999", "it must be at most 64"),
        ("device=[cpu]", "device is '[cpu]'; it must be one of auto, cpu, cuda"),
    ],
)
def test_the_way_out_of_another_spelling_is_named(load, override, words):
    with pytest.raises(UserError) as error:
        load("", override)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["compile: true", "compile: 1", "imagination: {merge_commit: false}"])
def test_a_word_that_is_no_text_is_answered_with_the_choices(load, text):
    with pytest.raises(UserError, match="must be one of auto, on, off, found"):
        load(text)


def test_the_bytes_of_a_name_that_is_not_utf8_survive_the_disk(tmp_path):
    config = load_config("debug", ["data.store=/x/caf\udce9"])
    dump_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config

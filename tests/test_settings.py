"""Settings: what is accepted, what is refused and in which words, and that nothing is lost on the way to disk."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from fastdreamer.config import Config, DataConfig, DynamicsConfig, HeadsConfig, TrainConfig, load_config
from fastdreamer.errors import UserError
from fastdreamer.settings import config_hash, differences, dump_config, presets, to_dict, validate
from fastdreamer.settings.fields import BOUNDS, declared, free_settings
from fastdreamer.system.folders import anchored


@pytest.fixture
def load(tmp_path: Path):
    def write_and_load(text: str, *overrides: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return write_and_load


def test_empty_file_is_the_defaults(load):
    assert load("") == Config() and load("phase1:\n") == Config()


def test_values_and_overrides_reach_their_place(load):
    config = load(
        "phase1: {steps: 7, learning_rate: 3e-4}\ntokenizer: {encoder_channels: [8, 16]}",
        "phase1.batch_size=3",
        "phase2={steps: 9}",
        "forcing.context_signal=1",
        "tokenizer.decoder_channels=[4]",
    )
    assert config.phase1 == TrainConfig(steps=7, learning_rate=3e-4, batch_size=3)
    assert config.phase2.steps == 9 and config.tokenizer.encoder_channels == (8, 16)
    assert config.tokenizer.decoder_channels == (4,)
    assert type(config.forcing.context_signal) is float


@pytest.mark.parametrize("text", ["2024", "yes", "", "/tmp/a: b", "[1"])
def test_a_text_setting_takes_the_words_as_typed(load, text):
    assert load("", f"data.store={text}").data.store == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("phase1: {stepz: 1}", "unknown setting phase1.stepz; did you mean phase1.steps?"),
        ("dynamic: {dim: 8}", "unknown setting dynamic; did you mean dynamics?"),
        ("phase1: {steps: 1.5}", "phase1.steps must be an integer, found 1.5 (float)"),
        ("phase1: {steps: true}", "phase1.steps must be an integer, found True (bool)"),
        ("phase1: {steps: '10'}", "phase1.steps must be an integer, found '10' (str)"),
        ("phase1: {learning_rate: fast}", "phase1.learning_rate must be a number, found 'fast' (str)"),
        ("phase1: {learning_rate: .nan}", "phase1.learning_rate is nan; it must be a finite number"),
        ("phase1: {steps:}", "phase1.steps must be an integer, found nothing"),
        ("phase1: 3", "phase1 is a section: expected `key: value` lines, found 3 (int)"),
        ("device: gpu", "device is 'gpu'; it must be one of auto, cpu, cuda"),
        ("tokenizer: {encoder_channels: [8, x]}", "tokenizer.encoder_channels[1] must be an integer, found 'x' (str)"),
        ("tokenizer: {encoder_channels: 8}", "tokenizer.encoder_channels must be a list, found 8 (int)"),
        ("phase1: {learning_rate: 0}", "phase1.learning_rate is 0.0; it must be above 0"),
        ("phase1: {steps: 0}", "phase1.steps is 0; it must be at least 1"),
        ("phase1: {ema_decay: 1}", "phase1.ema_decay is 1.0; it must be below 1"),
        ("data: {held_out: 0.6}", "data.held_out is 0.6; it must be at most 0.5"),
        ("dynamics: {heads: 0}", "dynamics.heads is 0; it must be at least 1"),
        ("dynamics: {dim: 10, heads: 4}", "dynamics: dim 10 over heads 4"),
        ("imagination: {horizon: 99}", "imagination.start_context + imagination.horizon is 100"),
        ("tokenizer: {frames_per_latent: 8, window: 20}", "tokenizer: window is 20"),
        ("- 1", "expected sections such as `phase1:`"),
        ("phase1:\n  steps: 1\n  steps: 2\n", "config.yaml, line 3: not valid YAML: steps is given twice"),
        ("seed: 1\nphase1: [\n", "config.yaml, line 3: not valid YAML"),
        ("a: b: c", "config.yaml, line 1: not valid YAML"),
        ("seed: !!python/object:os.system x", "config.yaml, line 1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(load, text, words):
    with pytest.raises(UserError) as error:
        load(text)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("phase1.step=3", "unknown setting phase1.step; did you mean phase1.steps?"),
        ("seed.x=3", "seed is a value, not a section"),
        ("seed", "not of the form section.key=value"),
        ("=3", "not of the form section.key=value"),
        ("seed=", "seed must be an integer, found nothing"),
        ("phase1=3", "phase1 is a section"),
        ("phase1.steps=[", "override 'phase1.steps=[': not valid YAML"),
    ],
)
def test_wrong_overrides_are_named_in_one_line(load, override, words):
    with pytest.raises(UserError) as error:
        load("", override)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_presets_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"unknown configuration 'crafer'; did you mean crafter\?"):
        load_config("crafer")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads_and_survives_the_disk(tmp_path, name):
    config = load_config(name)
    dump_config(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config and config_hash(again) == config_hash(config)
    assert (tmp_path / "config.yaml").read_text().startswith(f"# resolved configuration {config_hash(config)}\n")


def test_presets_of_the_readme_are_there():
    assert {"crafter", "debug", "minerl_cosmos"} <= set(presets())


def test_base_is_inherited_and_loops_are_refused(tmp_path):
    (tmp_path / "one.yaml").write_text("phase1: {steps: 5, batch_size: 2}\nseed: 3\n")
    (tmp_path / "two.yaml").write_text("base: ./one.yaml\nphase1: {steps: 6}\n")
    config = load_config(tmp_path / "two.yaml", ["seed=4"])
    assert (config.phase1.steps, config.phase1.batch_size, config.seed) == (6, 2, 4)
    (tmp_path / "three.yaml").write_text("base: crafter\n")
    assert load_config(tmp_path / "three.yaml") == load_config("crafter")
    (tmp_path / "one.yaml").write_text("base: ./two.yaml\n")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(tmp_path / "two.yaml")


def test_what_is_built_in_code_is_checked_as_strictly():
    assert validate(Config(seed=3)).seed == 3
    bad = dataclasses.replace(Config(), data=DataConfig(held_out=0.9))
    with pytest.raises(UserError, match="data.held_out is 0.9; it must be at most 0.5"):
        validate(bad)
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        DynamicsConfig(dim=32, heads=4, kv_heads=3)


def test_hash_follows_meaning_not_spelling():
    assert config_hash(Config(heads=HeadsConfig(reward_range=20))) == config_hash(Config())
    assert config_hash(Config(seed=1)) != config_hash(Config())
    assert len(config_hash(Config())) == 16 and int(config_hash(Config()), 16) >= 0


def test_differences_name_both_values():
    one, two = Config(), Config(seed=2, phase1=TrainConfig(steps=3))
    assert differences(one, two) == {"seed": (0, 2), "phase1.steps": (1000, 3)}
    assert differences(one, Config()) == {}


@example_settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), rate=st.floats(1e-12, 1e3), policy=st.sampled_from(["expert", "random"]))
def test_any_value_survives_the_disk(tmp_path_factory, seed, rate, policy):
    config = load_config("debug", [f"seed={seed}", f"phase1.learning_rate={rate!r}", f"record.policy={policy}"])
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    dump_config(config, path)
    assert to_dict(load_config(path)) == to_dict(config)
    assert config.phase1.learning_rate == rate


def test_settings_need_no_yaml():
    code = """
import sys; sys.modules["yaml"] = None
from fastdreamer.config import Config; from fastdreamer.settings import config_hash; print(config_hash(Config()))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == config_hash(Config())


def test_every_bound_is_one_that_the_checks_know():
    factories = [field.default_factory for field in dataclasses.fields(Config)]
    sections = [Config, *(factory for factory in factories if factory is not dataclasses.MISSING)]
    for section in sections:
        for field in dataclasses.fields(section):
            assert set(field.metadata) <= {*BOUNDS, "free"}, field.name


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
@example_settings(max_examples=150, deadline=None)
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


FREE = {
    "": "device compile memory_gb",
    "data": "memory_limit_gb resident card_limit_gb decoder resampler decode_threads max_damaged check_metadata",
    "record": "policy episodes max_steps noise noisy_share noisy_noise random_share chance seed",
    "tokenizer": "trust_jit",
    "engines": "backend precision batches acting_frames resample_inside pool_inside channels_last directory memory_gb",
    "sampling": "prefetch",
    "imagination": "merge_commit capture",
    **{
        name: "steps micro_batch recompute max_skipped checkpoint_every log_every"
        for name in ("tokenizer_fit", "decoder", "phase1", "phase2", "phase3")
    },
    "evaluation": "episodes max_steps seed execute workers crops samples context backend minerl_task leave_out task "
    "bootstrap",
    "study": "real_games",
}
BEFORE_CLONING = {"sampling.clone_top", "sampling.clone_by", "tasks.names"}


def test_exactly_these_settings_may_change_in_a_run():
    """A setting is added here on purpose: nothing that latents, weights or losses depend on."""
    free = {f"{section}.{name}".lstrip(".") for section, names in FREE.items() for name in names.split()}
    assert free_settings(Config) == free
    assert free_settings(Config, is_cloned=False) == free | BEFORE_CLONING


def test_every_setting_is_declared_once_with_what_may_change():
    found = list(declared(Config))
    assert [setting.path for setting in found] == written_paths(Config())
    assert {setting.free for setting in found} == {"", "always", "before cloning"}


def written_paths(config: Config | dict, prefix: str = "") -> list[str]:
    """The dotted paths of a configuration's values, as the written file has them."""
    paths: list[str] = []
    for name, value in (config if isinstance(config, dict) else to_dict(config)).items():
        paths += written_paths(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return paths

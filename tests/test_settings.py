"""Settings: what is accepted, what is refused and in which words, and that nothing is lost on the way to disk."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from fastdreamer.config import Config, DataConfig, DynamicsConfig, HeadsConfig, TrainConfig, load_config
from fastdreamer.errors import UserError
from fastdreamer.settings import config_hash, differences, dump_config, presets, to_dict, validate
from fastdreamer.settings.fields import BOUNDS, declared, free_settings


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


@example_settings(max_examples=20)
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


FREE = {
    "": "device compile memory_gb",
    "data": "memory_limit_gb resident card_limit_gb decoder resampler decode_threads max_damaged check_metadata",
    "record": "policy episodes max_steps noise noisy_share noisy_noise random_share chance seed",
    "tokenizer": "trust_jit",
    "engines": "backend precision batches acting_frames resample_inside pool_inside channels_last directory memory_gb",
    "sampling": "prefetch",
    "ranks": "timeout_s check_every shard",
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

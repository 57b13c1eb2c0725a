"""A tokenizer's files are held against the hashes that came with them wherever they are loaded."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer.cosmos import CONFIG_FILE, EMBEDDED, WEIGHTS_FILE, load_autoencoder, weights_fingerprint
from fastdreamer.tokenizer.fitting import fit
from fastdreamer.tokenizer.model_card import CARD, file_hashes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "it's mine")


def config_of(folder: Path) -> TokenizerConfig:
    return TokenizerConfig(weights=str(folder))


@pytest.mark.parametrize("load", [load_autoencoder, weights_fingerprint])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_flipped_byte_is_refused(folder: Path, name: str, load: Callable[[TokenizerConfig], object]) -> None:
    """Of 150 flips 148 were loaded in silence once."""
    clean, chance = (folder / name).read_bytes(), random.Random(0)
    for _ in range(5):
        spoiled = bytearray(clean)
        spoiled[chance.randrange(len(clean))] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(bytes(spoiled))
        with pytest.raises(UserError, match=f"{name} is damaged or changed"):
            load(config_of(folder))


def test_a_tokenizer_without_hashes_is_read_as_before(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    assert card.pop("sha256") == file_hashes(folder)
    (folder / CARD).write_text(json.dumps(card))
    whole = weights_fingerprint(config_of(folder))
    (folder / CARD).unlink()
    assert weights_fingerprint(config_of(folder)) == whole == weights_fingerprint(TokenizerConfig())


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"sha256": 3}', '{"sha256": {"config.json": 3}}'])
def test_a_damaged_card_is_one_line(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(UserError, match=r"card\.json is damaged"):
        load_autoencoder(config_of(folder))


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000, '{"num_layers": "x"}'])
def test_a_configuration_of_another_shape_is_one_line(folder: Path, text: str) -> None:
    (folder / CARD).unlink()
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError):
        load_autoencoder(config_of(folder))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    (folder / CARD).unlink()
    tensors = load_file(folder / WEIGHTS_FILE)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(UserError, match="not finite"):
        load_autoencoder(config_of(folder))


def test_a_fit_replaces_a_tokenizer_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(config: Config, recordings: Path, folder: Path, command: str) -> dict[str, object]:
        (folder / CARD).write_text("{}")
        return {}

    monkeypatch.setattr(fit, "_fit", made)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis\.tex' besides a tokenizer: choose another --out"):
        fit.fit_tokenizer(Config(), tmp_path, tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    fit.fit_tokenizer(Config(), tmp_path, folder)
    assert [path.name for path in folder.iterdir()] == [CARD]


def test_what_a_fit_cannot_write_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_fit", lambda *given: pytest.fail("worked before it was checked"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        fit.fit_tokenizer(Config(), tmp_path, tmp_path / "file" / "out")
    with pytest.raises(UserError, match="already exists"):
        fit.fit_tokenizer(Config(), tmp_path, tmp_path / "file")

"""A library that cannot be imported: who is to blame, and the line that mends it."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from fastdreamer import cli, commands
from fastdreamer.envs.crafter import import_crafter
from fastdreamer.errors import UserError
from fastdreamer.system.failures import culprit, mend

BROKEN = "raise AttributeError(\"'EntryPoints' object has no attribute 'get'\")\n"


@pytest.fixture
def fresh(monkeypatch):
    """Crafter and what it imports are imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("crafter", "gym")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_broken_gym_in_the_current_folder_is_named_and_crafter_is_not_blamed(tmp_path, monkeypatch, fresh):
    (tmp_path / "gym").mkdir()
    (tmp_path / "gym" / "__init__.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        import_crafter()
    text = str(caught.value)
    assert "AttributeError: 'EntryPoints'" in text and "\n" not in text
    assert f"{tmp_path / 'gym' / '__init__.py'} has its name: rename it" in text and "crafter'" not in text


def test_a_broken_gym_that_is_installed_is_installed_again(tmp_path, monkeypatch, fresh):
    folder = tmp_path / "site-packages"
    (folder / "gym").mkdir(parents=True)
    (folder / "gym" / "__init__.py").write_text("import gym.envs\n")
    (folder / "gym" / "envs.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UserError, match="gym is broken: pip install --force-reinstall gym$"):
        import_crafter()


def test_what_crafter_lacks_is_named(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "opensimplex", None)
    with pytest.raises(UserError, match=": pip install opensimplex$"):
        import_crafter()


def test_an_error_of_the_standard_library_is_that_of_who_called_it(tmp_path, monkeypatch):
    (tmp_path / "badly.py").write_text("import json\njson.loads('{')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError) as caught:
        importlib.import_module("badly")
    assert culprit(caught.value) == ("badly", str(tmp_path / "badly.py"))
    assert "rename it" in mend("other", caught.value)


def test_a_broken_tensorboard_is_one_line_that_names_it(tmp_path, monkeypatch):
    from fastdreamer.run.metrics import MetricsWriter

    folder = tmp_path / "site-packages"
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "tensorboard" / "__init__.py").write_text("raise TypeError('Descriptors cannot be created directly')\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard" or n.endswith("run.board")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(UserError, match="used.*tensorboard is broken: pip install --force-reinstall tensorboard$"):
        MetricsWriter(tmp_path / "run", 1)
    assert importlib.util.find_spec("tensorboard") is not None


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("broken_one", "raise TypeError('of protobuf')\n", "broken_one cannot be imported (TypeError: of protobuf): "),
        ("broken_two", "import nowhere_at_all\n", "nowhere_at_all cannot be imported (ModuleNotFoundError: No module"),
        ("broken_three", "from json import nothing\n", "cannot be imported (ImportError: cannot import name 'nothing'"),
    ],
)
def test_any_library_that_cannot_be_imported_is_the_users_to_mend(module, code, words, tmp_path, monkeypatch, capsys):
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(commands.COMMANDS, "report", lambda arguments: importlib.import_module(module))
    assert cli.main(["report", "--run-dir", "R"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err and ("pip install" in err or "rename it" in err)


def test_an_error_of_ours_inside_a_library_that_works_is_a_bug(monkeypatch, capsys, tmp_path):
    (tmp_path / "works.py").write_text("def call():\n    raise TypeError('wrong argument')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(commands.COMMANDS, "report", lambda arguments: importlib.import_module("works").call())
    assert cli.main(["report", "--run-dir", str(tmp_path)]) == 1
    assert "unexpected TypeError: wrong argument" in capsys.readouterr().err

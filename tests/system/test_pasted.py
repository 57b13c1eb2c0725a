"""Every command that a message names is pasted into a shell, in a folder with a space and a quote, and runs."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fastdreamer import cli
from fastdreamer.commands import COMMANDS
from fastdreamer.config import load_config
from fastdreamer.latents.manifest import FOLDER, MANIFEST
from fastdreamer.latents.store import LatentStore
from fastdreamer.system import advice

ROOT = Path(__file__).parents[2]
AWKWARD = 'it\'s my "data" $HOME'
SMALL = ["record.episodes=3", "record.max_steps=40", "record.policy=random", "phase1.steps=2", "phase1.batch_size=2"]


def pasted(line: str) -> list[str]:
    """The words that bash makes of a line, behind `fastdreamer`."""
    script = f"fastdreamer() {{ printf '%s\\0' \"$@\"; }}\n{line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def places() -> list[tuple[str, ast.Call]]:
    """Every place at which a command of ours is built."""
    found = []
    for path in sorted((ROOT / "fastdreamer").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "fastdreamer.system.advice"
            for alias in node.names
        }
        for node in ast.walk(tree):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if isinstance(node, ast.Call) and names.get(name) in ("command", "plain"):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
    return found


@pytest.mark.parametrize(("place", "call"), places(), ids=[place for place, _ in places()])
def test_every_command_that_is_built_is_whole(place, call):
    """Its flags are those of its command, and nothing that the command requires is missing."""
    assert isinstance(call.args[0], ast.Constant) and call.args[0].value in COMMANDS
    flags: dict[str, object] = {}
    for keyword in (keyword for keyword in call.keywords if keyword.arg):
        is_switch = keyword.arg in ("replace", "decoder", "force", "resume", "audit")
        flags[keyword.arg] = True if is_switch else 2 if keyword.arg == "phase" else AWKWARD
    given = {"run_dir": Path(AWKWARD), "config": AWKWARD, "recordings": Path(AWKWARD)}
    with advice.running(advice.Call((), given, (f"data.store={AWKWARD}",))):
        build = advice.plain if isinstance(call.func, ast.Name) and call.func.id == "plain" else advice.command
        line = build(call.args[0].value, **flags)
    parsed, overrides = cli.build_parser().parse_known_args(pasted(line))
    assert all("=" in word for word in overrides)
    for word in overrides:
        load_config("debug", [word])
    assert all(getattr(parsed, name) is not None for name in flags)


def test_there_are_many_places():
    assert len(places()) > 20


class Shell:
    """A folder in which commands run; what they print is kept."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def run(self, *words: str) -> tuple[int, str]:
        self.capsys.readouterr()
        try:
            status = cli.main([*words])
        except SystemExit as stop:
            status = int(str(stop.code))
        return status, self.capsys.readouterr().err

    def refused(self, *words: str) -> str:
        """The command that a refusal names."""
        status, err = self.run(*words)
        assert status == 2 and err.count("\n") == 1, err
        place = err.index("fastdreamer ", len("fastdreamer: error: "))
        return err[place:].strip().split(", or ")[0].split("; ")[0]

    def paste(self, line: str) -> None:
        status, err = self.run(*pasted(line))
        assert status in (0, 1), err


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Shell(folder, capsys)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_refusals_name_is_pasted_from_no_recordings_to_a_trained_run(shell):
    played, store, run = "my recs'", "a store", "the run's"
    given = ["--config", "debug", *SMALL]
    encode = ["encode", "--recordings", played, "--store", store, *given]
    shell.paste(shell.refused(*encode))  # there are no recordings: they are recorded
    assert len(list(Path(played).glob("*/v3_*"))) + len(list(Path(played).glob("v3_*"))) == 3
    assert shell.run(*encode)[0] == 0
    recordings, before = content(Path(played)), LatentStore.open(store).tokenizer

    # Another tokenizer: the store is replaced, and nothing else is touched.
    (shell.folder / "a").mkdir()
    (shell.folder / "a" / "precious").write_text("kept")
    again = shell.refused(*encode, "tokenizer.seed=5")
    assert LatentStore.open(store).tokenizer == before
    shell.paste(again)
    assert LatentStore.open(store).tokenizer != before and len(LatentStore.open(store).episodes) == 3
    assert content(Path(played)) == recordings and Path("a/precious").read_text() == "kept"
    assert sorted(path.name for path in shell.folder.iterdir()) == ["a", store, played]

    # A run: no store, a damaged episode, a damaged manifest, nothing trained.
    train = ["train", "--phase", "1", "--run-dir", run, f"data.recordings={played}", *given]
    shell.paste(shell.refused(*train))
    episode = next((Path(run) / "store" / FOLDER).iterdir())
    episode.write_bytes(episode.read_bytes()[:-1])
    shell.paste(shell.refused(*train))
    (Path(run) / "store" / MANIFEST).write_text("{")
    shell.paste(shell.refused(*train))
    shell.paste(shell.refused("eval", "--run-dir", run))
    assert (Path(run) / "checkpoints" / "phase1" / "step-00000002").is_dir()
    assert json.loads((Path(run) / "store" / MANIFEST).read_text())["episodes"]
    assert not list(Path(run).glob(".*"))


def test_a_folder_of_other_things_is_never_replaced(shell):
    from fastdreamer.encoding.replace import _check_is_store
    from fastdreamer.errors import UserError

    folder = Path("documents")
    (folder / FOLDER).mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    _check_is_store(folder)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="documents holds thesis.tex, which is no part of a latent store"):
        _check_is_store(folder)
    shutil.rmtree(folder)

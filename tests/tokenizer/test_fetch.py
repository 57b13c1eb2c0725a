"""`fetch-weights` against a hub of our own on this machine: pinned, resumed, checked, one line for every trouble."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import COMMITS, CONFIG, SMALL, WEIGHTS, Hub
from test_cosmos import SHAPES

from fastdreamer.config import TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.tokenizer import cosmos, fetch
from fastdreamer.tokenizer.fetch import FILES, RECORD, REPO, fetch_weights

LARGE = SMALL * 100  # several of huggingface_hub's chunks of 10 MB
TOKEN = "hf_a_secret_of_ours"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))  # retries wait
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _refusal(hub: Hub | str, out: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        fetch_weights(out, endpoint=hub if isinstance(hub, str) else hub.url, **arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_a_fetch_gives_checked_files_and_what_the_configuration_takes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "weights"
    result = fetch_weights(out, endpoint=hub.url)
    expected = {n: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for n, data in hub.files.items()}
    assert result.pop("seconds") > 0
    assert result == {
        "folder": str(out),
        "repo": REPO,
        "revision": COMMITS[0],
        "files": expected,
        "downloaded_bytes": sum(map(len, hub.files.values())),
    }
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != RECORD} == hub.files
    assert json.loads((out / RECORD).read_text()) == {"repo": REPO, "revision": COMMITS[0], "files": expected}
    assert f"tokenizer.weights={out}" in capsys.readouterr().out
    fetch.check_fetched(out)


def test_a_finished_fetch_asks_the_hub_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_weights(tmp_path, endpoint=hub.url)
    hub.log.clear()
    hub.main = COMMITS[1]
    for revision in (None, COMMITS[0]):
        result = fetch_weights(tmp_path, revision=revision, endpoint=hub.url)
        assert (result["downloaded_bytes"], result["revision"], hub.log) == (0, COMMITS[0], [])
        assert "nothing to download" in capsys.readouterr().out


def test_a_killed_fetch_goes_on_where_it_stopped_at_the_same_commit(hub: Hub, tmp_path: Path) -> None:
    hub.files[WEIGHTS] = LARGE
    hub.stall_at = len(LARGE) * 3 // 4
    code = "import sys, pathlib, fastdreamer.tokenizer.fetch as fetch; fetch.fetch_weights(pathlib.Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], env={**os.environ, "HF_ENDPOINT": hub.url})
    partial, until = tmp_path / f".{WEIGHTS}.partial", time.monotonic() + 300
    while not (has_begun := partial.exists() and partial.stat().st_size > 0) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.go_on.set()
    assert has_begun
    have = partial.stat().st_size
    assert 0 < have < len(LARGE) and not (tmp_path / WEIGHTS).exists()
    assert json.loads((tmp_path / RECORD).read_text())["files"].keys() == {CONFIG}

    hub.stall_at, hub.main = None, COMMITS[1]
    hub.log.clear()
    result = fetch_weights(tmp_path, endpoint=hub.url)
    assert set(hub.ranges(WEIGHTS)) == {f"bytes={have}-"} and hub.ranges(CONFIG) == []
    assert result["downloaded_bytes"] == len(LARGE) - have and result["revision"] == COMMITS[0]
    assert (tmp_path / WEIGHTS).read_bytes() == LARGE and not partial.exists()
    assert not any("/api/" in path for _, path, _, _ in hub.log)


def test_a_cut_connection_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [100_000]
    fetch_weights(tmp_path, endpoint=hub.url)
    assert hub.ranges(WEIGHTS)[-1] == "bytes=100000-" and (tmp_path / WEIGHTS).read_bytes() == SMALL


def test_a_connection_that_stays_cut_gives_one_line_and_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [100_000] + [0] * 20
    message = _refusal(hub, tmp_path)
    assert "goes on where it stopped" in message and CONFIG in message and WEIGHTS in message
    hub.cut_after = []
    assert fetch_weights(tmp_path, endpoint=hub.url)["downloaded_bytes"] == len(SMALL) - 100_000
    assert (tmp_path / WEIGHTS).read_bytes() == SMALL


@pytest.mark.parametrize("name", FILES)
def test_content_that_is_not_the_hubs_is_refused_and_removed(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.wrong = name
    assert f"other content for {name}" in _refusal(hub, tmp_path)
    assert not list(tmp_path.glob(f"*{name}*")) and not list(tmp_path.glob(".*"))
    hub.wrong = ""
    fetch_weights(tmp_path, endpoint=hub.url)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != RECORD} == hub.files


def test_a_partial_file_that_is_too_long_starts_again(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / f".{WEIGHTS}.partial").write_bytes(SMALL + b"more")
    assert fetch_weights(tmp_path, endpoint=hub.url)["files"][WEIGHTS]["bytes"] == len(SMALL)
    assert (tmp_path / WEIGHTS).read_bytes() == SMALL


def test_a_damaged_file_is_found_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch_weights(tmp_path, endpoint=hub.url)
    for name in FILES:
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} is damaged .* fastdreamer fetch-weights --out {tmp_path}$"):
            fetch.check_fetched(tmp_path)
        assert fetch_weights(tmp_path, endpoint=hub.url)["downloaded_bytes"] == len(data)
        fetch.check_fetched(tmp_path)
    hub.files[WEIGHTS] = SMALL[::-1]  # a commit whose content changed
    (tmp_path / WEIGHTS).unlink()
    assert "other content" in _refusal(hub, tmp_path)


def test_the_tokenizer_is_checked_before_it_is_used(hub: Hub, tmp_path: Path) -> None:
    cosmos.write_autoencoder(cosmos.build_random(SHAPES[1]), tmp_path / "made")
    hub.files = {name: (tmp_path / "made" / name).read_bytes() for name in FILES}
    out = tmp_path / "fetched"
    fetch_weights(out, endpoint=hub.url)
    config = TokenizerConfig(weights=str(out))
    cosmos.load_autoencoder(config)
    data = bytearray(hub.files[WEIGHTS])
    data[-1] ^= 1
    (out / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match=f"fastdreamer fetch-weights --out {out}"):
        cosmos.load_autoencoder(config)


def test_revisions_are_pinned(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "v1"
    assert fetch_weights(out, revision="v1", endpoint=hub.url)["revision"] == COMMITS[0]
    assert fetch_weights(out, revision="v1", endpoint=hub.url)["downloaded_bytes"] == 0
    message = _refusal(hub, out, revision="v2")
    assert all(commit in message for commit in COMMITS) and "choose another" in message
    assert "leave --revision out" in _refusal(hub, out, revision=COMMITS[1])
    assert fetch_weights(tmp_path / "v2", revision=COMMITS[1], endpoint=hub.url)["revision"] == COMMITS[1]
    assert f"{out} holds {REPO}" in _refusal(hub, out, repo="other/model")
    assert "has no revision v9" in _refusal(hub, tmp_path / "v9", revision="v9")
    assert not (tmp_path / "v9").exists()
    (out / WEIGHTS).unlink()
    hub.file_status, hub.error_code = 404, "RevisionNotFound"
    assert f"has no revision {COMMITS[0]}" in _refusal(hub, out)


def test_a_licence_that_was_not_accepted_gives_one_line(hub: Hub, tmp_path: Path) -> None:
    for status, code in ((401, "GatedRepo"), (403, "GatedRepo"), (401, ""), (403, "")):
        hub.file_status, hub.error_code = status, code
        message = _refusal(hub, tmp_path, token=TOKEN)
        assert "licence" in message and f"https://huggingface.co/{REPO}" in message and "hf auth login" in message
    hub.api_status = 403
    assert "licence" in _refusal(hub, tmp_path / "other", token=TOKEN)
    assert json.loads((tmp_path / RECORD).read_text())["revision"] == COMMITS[0]


def test_the_token_goes_to_the_hub_alone(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch_weights(tmp_path, token=TOKEN, endpoint=hub.url)
    assert {auth for _, path, _, auth in hub.log if not path.startswith("/cdn/")} == {f"Bearer {TOKEN}"}
    assert {auth for _, path, _, auth in hub.log if path.startswith("/cdn/")} == {None}
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in "".join(capfd.readouterr())


def test_the_usual_token_is_used(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch_weights(tmp_path, endpoint=hub.url)
    assert {auth for _, path, _, auth in hub.log if not path.startswith("/cdn/")} == {f"Bearer {TOKEN}"}


def test_unknown_repositories_and_files_give_one_line(hub: Hub, tmp_path: Path) -> None:
    assert "no model no/such" in _refusal(hub, tmp_path, repo="no/such")
    assert "is no name of a model" in _refusal(hub, tmp_path, repo="a b/c/d")
    hub.file_status, hub.error_code = 404, "EntryNotFound"
    assert "lacks vae/config.json" in _refusal(hub, tmp_path)
    hub.file_status, hub.error_code = 500, ""
    assert "answers 500" in _refusal(hub, tmp_path)


def test_without_a_network_the_line_says_what_to_place_where(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else takes the port, and not listening
        deaf.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        messages = [_refusal(closed, tmp_path), _refusal("http://no-such-host.invalid", tmp_path)]
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.2)
    hub.silent, began = True, time.monotonic()
    messages.append(_refusal(hub, tmp_path))
    assert time.monotonic() - began < 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    messages.append(_refusal(hub, tmp_path))
    for message in messages:
        assert f"place {CONFIG} and {WEIGHTS}" in message and f"in {tmp_path}" in message, message
    for name in FILES:  # placed by hand they serve without a record
        (tmp_path / name).write_bytes(b"x")
    fetch.check_fetched(tmp_path)


def test_files_placed_by_hand_are_kept_if_they_are_the_hubs(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(SMALL)
    assert fetch_weights(tmp_path, endpoint=hub.url)["downloaded_bytes"] == len(hub.files[CONFIG])
    other = tmp_path / "other"
    other.mkdir()
    (other / WEIGHTS).write_bytes(b"mine")
    assert "exists and is not the hub's" in _refusal(hub, other)
    assert (other / WEIGHTS).read_bytes() == b"mine"


def test_a_full_or_forbidden_disk_gives_one_line(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in _refusal(hub, tmp_path / "file" / "out")
    out = tmp_path / "full"
    out.mkdir()
    (out / f".{WEIGHTS}.partial").symlink_to("/dev/full")
    assert "the disk is full" in _refusal(hub, out)
    taken = tmp_path / "taken"
    (taken / f".{CONFIG}.partial").mkdir(parents=True)
    assert "cannot fetch into" in _refusal(hub, taken)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"repo": "a/b", "revision": "c", "files": {"config.json": 1}}'])
def test_a_broken_record_gives_one_line(text: str, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(text)
    assert "fetch again: fastdreamer fetch-weights --out" in _refusal(hub, tmp_path)


def test_two_that_fetch_into_one_folder_do_not_mix_a_file(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    out.mkdir()
    with (out / f".{FILES[0]}.partial").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"another process fetches into {out}" in _refusal(hub, out)
    assert (out / f".{FILES[0]}.partial").stat().st_size == 0
    fetch_weights(out, endpoint=hub.url)

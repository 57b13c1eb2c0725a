"""`fetch-weights`: NVIDIA's Cosmos weights from the Hugging Face hub, pinned to one commit, resumable, checked.

huggingface_hub (2.4) throws a partial file away when its process ends, so partial files are kept here; the hub's
answers, its sign-in and one request's retries are huggingface_hub's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastdreamer.errors import UserError
from fastdreamer.system.advice import again, plain, shell
from fastdreamer.system.files import expanded, sha256_file, write_atomic

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

REPO = "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"
SUBFOLDER = "vae"
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
RECORD = "fetched.json"
TIMEOUT_S = 20.0
SIGN_IN = f"sign in with {shell('hf', 'auth', 'login')}, HF_TOKEN or --token"


def fetch_weights(
    out: Path,
    repo: str = REPO,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Fetch the two files of a diffusers tokenizer into `out`, and say what the configuration takes.

    The commit is written to out/fetched.json before anything else, and size and SHA-256 of each file after it: a
    fetch that was killed goes on where it stopped, at the same commit, and a finished one is only checked.

    Args:
        out: the folder; it becomes `tokenizer.weights`.
        repo: a model on the hub with a `vae` folder.
        revision: a commit or tag; without it the one in fetched.json, or what `main` is now.
        token: the hub's token; without it huggingface_hub's usual places (HF_TOKEN, `hf auth login`). Never written.
        endpoint: address of the hub; without it HF_ENDPOINT or huggingface.co.
        replace: what lies in `out` gives way, file by file, once its successor is there.

    Returns:
        folder, repo, revision, files (sha256 and bytes by name), downloaded_bytes and seconds.

    Raises:
        UserError: for an unaccepted licence, no network, an unknown repository or revision, another commit than the
            recorded one, content that is not the hub's, a full disk.
    """
    began, out, downloaded = time.monotonic(), expanded(out), 0
    record = None if replace else read_record(out)
    if record and record["repo"] != repo:
        way = fetch_command(out, repo, replace=True)
        raise UserError(f"{out} holds {record['repo']}; choose another --out for {repo}, or replace it with: {way}")
    with _one_line(out, repo, revision or (record["revision"] if record else "main")):
        record = _pinned(out, record, repo, revision, token, endpoint)
        for name in FILES:
            downloaded += _fetch_file(out, name, record, token, endpoint, replace)
    what = f"fetched {downloaded:,} bytes" if downloaded else "complete and checked, nothing to download"
    print(f"{out}: {what} ({repo} at {record['revision'][:12]})\nconfiguration: tokenizer.weights={out}", flush=True)
    seconds = round(time.monotonic() - began, 3)
    return {"folder": str(out), **record, "downloaded_bytes": downloaded, "seconds": seconds}


def fetch_command(folder: Path, repo: str = REPO, replace: bool = False) -> str:
    """The command that fetches into a folder; what is there and whole stays, unless all of it gives way."""
    return plain("fetch-weights", out=folder, repo=repo if repo != REPO else None, replace=replace or None)


def check_fetched(folder: Path) -> None:
    """Compare the files of a folder with what was fetched into it; a folder without a fetched.json passes.

    Raises:
        UserError: if a file differs; the message has the command that fetches again.
    """
    record = read_record(folder)
    files = record["files"] if record else {}
    for name in FILES:  # never what else a record names
        if name in files and not _is_intact(folder / name, files[name]):
            raise UserError(
                f"{folder / name} is damaged or changed since it was fetched (SHA-256 differs); fetch it again: "
                f"{fetch_command(folder, record['repo'] if record else REPO)}"
            )


def read_record(folder: Path) -> dict[str, Any] | None:
    """What fetched.json says: repo, revision and files (sha256 and bytes by name); None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    path = folder / RECORD
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        files = {name: {"sha256": str(f["sha256"]), "bytes": int(f["bytes"])} for name, f in tree["files"].items()}
        return {"repo": str(tree["repo"]), "revision": str(tree["revision"]), "files": files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): let this account read it, or choose another folder"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); fetch again: {fetch_command(folder, replace=True)}"
        ) from error


def _pinned(
    out: Path, record: dict[str, Any] | None, repo: str, revision: str | None, token: str | None, endpoint: str | None
) -> dict[str, Any]:
    """The record with the commit to fetch, on disk before the first byte of a file is."""
    from huggingface_hub import HfApi

    if record and revision in (None, record["revision"]):
        return record
    info = HfApi(endpoint=endpoint, token=token).model_info(repo, revision=revision or "main", timeout=TIMEOUT_S)
    commit = info.sha or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise UserError(f"the hub names no commit for {repo} at {revision or 'main'}; give --revision COMMIT")
    if record and record["revision"] != commit:
        raise UserError(
            f"{out} holds commit {record['revision']} and {revision} is {commit}; leave --revision out, choose "
            f"another --out, or replace it with: {again('--replace')}"
        )
    record = record or {"repo": repo, "revision": commit, "files": {}}
    _write_record(out, record)
    return record


def _fetch_file(
    out: Path, name: str, record: dict[str, Any], token: str | None, endpoint: str | None, replace: bool
) -> int:
    """Fetch one file into place and into the record; returns the bytes that came over the network."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get

    path, partial, fetched = out / name, out / f".{name}.partial", record["files"].get(name)
    if fetched and _is_intact(path, fetched):
        return 0
    url = hf_hub_url(record["repo"], f"{SUBFOLDER}/{name}", revision=record["revision"], endpoint=endpoint)
    told = get_hf_file_metadata(url, token=token, timeout=TIMEOUT_S, endpoint=endpoint)
    received = 0
    if fetched or not path.exists() or (replace and not _is_hubs(path, told)):
        with partial.open("ab") as file:
            _hold(file, partial, out)
            start = file.tell()
            if told.size is not None and start > told.size:
                start = file.truncate(0)
            key = token or get_token()  # the client drops it where the hub redirects to another host
            headers = {"authorization": f"Bearer {key}"} if key else {}
            http_get(url, file, resume_size=start, headers=headers, expected_size=told.size, displayed_filename=name)
            file.flush()
            os.fsync(file.fileno())
        received = partial.stat().st_size - start
        if not _is_hubs(partial, told) or (fetched and not _is_intact(partial, fetched)):
            partial.unlink()
            raise UserError(f"the hub sent other content for {name} than it promised; it was removed, fetch again")
        os.replace(partial, path)
    elif not _is_hubs(path, told):  # whole but not recorded: placed by hand, or a kill came between the two
        way = fetch_command(out, record["repo"], replace=True)
        raise UserError(f"{path} exists and is not the hub's; choose another --out, or replace it with: {way}")
    record["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    _write_record(out, record)
    return received


def _hold(file: IO[bytes], partial: Path, out: Path) -> None:
    """Lock a partial file: two writers would mix it. Its lock goes with its holder; there are disks without any."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_alone = partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat())
    except BlockingIOError:
        is_alone = False
    except OSError:
        is_alone = True
    if not is_alone:
        raise UserError(
            f"another process fetches into {out}: when it has ended, fetch again, which checks what is there"
        )


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_atomic(out / RECORD, json.dumps(record, indent=1).encode())


def _is_intact(path: Path, fetched: dict[str, Any]) -> bool:
    try:
        return path.stat().st_size == fetched["bytes"] and sha256_file(path) == fetched["sha256"]
    except OSError:
        return False


def _is_hubs(path: Path, told: HfFileMetadata) -> bool:
    """Whether size and hash are what the hub told: SHA-256 of large files, git's hash of small ones."""
    size, etag = path.stat().st_size, told.etag or ""
    if told.size not in (None, size):
        return False
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return sha256_file(path) == etag
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        return hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest() == etag
    return True


@contextmanager
def _one_line(out: Path, repo: str, revision: str) -> Iterator[None]:
    """Everything that the hub, the network and the disk raise, as one line with the way out."""
    from huggingface_hub import errors as hub

    page, by_hand = f"https://huggingface.co/{repo}", f"{FILES[0]} and {FILES[1]} (of {repo}, {SUBFOLDER}) in {out}"
    known: dict[type[Exception], str] = {  # the narrower kinds first
        UnicodeEncodeError: f"the token of the hub holds what no token has: copy it again, or {SIGN_IN}",
        hub.GatedRepoError: f"{repo} is gated: accept its licence on {page}, then {SIGN_IN}",
        hub.RevisionNotFoundError: f"{repo} has no revision {revision}; see {page}/commits/main",
        hub.RepositoryNotFoundError: f"the hub shows no model {repo}; check --repo, or {SIGN_IN}",
        hub.EntryNotFoundError: f"{repo} lacks {SUBFOLDER}/{FILES[0]} or {FILES[1]}; see {page}/tree/main",
        hub.HFValidationError: f"--repo {repo!r} is no name of a model on the hub, such as {REPO}",
    }
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The library below huggingface_hub has changed twice; its errors are told by the name of their module.
        is_network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        told = next((text for kind, text in known.items() if isinstance(error, kind)), "")
        if not told and isinstance(error, hub.HfHubHTTPError):
            status = error.response.status_code
            told = f"the hub answers {status}; fetch again later, it goes on where it stopped"
            if status in (401, 403):
                told = f"the hub refuses ({status}): accept the licence on {page}, then {SIGN_IN}"
        elif not told and (is_network or isinstance(error, ConnectionError | TimeoutError | json.JSONDecodeError)):
            told = (
                f"the hub cannot be reached ({reason}); fetch again and it goes on where it stopped, or place {by_hand}"
            )
        elif not told and isinstance(error, OSError):
            told = f"cannot fetch into {out} ({reason}); fetch again or choose another folder"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                told = f"cannot write {out}: the disk is full; free space and fetch again"
        if not told:
            raise
        raise UserError(told) from error

"""Engines compiled for this machine encode as eager does, and are refused when anything about them changed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cosmos import SHAPES
from test_engines import CPU, TINY, tiny_config

from fastdreamer.errors import UserError
from fastdreamer.tokenizer.engines import installed as engines
from fastdreamer.tokenizer.engines.build_engines import build_engines
from fastdreamer.tokenizer.engines.installed import open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer


@pytest.fixture(scope="module")
def aot_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cpu") / "engines"
    built = build_engines(tiny_config(root), CPU, parts=("encoder", "decoder"))
    assert [row["status"] for row in built["engines"]] == ["verified"] * 2
    return root


@pytest.fixture
def own_root(aot_root: Path, tmp_path: Path) -> Path:
    root = shutil.copytree(aot_root, tmp_path / "engines")
    root.chmod(0o700)
    return root


def _encoder(root: Path) -> Path:
    return next(root.glob("*.encoder.*"))


@pytest.mark.long
def test_an_aot_inductor_package_encodes_and_decodes_as_eager_does(aot_root: Path) -> None:
    compiled = open_tokenizer(tiny_config(aot_root, backend="aot-inductor"), CPU, decodes=True)
    eager = FrozenTokenizer.from_config(TINY)
    assert (compiled.backend, compiled.precision, compiled.decoder.name) == ("aot-inductor", "fp32", "aot-inductor")
    frames = np.random.default_rng(0).integers(0, 256, (90, 20, 20, 3), dtype=np.uint8)
    latents = eager.encode_episode(frames)
    for chunk in (1, 2**40):  # one clip at a time, and batches of two with a rest
        compiled.chunk_bytes = chunk
        found = compiled.encode_episode(frames)
        assert (found - latents).norm() / latents.norm() <= 5e-5
    raw = eager.encode_raw(torch.from_numpy(frames[None, :17]).movedim(-1, 2), "btchw")
    torch.testing.assert_close(compiled.decode_raw(raw), eager.decode_raw(raw), rtol=1e-4, atol=1e-5)
    short = compiled.encode(torch.from_numpy(frames[None, :9]).movedim(-1, 2), "btchw")
    torch.testing.assert_close(short[0], latents[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_auto_takes_the_installed_engine_only_where_it_is_faster(own_root: Path) -> None:
    folder = _encoder(own_root)
    content = json.loads((folder / "manifest.json").read_text())["engine"]
    for ms, expected in ((1e9, "eager"), (0.0, "aot-inductor")):
        body = {k: v for k, v in content.items() if k not in ("format", "files")}
        body["measured"] = {**content["measured"], "ms_per_clip": ms}
        (folder / "manifest.json").write_bytes(engines.manifest_bytes(folder, body))
        assert open_tokenizer(tiny_config(own_root), CPU).backend == expected


def _never_run(folder: Path) -> None:
    """The manifest of an engine that was built on another machine."""
    content = json.loads((folder / "manifest.json").read_text())["engine"]
    body = {k: v for k, v in content.items() if k not in ("format", "files")}
    body |= {"status": engines.UNRUN, "measured": {}, "parity": []}
    (folder / "manifest.json").write_bytes(engines.manifest_bytes(folder, body))


@pytest.mark.long
def test_an_engine_that_never_ran_is_compared_at_its_first_load_and_once(
    own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = _encoder(own_root), tiny_config(own_root, backend="aot-inductor")
    _never_run(folder)
    with monkeypatch.context() as patch:
        patch.setitem(engines.LIMITS, "fp32", 1e-12)
        with pytest.raises(
            UserError,
            match=r"off by .* \(limit 1e-12\) and is not used; rebuild it with: fastdreamer .*--replace",
        ):
            open_tokenizer(config, CPU)
    assert open_tokenizer(config, CPU).backend == "aot-inductor"
    manifest = json.loads((folder / "manifest.json").read_text())["engine"]
    assert manifest["status"] == "verified" and manifest["measured"]["ms_per_clip"] > 0
    assert [c["shape"] for c in manifest["parity"]] == ["1x17", "2x17"]
    monkeypatch.setattr(engines, "gate_for", None)  # a second comparison would fail
    assert open_tokenizer(config, CPU).backend == "aot-inductor"


@pytest.mark.long
def test_acting_through_an_engine_gives_the_latents_of_the_store(aot_root: Path) -> None:
    from fastdreamer.tokenizer.acting import ActingEncoder

    compiled = open_tokenizer(tiny_config(aot_root, backend="aot-inductor"), CPU)
    episodes = np.random.default_rng(0).integers(0, 256, (3, 1 + 8 * 4, 20, 20, 3), dtype=np.uint8)
    stored = torch.stack([compiled.encode_episode(episode) for episode in episodes])
    acting, frames = ActingEncoder(compiled, 3), torch.from_numpy(episodes)
    found = [acting.reset(frames[:, 0])]
    found += [acting.push(frames[:, 1 + 8 * k : 9 + 8 * k]) for k in range(4)]
    torch.testing.assert_close(torch.stack(found, 1), stored, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("package", "1x17.pt2 is damaged"),
        ("manifest", "damaged"),
        ("unknown", "unknown file evil.so"),
        ("library", "library .* instead of torch 9"),
        ("writable", "can be written by others"),
    ],
)
def test_a_changed_engine_is_refused_with_the_command_that_rebuilds(
    own_root: Path, monkeypatch: pytest.MonkeyPatch, change: str, word: str
) -> None:
    folder = _encoder(own_root)
    if change in ("package", "manifest"):
        path = folder / ("1x17.pt2" if change == "package" else "manifest.json")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif change == "unknown":
        (folder / "evil.so").write_bytes(b"")
    elif change == "library":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        folder.chmod(0o777)
    with pytest.raises(UserError, match=f"{word}.*rebuild it with: fastdreamer build-engines --backend aot-inductor"):
        open_tokenizer(tiny_config(own_root), CPU)


@pytest.mark.long
def test_changed_weights_make_the_engine_stale(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from fastdreamer.tokenizer import cosmos

    folder = tmp_path / "weights"
    folder.mkdir()
    cosmos.write_autoencoder(cosmos.build_random(TINY), folder)
    config = tiny_config(tmp_path / "engines", dataclasses.replace(TINY, weights=str(folder)), batches=(1,))
    build_engines(config, CPU)
    assert open_tokenizer(config, CPU).encoder is not None
    state = load_file(folder / cosmos.WEIGHTS_FILE)
    state["encoder.conv_in.conv_s.bias"][0] += 1e-3
    save_file(state, folder / cosmos.WEIGHTS_FILE)
    with pytest.raises(UserError, match="weights .* instead of .*rebuild it"):
        open_tokenizer(config, CPU)


@pytest.mark.long
def test_without_the_mend_the_gate_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastdreamer_engines.graph.float_exponents", lambda module: None)
    built = build_engines(tiny_config(tmp_path / "engines", batches=(1,)), CPU, backends=["aot-inductor"])
    (reason,) = built["refused"].values()
    assert built["engines"] == [] and "aot-inductor at 1x17 is off by inf" in reason


@pytest.mark.long
def test_resampling_and_pooling_may_live_inside_the_engine(tmp_path: Path) -> None:
    settings = {"resample_inside": True, "pool_inside": True}
    config = tiny_config(tmp_path / "engines", **settings)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, frame_size=20))
    build_engines(config, CPU)
    compiled = open_tokenizer(
        dataclasses.replace(config, engines=dataclasses.replace(config.engines, backend="aot-inductor")), CPU
    )
    frames = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    eager = FrozenTokenizer.from_config(TINY)
    expected = eager.encode_episode(frames)
    torch.testing.assert_close(compiled.encode_episode(frames), expected, rtol=1e-3, atol=1e-5)
    odd = torch.from_numpy(frames[None, :12]).movedim(-1, 2)  # not a whole number of steps
    torch.testing.assert_close(compiled.encode(odd, "btchw"), eager.encode(odd, "btchw"), rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="resamples uint8 of 20 x 20"):
        compiled.encode(torch.zeros(1, 3, 17, 32, 32), "bcthw")
    with pytest.raises(UserError, match="pools inside"):
        compiled.encode_raw(torch.zeros(1, 3, 17, 20, 20, dtype=torch.uint8), "bcthw")


@pytest.mark.long
def test_single_frame_tokenizers_get_engines_too(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "engines", SHAPES[1], backend="aot-inductor", batches=(1,))
    build_engines(config, CPU)
    frames = np.random.default_rng(0).integers(0, 256, (7, 20, 20, 3), dtype=np.uint8)
    expected = FrozenTokenizer.from_config(SHAPES[1]).encode_episode(frames)
    torch.testing.assert_close(open_tokenizer(config, CPU).encode_episode(frames), expected, rtol=1e-4, atol=1e-5)

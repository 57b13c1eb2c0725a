"""Another decoder's frames are held against PyAV's: wrong ones are named, other rounding is not."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.verify import disagreement, sample_numbers, sampled_sha256
from recordings.video_fixtures import barcode, write_video

FRAMES = 200


def pan(pixels_a_frame: float, contrast: float = 60.0, seed: int = 0) -> np.ndarray:
    """A camera over a smooth coloured landscape: (FRAMES, 64, 64, 3)."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    waves = rng.normal(size=(12, 3)) / (4, 4, 1 / 3)
    shades = rng.normal(size=(12, 3)) * contrast / 12**0.5
    frames = []
    for number in range(FRAMES):
        moved = x + number * pixels_a_frame
        frames.append(
            110 + sum(np.sin(a * moved + b * y + c)[..., None] * s for (a, b, c), s in zip(waves, shades, strict=True))
        )
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


CLIPS = {
    "barcodes": np.stack([barcode(n) for n in range(FRAMES)]),
    "fast": pan(3.0),
    "slow": pan(0.1),
    "creeping": pan(0.05),
}


def compare(reference: np.ndarray, found: np.ndarray) -> str:
    """As a user of the module does it: samples aligned by the end."""
    numbers = sample_numbers(len(reference))
    return disagreement(numbers, reference[numbers], found[numbers + len(found) - len(reference)])


def other_decoder(frames: np.ndarray) -> np.ndarray:
    """A stand-in for NVDEC's colours: other rounding, chroma moved by half a pixel, a slight gain."""
    rng = np.random.default_rng(0)
    luma = frames @ np.array([0.299, 0.587, 0.114])
    chroma = frames - luma[..., None]
    chroma = (chroma + np.roll(chroma, 1, axis=2)) / 2
    noise = rng.uniform(-1, 1, frames.shape)
    return np.clip((luma[..., None] + chroma) * 1.01 + 0.5 + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 8000])
def test_samples_are_few_from_first_to_last_and_have_neighbours(count: int):
    numbers = sample_numbers(count)
    assert numbers[0] == 0 and numbers[-1] == count - 1 and len(numbers) == min(count, 15)
    assert (np.diff(numbers) > 0).all()
    if count > 1:
        assert all(n - 1 in numbers or n + 1 in numbers for n in numbers)


@pytest.mark.parametrize("clip", CLIPS)
def test_another_rounding_is_the_same_video(clip: str):
    assert compare(CLIPS[clip], other_decoder(CLIPS[clip])) == ""


@pytest.mark.parametrize("colours", [lambda frames: frames, other_decoder])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_shift_of_one_frame_is_found(clip: str, colours):
    frames = CLIPS[clip]
    found = colours(frames)
    late = compare(frames, np.concatenate([found[:1], found[:-1]]))  # one frame too many at the start
    early = compare(frames, np.concatenate([found[1:], found[-1:]]))  # one too few, the last one twice
    assert late.startswith("frame ") and early.startswith("frame "), (late, early)
    assert "\n" not in late + early


@pytest.mark.parametrize("colours", [lambda frames: frames, other_decoder])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_frame_dropped_in_the_middle_is_found(clip: str, colours):
    """Aligned by the end, everything before the hole is one frame off; the first frame is not there to compare."""
    whole = CLIPS[clip]
    found = colours(np.concatenate([whole[:1], np.delete(whole, 100, axis=0)]))
    assert compare(whole, found).startswith("frame ")


def test_more_leading_frames_are_no_disagreement():
    frames = CLIPS["slow"]
    assert compare(frames, np.concatenate([frames[:33], frames])) == ""


@pytest.mark.parametrize("clip", [*CLIPS, "grey"])
def test_swapped_colours_are_found(clip: str):
    frames = CLIPS.get(clip, pan(1.0, contrast=3.0))
    assert compare(frames, frames[..., ::-1]) != ""


def test_another_picture_is_found_and_its_difference_said():
    frames = CLIPS["fast"]
    found = frames.copy()
    found[-1] = 255 - found[-1]
    assert compare(frames, found).startswith("frame 199 differs by ")
    assert "sampled frames are" in compare(frames, found[:, :32])


def test_a_clip_that_stands_still_agrees_with_itself():
    still = np.repeat(CLIPS["fast"][:1], FRAMES, axis=0)
    assert compare(still, other_decoder(still)) == ""


@pytest.mark.parametrize("fade", ["brightness", "contrast"])
def test_a_fade_slower_than_the_decoders_differ_is_no_shift(fade: str):
    """A gain or an offset between two decoders is then just what changes from frame to frame."""
    still, numbers = pan(0.0)[:1].astype(np.float64), np.arange(FRAMES)[:, None, None, None]
    faded = still + 0.3 * numbers if fade == "brightness" else 110 + (still - 110) * (1 + 0.0005 * numbers)
    faded = np.clip(faded, 0, 255).round().astype(np.uint8)
    assert compare(faded, other_decoder(faded)) == ""


def test_exact_colours_agree_with_swscales_on_a_real_file(tmp_path: Path):
    """BT.601 in floating point, each chroma sample for its four pixels: the same video, other numbers."""
    write_video(tmp_path / "a.mp4", 60)
    reference = decode_video(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        planes = np.stack([frame.to_ndarray() for frame in container.decode(video=0)]).astype(np.float64)
    y, quarter = (planes[:, :64] - 16) * 255 / 219, planes[:, 64:].reshape(-1, 2, 32, 32) - 128
    u, v = (quarter.repeat(2, 2).repeat(2, 3) * 255 / 224).swapaxes(0, 1)
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    found = np.clip(rgb.round(), 0, 255).astype(np.uint8)
    assert (found != reference).any()
    assert compare(reference, found) == ""
    assert compare(reference, np.roll(found, 1, axis=0)) != ""


def test_the_hash_changes_with_any_pixel_and_the_shape():
    frames = CLIPS["fast"][:3].copy()
    before = sampled_sha256(frames)
    assert before == sampled_sha256(CLIPS["fast"][:3]) and len(before) == 64
    assert sampled_sha256(frames.reshape(3, 32, 128, 3)) != before
    frames[2, 63, 63, 2] ^= 1
    assert sampled_sha256(frames) != before

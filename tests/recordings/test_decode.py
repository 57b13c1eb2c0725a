"""Decoding shows exactly the visible frames, in order, or says what is wrong with the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from fastdreamer.recordings import decode as module
from fastdreamer.recordings.decode import DamagedVideo, count_frames, decode_blocks, decode_some, decode_video
from recordings.video_fixtures import barcode, packets_of, read_barcode, remux, write_video

FRAMES, HIDDEN = 300, 33


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "plain.mp4"
    write_video(path, FRAMES)
    return path


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "edited.mp4"
    write_video(path, FRAMES, hidden=HIDDEN)
    return path


def test_fixture_has_b_frames_a_long_gop_and_an_edit_list(edited: Path):
    packets = packets_of(edited)
    presentation = [packet.pts for packet in packets]
    assert presentation != sorted(presentation), "no B-frames: packets are in presentation order"
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == [0, 250]
    assert b"elst" in edited.read_bytes()
    assert len(packets) == FRAMES + HIDDEN
    with av.open(str(edited)) as container:
        assert container.streams.video[0].frames == FRAMES + HIDDEN, "the container's count includes hidden frames"
        assert container.streams.video[0].codec_context.profile == "High"


def test_every_frame_comes_once_and_in_order(video: Path):
    frames = decode_video(video)
    assert frames.dtype == np.uint8 and frames.shape == (FRAMES, 64, 64, 3)
    assert [read_barcode(frame) for frame in frames] == list(range(FRAMES))


def test_frames_hidden_by_the_edit_list_are_left_out(edited: Path):
    assert [read_barcode(frame) for frame in decode_video(edited)] == list(range(FRAMES))


@pytest.mark.parametrize("hidden", [1, 40, 62, 63, 64])
@pytest.mark.parametrize("x264", ["keyint=250:bframes=3", "keyint=25:bframes=0"])
@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_an_edit_list_that_hides_the_end_is_refused(tmp_path: Path, x264: str, hidden: int, read):
    """Whether somebody cut the end off or a bit flipped: alignment by the end would be off.

    Libav keeps quiet about what is hidden from a key frame on: with a GOP of 25 one lies near the 62nd from the end.
    """
    write_video(tmp_path / "edited.mp4", 180, hidden=HIDDEN, x264=x264)
    data = bytearray((tmp_path / "edited.mp4").read_bytes())
    duration = data.index(b"elst") + 12  # after type, version and number of entries; in thousandths of a second
    assert int.from_bytes(data[duration : duration + 4], "big") == 180 * 50
    data[duration : duration + 4] = ((180 - hidden) * 50).to_bytes(4, "big")
    (tmp_path / "short.mp4").write_bytes(data)
    with pytest.raises(DamagedVideo, match="hides frames"):
        read(tmp_path / "short.mp4")


def test_counting_equals_decoding(video: Path, edited: Path):
    assert count_frames(video) == count_frames(edited) == FRAMES


def test_colours_are_red_green_blue(tmp_path: Path):
    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        red = np.zeros((64, 64, 3), np.uint8)
        red[..., 0] = 250
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(stream.encode())
    mean = decode_video(path)[0].mean((0, 1))
    assert mean[0] > 200 and mean[1] < 40 and mean[2] < 40


def test_pixels_are_those_of_the_ordinary_conversion(edited: Path):
    """One shared converter gives the same pixels as a fresh one a frame."""
    with av.open(str(edited)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(decode_video(edited), expected)
    error = np.abs(expected[7].astype(int) - barcode(7)).mean()
    assert error < 20, error


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes, read):
    path = tmp_path / "recording.mp4"
    path.write_bytes(content)
    with pytest.raises(DamagedVideo) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("read", [decode_video, count_frames])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.98])
def test_a_truncated_file_is_refused_wherever_its_index_lies(
    tmp_path: Path, edited: Path, share: float, options: dict[str, str], read
):
    remux(edited, tmp_path / "whole.mp4", **options)
    data = (tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DamagedVideo, match="truncated"):
        read(path)


@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_a_cut_between_two_packets_is_not_a_shorter_video(tmp_path: Path, video: Path, read):
    remux(video, tmp_path / "whole.mp4", movflags="faststart")
    with av.open(str(tmp_path / "whole.mp4")) as container:
        entry = container.streams.video[0].index_entries[200]
        end = entry.pos + entry.size
    path = tmp_path / "cut.mp4"
    path.write_bytes((tmp_path / "whole.mp4").read_bytes()[:end])
    with pytest.raises(DamagedVideo, match=f"{end} of at least"):
        read(path)


def test_a_packet_of_zeros_is_not_decoded_around(tmp_path: Path, video: Path):
    data = bytearray(video.read_bytes())
    packet = packets_of(video)[150]
    data[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedVideo, match="damaged"):
        decode_video(path)


def swapped_times(packets: list[av.Packet]) -> list[av.Packet]:
    packets[2].pts, packets[3].pts = packets[3].pts, packets[2].pts
    return packets


def late_start(packets: list[av.Packet]) -> list[av.Packet]:
    packets[0].pts += 20 * (packets[1].dts - packets[0].dts)
    return packets


def hidden_in_the_middle(packets: list[av.Packet]) -> list[av.Packet]:
    packets[150].pts += 10000 * (packets[1].dts - packets[0].dts)  # long after the end of the edit list
    return packets


@pytest.mark.parametrize("change", [swapped_times, late_start, hidden_in_the_middle])
def test_times_that_contradict_the_frames_are_refused(tmp_path: Path, video: Path, change):
    remux(video, tmp_path / "changed.mp4", change)
    with pytest.raises(DamagedVideo, match="twice or out of order"):
        decode_video(tmp_path / "changed.mp4")


@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_an_index_that_lost_its_last_frames_is_not_a_shorter_video(tmp_path: Path, video: Path, read):
    data = bytearray(video.read_bytes())
    count = data.index(b"stsz") + 12  # after type, version and the size of all samples
    assert int.from_bytes(data[count : count + 4], "big") == FRAMES
    data[count : count + 4] = (FRAMES - 20).to_bytes(4, "big")
    (tmp_path / "short.mp4").write_bytes(data)
    with pytest.raises(DamagedVideo, match=f"{FRAMES - 20} of {FRAMES} frames"):
        read(tmp_path / "short.mp4")


@pytest.mark.parametrize(("bytes_left", "words"), [(0, "closing index"), (8, "truncated"), (60, "truncated")])
@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_missing_fragments_are_not_a_shorter_video(tmp_path: Path, bytes_left: int, words: str, read):
    write_video(tmp_path / "plain.mp4", 100, x264="keyint=25:bframes=3")
    remux(tmp_path / "plain.mp4", tmp_path / "fragments.mp4", movflags="frag_keyframe+empty_moov")
    data = (tmp_path / "fragments.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.rindex(b"moof", 0, data.rindex(b"mfra")) - 4 + bytes_left])
    with pytest.raises(DamagedVideo, match=words):
        read(tmp_path / "cut.mp4")


def test_frames_before_a_gradual_refresh_is_complete_are_left_out_by_both(tmp_path: Path):
    """A recovery point instead of a key frame: a file cut there shows nothing until the whole picture is refreshed."""
    write_video(tmp_path / "whole.mp4", 100, x264="intra-refresh=1:keyint=12:bframes=0")
    second = [packet.is_keyframe for packet in packets_of(tmp_path / "whole.mp4")].index(True, 1)
    remux(tmp_path / "whole.mp4", tmp_path / "cut.mp4", lambda packets: packets[second:])
    frames = decode_video(tmp_path / "cut.mp4")
    assert count_frames(tmp_path / "cut.mp4") == len(frames) < len(packets_of(tmp_path / "cut.mp4"))
    assert [read_barcode(frame) for frame in frames] == list(range(100 - len(frames), 100))


def decode_trustingly(path: Path, **options: str) -> tuple[int, int] | None:
    """How many frames libav gives and how many of them it flags as corrupt; None if it raises."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = options
        try:
            frames = list(container.decode(stream))
        except av.FFmpegError:
            return None
    return len(frames), sum(frame.is_corrupt for frame in frames)


@pytest.fixture(scope="module")
def damages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One video a kind of damage that libav keeps quiet about in its own way, found by flipping bits of slices."""
    whole = tmp_path_factory.mktemp("damage") / "whole.mp4"
    write_video(whole, 100)
    packets, random = packets_of(whole), np.random.default_rng(0)
    found: dict[str, Path] = {}
    for attempt in range(600):
        packet = packets[random.integers(1, len(packets))]
        data = bytearray(whole.read_bytes())
        data[packet.pos + random.integers(5, min(13, packet.size))] ^= 1 << random.integers(8)
        path = whole.with_name(f"{attempt}.mp4")
        path.write_bytes(bytes(data))
        match decode_trustingly(path, err_detect="explode"), decode_trustingly(path):
            case None, (100, 0):
                found.setdefault("concealed", path)
            case (100, 1), _:
                found.setdefault("flagged", path)
            case (99, 0), _:
                found.setdefault("left out", path)
        if len(found) == 3:
            break
    return found


@pytest.mark.parametrize(
    ("kind", "words"), [("concealed", "damaged"), ("flagged", "corrupt"), ("left out", "1 of 100")]
)
def test_damage_that_libav_does_not_report_is_found(damages: dict[str, Path], kind: str, words: str):
    with pytest.raises(DamagedVideo, match=words):
        decode_video(damages[kind])


def test_sound_alone_is_no_video(tmp_path: Path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DamagedVideo, match="no video in it"):
        decode_video(path)


def test_some_frames_are_those_of_the_whole(edited: Path):
    count, some = decode_some(edited, [0, 7, FRAMES - 1])
    whole = decode_video(edited)
    assert count == len(whole)
    np.testing.assert_array_equal(some, whole[[0, 7, FRAMES - 1]])


def test_pictures_are_averaged_over_areas(video: Path):
    small = np.concatenate(list(decode_blocks(video, 100, size=16)))
    whole = decode_video(video).reshape(FRAMES, 16, 4, 16, 4, 3).mean((2, 4))
    assert small.shape == (FRAMES, 16, 16, 3)
    assert np.abs(small - whole).mean() < 3


def test_what_was_found_of_a_file_that_had_just_been_written_is_not_kept(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It changes once more within one tick of the file system's clock, and is asked for again later."""
    path = tmp_path / "new.mp4"
    shutil.copy(video, path)
    stat = path.stat()
    monkeypatch.setattr(module, "FRESH_NS", 3_600_000_000_000)
    assert count_frames(path) == FRAMES
    with path.open("r+b") as file:
        file.write(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    monkeypatch.setattr(module, "FRESH_NS", 0)
    with pytest.raises(DamagedVideo):
        count_frames(path)

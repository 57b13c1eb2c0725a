"""Containers and codecs as people have them: read frame by frame, or refused in one line, and never another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from fastdreamer.recordings.containers import DamagedVideo
from fastdreamer.recordings.decode import count_frames, decode_blocks, decode_some, decode_video, frame_times
from fastdreamer.tokenizer.nvdec import can_nvdec
from recordings.video_fixtures import barcode, read_barcode, remux, write_video

FRAMES = 40


def numbers(path: Path) -> list[int]:
    """The barcodes of all frames; counting and decoding must agree."""
    frames = decode_video(path)
    assert count_frames(path) == len(frames)
    return [read_barcode(frame) for frame in frames]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / "plain.mp4", FRAMES)
    return tmp_path / "plain.mp4"


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile plain.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nplain.mp4\n#EXT-X-ENDLIST\n",
        "<?xml version='1.0'?><MPD><Period><BaseURL>plain.mp4</BaseURL></Period></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_a_text_that_names_another_file_opens_none(video: Path, text: str, ending: str, read: Callable):
    path = video.with_name(f"list{ending}")
    path.write_text(text)
    with pytest.raises(DamagedVideo, match="no mp4, mov, mkv, webm or avi video") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert can_nvdec(path)


@pytest.mark.parametrize(
    "name", ["http:a.mp4", "concat:a|b.mp4", "a%03d.mp4", "-i.mp4", "subfile,,start,0,end,9,,:a.mp4"]
)
def test_a_name_is_no_protocol_and_no_pattern(video: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(video.parent)
    video.rename(name)
    assert numbers(Path(name)) == list(range(FRAMES))


def test_names_that_are_no_text_are_opened(video: Path):
    name = video.with_name("a\n\x1b[31m\udce9.mp4")
    video.rename(name)
    assert numbers(name) == list(range(FRAMES))


def with_cover(path: Path, disposition: Disposition) -> None:
    """A picture comes first, then the video."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 32, 32, "yuvj420p", disposition
        stream = container.add_stream("libx264", rate=20, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode()])
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number), format="rgb24")))
        container.mux(stream.encode())


def front(data: bytes) -> bytes:
    """An mp4 whose cover is declared before its tracks, as some taggers write it; the index lies at the end."""
    begin = data.rindex(b"moov") - 4
    moov, position, boxes = data[begin:], 8, []
    while position + 8 <= len(moov):
        length = int.from_bytes(moov[position : position + 4], "big")
        boxes.append(moov[position : position + length])
        position += length
    assert {box[4:8] for box in boxes} >= {b"trak", b"udta"}
    boxes.sort(key=lambda box: {b"mvhd": 0, b"udta": 1}.get(box[4:8], 2))
    return data[:begin] + moov[:8] + b"".join(boxes)


@pytest.mark.parametrize("kind", ["mp4", "mp4, first", "mkv"])
def test_cover_art_is_not_the_video(tmp_path: Path, kind: str):
    path = tmp_path / f"a.{kind[:3]}"
    with_cover(path, Disposition.attached_pic)
    if "first" in kind:
        path.write_bytes(front(path.read_bytes()))
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mjpeg"
    assert numbers(path) == list(range(FRAMES))
    assert can_nvdec(path)


def test_a_video_of_still_pictures_is_one(tmp_path: Path):
    write_video(tmp_path / "a.avi", FRAMES, codec="mjpeg", pixels="yuvj420p")
    assert numbers(tmp_path / "a.avi") == list(range(FRAMES))


def test_vp8_frames_that_nobody_sees_are_not_missing(tmp_path: Path):
    """Alternate reference frames: packets of their own, with show_frame 0."""
    write_video(tmp_path / "a.webm", FRAMES, codec="libvpx", b="300000")

    def hide(packets: list[av.Packet]) -> list[av.Packet]:
        for place in (7, 8, 30):
            old = packets[place]
            new = av.Packet(bytes([bytes(old)[0] & ~0x10]) + bytes(old)[1:])
            new.pts, new.dts, new.time_base = old.pts, old.dts, old.time_base
            packets[place] = new
        return packets

    remux(tmp_path / "a.webm", tmp_path / "b.webm", hide)
    assert numbers(tmp_path / "b.webm") == [number for number in range(FRAMES) if number not in (7, 8, 30)]


def twin_times(packets: list[av.Packet]) -> list[av.Packet]:
    for place in (6, 20):
        packets[place].pts = packets[place].dts = packets[place - 1].pts
    return packets


@pytest.mark.parametrize("bframes", [0, 2])
def test_equal_times_in_mkv_keep_their_order(tmp_path: Path, bframes: int):
    """It counts in thousandths of a second: fast videos have several frames in one."""
    write_video(tmp_path / "a.mp4", FRAMES, x264=f"bframes={bframes}")
    remux(tmp_path / "a.mp4", tmp_path / "b.mkv", squeezed if bframes else twin_times)
    times = frame_times(tmp_path / "b.mkv").times
    assert len(set(times.tolist())) < FRAMES
    assert numbers(tmp_path / "b.mkv") == list(range(FRAMES))


def squeezed(packets: list[av.Packet]) -> list[av.Packet]:
    """Frames every 0.6 ms."""
    for packet in packets:
        packet.pts, packet.dts = packet.pts // 80, packet.dts // 80
    return packets


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_b_frames_in_avi_come_in_the_order_of_the_pictures(tmp_path: Path, codec: str):
    """AVI says no frame's time; libav makes some up, in the order of the file."""
    options = {"x264": "keyint=12:bframes=2"} if codec == "libx264" else {"bf": "2", "g": "12", "qscale": "3"}
    write_video(tmp_path / "a.avi", FRAMES, codec=codec, **options)
    assert numbers(tmp_path / "a.avi") == list(range(FRAMES))


def fragments(video: Path, flags: str) -> bytes:
    """The video in fragments, without the index at their end."""
    remux(video, video.with_name("fragments.mp4"), movflags=flags)
    data = video.with_name("fragments.mp4").read_bytes()
    return data[: data.rindex(b"mfra") - 4] if b"mfra" in data else data


@pytest.fixture
def short_gops(tmp_path: Path) -> Path:
    write_video(tmp_path / "gops.mp4", FRAMES, x264="keyint=10:bframes=2")
    return tmp_path / "gops.mp4"


@pytest.mark.parametrize("flags", ["dash+global_sidx", "cmaf+global_sidx"])
def test_dash_and_cmaf_are_read_by_their_index(short_gops: Path, flags: str):
    path = short_gops.with_name("dash.mp4")
    data = fragments(short_gops, flags)
    path.write_bytes(data)
    assert numbers(path) == list(range(FRAMES))
    last = data.rindex(b"moof") - 4
    for end in (last, last + 8, last + 100, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(DamagedVideo):
            decode_video(path)


@pytest.mark.parametrize("flags", ["dash", "cmaf", "frag_keyframe+empty_moov"])
def test_fragments_that_nothing_counts_are_refused_with_the_command_that_converts_them(short_gops: Path, flags: str):
    path = short_gops.with_name("it's in pieces.mp4")
    path.write_bytes(fragments(short_gops, flags))
    with pytest.raises(DamagedVideo, match="closing index is missing") as error:
        decode_video(path)
    said, quoted = str(error.value), path.name.replace("'", "'\"'\"'")
    assert f"(cd {path.parent} && ffmpeg -i './{quoted}' " in said
    assert f"-y './.{quoted.removesuffix('.mp4')}.new.mp4' && mv -n " in said, "not into itself"


def test_a_codec_that_nobody_knows_is_named(video: Path):
    video.write_bytes(video.read_bytes().replace(b"avc1", b"zzzz"))
    for read in (decode_video, count_frames):
        with pytest.raises(DamagedVideo, match="no decoder for its codec"):
            read(video)


@pytest.mark.parametrize("matrix", [8, 14])
def test_colours_that_cannot_be_converted_are_named(tmp_path: Path, matrix: int):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.colorspace = 64, 64, "yuv420p", matrix
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(barcode(1), format="rgb24")), *stream.encode()])
    for read in (decode_video, lambda path: decode_some(path, [0])):
        with pytest.raises(DamagedVideo, match=f"cannot be made RGB: pixels yuv420p, colour matrix number {matrix}"):
            read(path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("read", [decode_video, count_frames])
def test_a_file_that_the_system_does_not_give_is_named(video: Path, error: OSError, read: Callable, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(DamagedVideo, match=rf"cannot be read \({error.strerror}\)"):
        read(video)


MIRROR, TURNED = {"hflip": True}, {"degrees": 90}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({}, lambda x: x),
        ({"degrees": 90}, lambda x: np.rot90(x, 1)),
        ({"degrees": 180}, lambda x: np.rot90(x, 2)),
        ({"degrees": -90}, lambda x: np.rot90(x, -1)),
        ({"degrees": 0, "hflip": True}, lambda x: x[:, ::-1]),
        ({"degrees": 0, "vflip": True}, lambda x: x[::-1]),
        ({"degrees": 90, "hflip": True}, lambda x: np.rot90(x, 1)[:, ::-1]),
        ({"degrees": 90, "vflip": True}, lambda x: np.rot90(x, 1)[::-1]),
    ],
)
def test_turned_and_mirrored_videos_are_read_as_they_are_shown(tmp_path: Path, turn: dict, expected: Callable):
    path = write_turned(tmp_path, **turn)
    plain = decode_video(tmp_path / "plain.mp4")
    assert plain.shape[1:3] == (48, 64)
    wanted = np.stack([expected(frame) for frame in plain])
    np.testing.assert_array_equal(decode_video(path), wanted)
    np.testing.assert_array_equal(decode_some(path, [3])[1], wanted[3:4])
    small, plain_small = (next(decode_blocks(file, 100, size=16)) for file in (path, tmp_path / "plain.mp4"))
    np.testing.assert_array_equal(small, np.stack([expected(frame) for frame in plain_small]))
    assert bool(turn) == ("turned" in can_nvdec(path))


def write_turned(folder: Path, matrix: tuple[int, ...] = (), **turn: object) -> Path:
    with av.open(str(folder / "plain.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode(number)[:48], format="rgb24")))
        container.mux(stream.encode())
    path = folder / "turned.mp4"
    with av.open(str(folder / "plain.mp4")) as reader, av.open(str(path), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        if turn:
            copy.set_display_rotation(turn.pop("degrees"), **turn)
        if matrix:
            copy.set_display_matrix(matrix)
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    return path


@pytest.mark.parametrize(
    "matrix", [(46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30), (1 << 15, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)]
)
def test_other_turns_are_refused(tmp_path: Path, matrix: tuple[int, ...]):
    with pytest.raises(DamagedVideo, match="only quarter turns and mirrors"):
        decode_video(write_turned(tmp_path, matrix))

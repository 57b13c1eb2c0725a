"""What NVDEC can take, read from a file's header and packets before anything is decoded, or any GPU is there.

DALI's streaming decoder knows nothing of edit lists, trusts the container's frame count and puts frames in order in a
buffer of eight; where any of that would give wrong frames, this says so and the file goes through PyAV.
Source: DALI 2.4, dali/operators/video (frames_decoder_base.cc, frames_decoder_gpu.cc, video_input.h, color_space.cu).
"""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

# Smallest frame (width, height) by codec; the Video Codec SDK's support matrix. The largest is the weakest GPU's.
SMALLEST = dict.fromkeys(("h264", "mpeg4", "vp8"), (48, 16)) | dict.fromkeys(("vp9", "av1"), (128, 128))
SMALLEST |= {"hevc": (144, 144)}
LARGEST = 4096
PROFILES = {"h264": ("Constrained Baseline", "Baseline", "Main", "High")}  # lossless yuv420p is High 4:4:4 Predictive
FORMATS = ("yuv420p", "yuvj420p")
BT601 = (2, 5, 6)  # not said, bt470bg, smpte170m: the one matrix that DALI's conversion knows
BUFFERED = 8  # DALI's num_decode_surfaces_
EMPTY = -1  # a time that marks an empty place in that buffer


def can_nvdec(path: Path) -> str:
    """Why NVDEC must not decode this file, in a few words; empty if it may. Decodes one frame and needs no GPU.

    It does not prove that the frames are right: damaged data and frames that lean on missing ones are seen only by
    comparing with PyAV. That cannot be by hash: NVDEC's pictures are converted to RGB by DALI, which interpolates
    colour where libswscale repeats it.
    """
    return presentation(path)[0]


def presentation(path: Path) -> tuple[str, list[bool]]:
    """Why not (see `can_nvdec`), and for every frame that NVDEC gives, in order, whether it is to be shown.

    Frames that an edit list hides are decoded, and DALI returns them like any other.
    """
    from fastdreamer.recordings.containers import DamagedVideo, open_video, told, turn_of

    if not path.exists():
        return "it cannot be opened (No such file or directory)", []
    try:
        with told(path), open_video(path) as (container, stream):
            if len(container.streams.video) > 1:
                return "there are several videos in it, or a cover", []
            if reason := _header(stream.codec_context):
                return reason, []
            counted = stream.frames
            packets = [(p.pts, p.is_discard, p.is_keyframe) for p in container.demux(stream) if p.size]
            container.seek(0)
            if turn_of(path, next(container.decode(stream))):
                return "it is to be shown turned or mirrored", []
    except DamagedVideo as error:
        return f"it cannot be opened ({error})", []
    if reason := _order(packets, counted):
        return reason, []
    return "", [not hidden for _, hidden, _ in sorted(packets)]


def _header(codec: Any) -> str:
    name, profile = codec.codec.canonical_name, codec.profile
    if name not in SMALLEST:
        return f"the codec is {name}; NVDEC takes {', '.join(SMALLEST)}"
    if codec.pix_fmt not in FORMATS:
        return f"pixels are {codec.pix_fmt}; NVDEC takes 8-bit 4:2:0"
    if name in PROFILES and profile not in PROFILES[name]:
        return f"the profile is {profile}; NVDEC takes {', '.join(PROFILES[name])}"
    if codec.colorspace not in BT601:
        return f"the colour matrix is number {codec.colorspace}; DALI converts BT.601 alone"
    width, height = SMALLEST[name]
    if codec.width < width or codec.height < height:
        return f"frames are {codec.width} x {codec.height}; NVDEC's smallest in {name} are {width} x {height}"
    if max(codec.width, codec.height) > LARGEST:
        return f"frames are {codec.width} x {codec.height}; NVDEC's largest are {LARGEST} a side"
    if codec.width % 2 or codec.height % 2:
        return f"frames are {codec.width} x {codec.height}; DALI converts even sizes alone"
    return ""


def _order(packets: list[tuple[int | None, bool, bool]], counted: int) -> str:
    """Whether DALI's bookkeeping holds for these packets, which are in decoding order."""
    if not packets:
        return "there are no frames in it"
    times = [time for time, _, _ in packets if time is not None]
    if len(set(times)) != len(packets) or EMPTY in times:
        return "times are missing, doubled or -1"
    if counted not in (0, len(packets)):
        return f"the container counts {counted} frames and gives {len(packets)}"
    if not packets[0][2] or min(times) != times[0]:
        return "it begins with frames that need earlier ones"
    waiting, given = times[: BUFFERED - 1], []
    heapq.heapify(waiting)
    for time in times[BUFFERED - 1 :]:
        given.append(heapq.heappushpop(waiting, time))
    if given != sorted(given):
        return f"frames are shown more than {BUFFERED} places from where they are coded"
    return ""

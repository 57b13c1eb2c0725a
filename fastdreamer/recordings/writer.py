"""Write an episode in MineRL's layout, with lossless video, so that one reader serves recordings of both origins."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.recordings.counters import to_arrays
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.system.files import atomic_directory

FRAMES_PER_SECOND = 20
MILLISECONDS_PER_STEP = 50


def write_recording(folder: Path, trajectory: Trajectory, space: ActionSpace, metadata: dict[str, Any]) -> None:
    """Write `folder` (ROOT/<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>) whole or not at all.

    `metadata` is laid over MineRL's keys, which are computed here; `recorder` is always "fastdreamer", which tells the
    reader that the last frame is real and that the episode's end is `metadata["terminated"]` (default: the
    trajectory's last terminal). `frames_sha256` lets it prove that what it decodes is what was seen.

    Raises:
        UserError: if the folder exists already or the disk refuses.
    """
    steps = len(trajectory.rewards)
    total = float(trajectory.rewards.sum(dtype=np.float64))
    terminated = bool(trajectory.terminals[-1]) if steps else False
    content = {
        "success": terminated,
        "duration_ms": MILLISECONDS_PER_STEP * steps,
        "duration_steps": steps,
        "total_reward": total,
        "stream_name": folder.name,
        "true_video_frame_count": len(trajectory.frames),
        "terminated": terminated,
        "frames_sha256": hashlib.sha256(np.ascontiguousarray(trajectory.frames).data).hexdigest(),
        **metadata,
        "recorder": "fastdreamer",
    }
    arrays = {
        "reward": trajectory.rewards.astype(np.float32),
        **space.to_recording(trajectory.actions),
        **to_arrays(trajectory.counters),
    }
    with atomic_directory(folder) as temporary:
        _write_video(temporary / "recording.mp4", trajectory.frames)
        np.savez_compressed(temporary / "rendered.npz", allow_pickle=False, **arrays)
        (temporary / "metadata.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_video(path: Path, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
    """H.264 in RGB at quantiser 0: decoded frames are the given ones, bit for bit."""
    with av.open(str(path), "w") as container:
        # B-frames and rate control buy nothing here; one thread, because frames of 64 pixels do not fill two.
        stream = container.add_stream(
            "libx264rgb", rate=FRAMES_PER_SECOND, options={"qp": "0", "preset": "veryfast", "bf": "0", "threads": "1"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())

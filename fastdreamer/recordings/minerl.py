"""Read MineRL v3/v4 recordings, and ours, which have the same layout.

    ROOT/<EnvName>/v3_<player>_<mob>-<n>_<start>-<end>/{recording.mp4, rendered.npz, metadata.json}

The rules are those of MineRL's own loader (minerl.data.data_pipeline), with four differences: the number of leading
frames to skip comes from the frames that decode instead of metadata.json, which may be missing or wrong; too few frames
are an error instead of a shorter episode, and so are frames missing behind the first that is needed; and arrays are
loaded without pickle.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import SPACES, ActionSpace
from fastdreamer.recordings.bounds import MOST_ARRAY_BYTES, check_bytes
from fastdreamer.recordings.counters import from_arrays
from fastdreamer.recordings.decode import count_packets, frame_times
from fastdreamer.recordings.recording import Aligned, Recording
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.system.json_files import fault, parse, regular_bytes

RECORDER = "fastdreamer"  # metadata's mark of our own recordings
UNREWARDED = "minerl_basalt"
REWARD_TOLERANCE = 1e-3  # relative, and absolute for small sums: what summing in another order or precision can cost
_WAY_OUT = " (data.check_metadata=false reads it all the same)"


def guess_space(recording: Recording) -> ActionSpace:
    """The smallest action space that reads the recording.

    Raises:
        UserError: if none does; the reason is that of the space whose components fit best.
    """
    arrays = _load_arrays(recording)
    keys = {key for key in arrays if key.startswith("action$")}
    best = min(SPACES.values(), key=lambda space: len(keys ^ {component.key for component in space.components}))
    best.from_recording(arrays)
    return best


@dataclass(frozen=True)
class MineRLLabels:
    """The arrays of one recording, checked; its video is aligned by its end.

    Attributes:
        trajectory: all but the pixels.
        check_metadata: whether the video must have as many frames as metadata.json says.
    """

    recording: Recording
    trajectory: Trajectory
    check_metadata: bool = True

    def align(self, visible: int) -> Aligned:
        """The last frame is the last state; leading extra frames go.

        Raises:
            DamagedRecording: if there are too few frames, or another number than metadata.json says, or if some are
                missing behind the first that is needed, so that those before are not the rows'.
        """
        needed = len(self.trajectory)
        if visible < needed:
            raise self.recording.damaged(
                f"{self.recording.video.name} has {visible} frames, {needed - 1} rewards need {needed}"
            )
        is_counted = self.check_metadata and self._check_frame_count(visible)
        self._check_times(visible, needed, is_counted)
        picked = np.arange(visible - needed, visible)
        return Aligned(self.trajectory, picked, is_by_number=visible == needed, sha256=self._digest)

    @property
    def _digest(self) -> str | None:
        """The hash of the frames, which our own recordings say."""
        metadata = self.trajectory.metadata
        return metadata.get("frames_sha256") if metadata.get("recorder") == RECORDER else None

    def _check_times(self, visible: int, needed: int, is_counted: bool) -> None:
        """Rows come every step of the game's clock, and so must their frames, where the video has a clock."""
        if self._digest is not None:
            return  # whose frames are proved one by one
        with self.recording.reading():
            times = frame_times(self.recording.video)
        if len(times.times) != visible:
            return  # the packets promised another number than came: this is asked again with that one
        first, name = visible - needed, self.recording.video.name
        if times.ticks is None:
            if first and self.check_metadata and not is_counted:
                raise self.recording.damaged(
                    f"{name} has {first} frames more than its rows need, which come at no steady rate, and "
                    f"metadata.json has no true_video_frame_count to prove that none is missing{_WAY_OUT}"
                )
            return
        wrong = np.flatnonzero(times.ticks[first:] != 1)
        if len(wrong):
            before, found = first + int(wrong[0]), int(times.ticks[first + wrong[0]])
            what = f"{found - 1} frames are missing after" if found else "two frames have the time of"
            raise self.recording.damaged(
                f"{name}: {what} {times.place(before)}, so the frames before are not those of their rows"
            )

    def _check_frame_count(self, visible: int) -> bool:
        """Whether metadata.json says how many there are, and rightly.

        MineRL's count is of the frames that its decoder saw, with or without those that an edit list hides.
        """
        said = _number(self.recording, self.trajectory.metadata, "true_video_frame_count")
        if said is None or said == visible:
            return said is not None
        with self.recording.reading():
            packets = count_packets(self.recording.video)
        if said != packets:
            counted = f"{visible} frames" + (f" ({packets} with hidden ones)" if packets != visible else "")
            raise self.recording.damaged(
                f"true_video_frame_count in metadata.json is {said:g}, but {self.recording.video.name} has {counted}: "
                f"one of them is damaged or another recording's{_WAY_OUT}"
            )
        return True


def read_labels(recording: Recording, space: ActionSpace, check_metadata: bool = True) -> MineRLLabels:
    """Read one recording's arrays; `check_metadata` compares them, and later the video, with metadata.json.

    MineRL's terminal is on the last row, and its last frame is masked in `valid` (its loader replaces it by the frame
    before, so the pixels cannot be trusted). With our own recordings both come from the metadata and the game itself.
    BASALT has no rewards: its array is all zeros.

    Raises:
        UserError: saying what is wrong with it.
    """
    arrays = _load_arrays(recording)
    metadata = _load_metadata(recording)
    actions = space.from_recording(arrays)
    with np.errstate(over="ignore"):
        rewards = np.asarray(arrays["reward"], np.float32)
    if not np.isfinite(rewards).all():
        raise recording.damaged("a reward is not finite")
    if check_metadata:
        _check_rewards(recording, metadata, rewards)
    is_ours, steps = metadata.get("recorder") == RECORDER, len(rewards)
    trajectory = Trajectory(
        name=recording.name,
        frames=np.zeros((steps + 1, 0, 0, 3), np.uint8),
        actions=actions,
        rewards=rewards,
        terminals=(np.arange(steps) == steps - 1) & (bool(metadata.get("terminated")) or not is_ours),
        valid=(np.arange(steps + 1) < steps) | is_ours,
        metadata=metadata,
        rewarded=space.name != UNREWARDED or bool(rewards.any()),
        counters=from_arrays(arrays),
    )
    return MineRLLabels(recording, trajectory, check_metadata)


def _load_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    """All arrays of the npz, with their lengths checked: t observations, t - 1 actions and rewards."""
    path = recording.file("rendered.npz")
    key = ""
    arrays: dict[str, NDArray[Any]] = {}
    if not path.is_file():
        raise recording.damaged(f"{path.name} is no file")
    try:
        held = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                held = sum(member.file_size for member in packed.infolist())
        check_bytes(path, held, MOST_ARRAY_BYTES, "what is in it")
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                arrays[canonical_key(key)] = archive[key]
    except Exception as error:  # one flipped bit asks zipfile for encryption, other compressions or much memory
        if isinstance(error, UserError):
            raise recording.damaged(error) from error
        if "allow_pickle" in str(error):
            raise recording.damaged(f"{path.name} holds pickled data ({key}), refused") from error
        raise recording.damaged(f"{path.name} cannot be read ({str(error)[:200]})") from error
    if "reward" not in arrays:
        raise recording.damaged(f"{path.name} has no array `reward`")
    rewards = arrays["reward"]
    if rewards.ndim != 1 or not len(rewards) or rewards.dtype.kind not in "fiu":
        raise recording.damaged(f"reward is {rewards.dtype} of shape {rewards.shape}; it must be numbers (rows,)")
    for key, array in arrays.items():
        rows = {"observation": len(rewards) + 1, "action": len(rewards)}.get(key.partition("$")[0])
        if rows is not None and (array.ndim == 0 or len(array) != rows):
            raise recording.damaged(f"{key} has shape {array.shape}; {len(rewards)} rewards need {rows} rows")
    return arrays


def canonical_key(key: str) -> str:
    """An array's name in the v4 dialect: v3 has dots between levels, and `compassAngle` in one word."""
    return key.replace(".", "$").replace("compassAngle", "compass$angle")


def _load_metadata(recording: Recording) -> dict[str, Any]:
    path = recording.path / "metadata.json"
    if not path.is_file():
        return {}
    try:
        metadata = parse(regular_bytes(path))
        wrong = fault(metadata, {})
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise recording.damaged(f"metadata.json is damaged ({wrong})")
    return dict(metadata)


def _check_rewards(recording: Recording, metadata: dict[str, Any], rewards: Float[np.ndarray, " s"]) -> None:
    steps = _number(recording, metadata, "duration_steps")
    if steps is not None and steps != len(rewards):
        raise recording.damaged(
            f"duration_steps in metadata.json is {steps:g}, but there are {len(rewards)} rewards{_WAY_OUT}"
        )
    total, found = _number(recording, metadata, "total_reward"), float(rewards.sum(dtype=np.float64))
    if total is not None and not math.isclose(total, found, rel_tol=REWARD_TOLERANCE, abs_tol=REWARD_TOLERANCE):
        raise recording.damaged(
            f"total_reward in metadata.json is {total:g}, but the rewards sum to {found:g}{_WAY_OUT}"
        )


def _number(recording: Recording, metadata: dict[str, Any], key: str) -> float | None:
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise recording.damaged(f"{key} in metadata.json is {str(value)[:40]!r}, which is no number{_WAY_OUT}")
    return float(value)

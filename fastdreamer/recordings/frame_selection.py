"""The one place where decoded frames become a trajectory's: picked by number, retouched, counted, sampled, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fastdreamer.recordings.decode import BLOCK, decode_blocks
from fastdreamer.recordings.recording import Aligned, DamagedRecording, Labels, Recording
from fastdreamer.recordings.verify import sample_numbers

Frames = UInt8[Tensor, "n h w 3"]


class FrameSelection:
    """Lets a trajectory's frames pass and keeps count, samples and hash of what passed.

    Args:
        aligned: says which frames those are.
        wanted: numbers of the decoded frames to keep as samples.
        offset: frames that come before the first which the numbers mean.
        whole: frames have their full size; else they are not retouched.
    """

    def __init__(self, aligned: Aligned, wanted: Int[np.ndarray, " k"], offset: int = 0, whole: bool = True) -> None:
        self.aligned, self.offset, self._is_whole = aligned, offset, whole
        self.count = 0
        self._samples: list[np.ndarray] = []
        self._wanted = wanted + offset
        self._picked = aligned.picked + offset
        self._hash = hashlib.sha256()

    def frames(self, blocks: Iterable[Frames]) -> Iterator[Frames]:
        """The trajectory's frames of all decoded ones."""
        for block in blocks:
            for number in self._within(self._wanted, block):
                self._samples.append(block[number].cpu().numpy().copy())
            picked = self._within(self._picked, block)
            if self.aligned.retouch is not None and self._is_whole:
                for number in picked:
                    self.aligned.retouch(self.count + int(number) - self.offset, block[int(number)].numpy())
            self.count += len(block)
            if len(picked):
                first, last = int(picked[0]), int(picked[-1])
                whole = last - first + 1 == len(picked)
                part = block[first : last + 1] if whole else block[torch.from_numpy(picked).to(block.device)]
                if self.aligned.sha256 is not None and part.device.type == "cpu":
                    self._hash.update(np.ascontiguousarray(part.numpy()).data)
                yield part

    @property
    def samples(self) -> UInt8[np.ndarray, "k h w 3"]:
        """The sampled frames that passed."""
        return np.stack(self._samples) if self._samples else np.zeros((0, 0, 0, 3), np.uint8)

    def check(self, recording: Recording) -> None:
        """Hold what passed against what the recording says of its own frames, where they have their full size.

        Raises:
            DamagedRecording: if it says what they are, and they are not.
        """
        if self._is_whole and self.aligned.sha256 is not None and self._hash.hexdigest() != self.aligned.sha256:
            raise recording.damaged("the decoded frames are not the recorded ones (SHA-256 differs)")

    def _within(self, numbers: np.ndarray, block: Tensor) -> np.ndarray:
        inside = (numbers >= self.count) & (numbers < self.count + len(block))
        return np.asarray(numbers[inside] - self.count)


def selections(labels: Labels, visible: int, whole: bool = True) -> Iterator[FrameSelection]:
    """Selections to let all frames pass through, one after another: what passed through any but the last is void.

    How many frames a video shows is known when all are decoded. The first selection goes by `visible`; if another
    number came, the next one goes by that.

    Raises:
        DamagedRecording: if labels contradict the frames, or it decodes to another number of frames each time.
    """
    for _ in range(3):
        selection = FrameSelection(align(labels, visible), sample_numbers(visible), whole=whole)
        yield selection
        if selection.count == visible:
            return selection.check(labels.recording)
        visible = selection.count
    raise labels.recording.damaged(f"{labels.recording.video.name} decodes to another number of frames each time")


def align(labels: Labels, visible: int) -> Aligned:
    """The recording, if it shows `visible` frames; labels that contradict it are held against what decodes.

    Raises:
        DamagedRecording: if they contradict that too.
    """
    try:
        return labels.align(visible)
    except DamagedRecording:
        return labels.align(sum(len(block) for block in decode_blocks(labels.recording.video, BLOCK)))

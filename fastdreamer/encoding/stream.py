"""One recording as a stream of chunks for the encoder: right frames, in bounded memory, proved while they pass.

How many frames a video shows is known when all are decoded. The packets give a good guess; labels are aligned by it,
the frames stream on, and if another number came out in the end everything begins again with that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fastdreamer.encoding.producers import BoundedQueue
from fastdreamer.errors import UserError
from fastdreamer.recordings.decode import BLOCK, BLOCK_BYTES, count_frames, decode_blocks, decode_some, frame_times
from fastdreamer.recordings.frame_selection import Frames, FrameSelection, align, selections
from fastdreamer.recordings.recording import ALIGNMENT, Aligned, DamagedRecording, Labels, Recording
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.verify import disagreement, sample_numbers, sampled_sha256
from fastdreamer.shapes import LatentClock
from fastdreamer.system.ranges import spanned
from fastdreamer.tokenizer.windows import chunk_sizes, into_chunks

CHUNK_BYTES = 2**29  # a chunk of large frames has fewer windows, and at least one


@dataclass(frozen=True)
class Chunk:
    """Frames of a recording, the next after those that came before (`into_chunks`)."""

    recording: Recording
    frames: UInt8[Tensor, "t h w 3"]


@dataclass(frozen=True)
class Restart:
    """All chunks of the recording so far are void: it begins again."""

    recording: Recording


@dataclass(frozen=True)
class Finished:
    """The recording is whole and its chunks are right.

    Attributes:
        trajectory: the episode without pixels.
        proof: what the store's manifest notes: `decoder`; `sampled_sha256` of some frames as PyAV decodes them;
            `frames_per_s`; `by_pyav`: why another decoder was not used; `mended`: what was wrong with the recording and
            could be put right.
    """

    recording: Recording
    trajectory: Trajectory
    proof: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Streamer:
    """Streams recordings into a bounded queue.

    Attributes:
        clock, at_once: how frames are cut into chunks.
        gpu: decodes a video on the GPU, as blocks of frames there; None: PyAV decodes everything.
        refused: why `gpu` cannot take a file, or "".
        pinned: chunks in page-locked memory, for a GPU to fetch.
    """

    clock: LatentClock
    at_once: int
    gpu: Callable[[Path, int], Iterator[Frames]] | None = None
    refused: Callable[[Path], str] = lambda path: ""
    pinned: bool = False

    def stream(self, labels: Labels, queue: BoundedQueue) -> None:
        """Put the recording's chunks and then `Finished`.

        Raises:
            DamagedRecording: if it cannot be read; the chunks that were put are void.
            Stopped: if the consumer is gone.
        """
        try:
            visible = count_frames(labels.recording.video)
            why = "" if self.gpu is None else self.refused(labels.recording.video)
            if self.gpu is not None and not why and align(labels, visible).retouch is not None:
                why = "its frames are drawn upon (a cursor), which is done on the host"
            if self.gpu is None or why:
                self._by_pyav(labels, visible, queue, why)
            else:
                self._by_gpu(labels, visible, queue)
        except DamagedRecording:
            raise
        except UserError as error:
            raise labels.recording.damaged(error) from error

    def _by_pyav(self, labels: Labels, visible: int, queue: BoundedQueue, why: str) -> None:
        for number, selection in enumerate(selections(labels, visible)):
            if number:
                queue.put(Restart(labels.recording))
            blocks = map(torch.from_numpy, spanned("decode", decode_blocks(labels.recording.video, BLOCK)))
            self._put(labels.recording, selection.frames(blocks), len(selection.aligned.picked), queue)
        queue.put(_finished(labels, selection.aligned, "pyav", selection.samples, why))

    def _by_gpu(self, labels: Labels, visible: int, queue: BoundedQueue) -> None:
        """Decode on the GPU, if it shows what PyAV shows."""
        assert self.gpu is not None
        shown, reference = decode_some(labels.recording.video, sample_numbers(visible).tolist())
        if shown != visible:
            visible, reference = decode_some(labels.recording.video, sample_numbers(shown).tolist())
        block = max(1, min(BLOCK, BLOCK_BYTES // max(1, reference[:1].nbytes)))
        aligned, shown = labels.align(visible), visible
        why = "it shows another number of frames each time"
        for _ in range(2):
            selection = FrameSelection(aligned, sample_numbers(visible), shown - visible)
            try:
                blocks = spanned("decode", self.gpu(labels.recording.video, block))
                self._put(labels.recording, selection.frames(blocks), len(aligned.picked), queue)
            except (UserError, RuntimeError) as error:
                why = " ".join(str(error).split())
                break
            if selection.count == shown:
                why = disagreement(sample_numbers(visible), reference, selection.samples)
                if not why:
                    return queue.put(_finished(labels, aligned, "nvdec", reference))
                break
            queue.put(Restart(labels.recording))
            shown = selection.count
        queue.put(Restart(labels.recording))
        self._by_pyav(labels, visible, queue, why)

    def _put(self, recording: Recording, frames: Iterable[Frames], count: int, queue: BoundedQueue) -> None:
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        window_bytes = max(1, self.clock.window - 1) * first[0].numel()
        sizes = chunk_sizes(count, self.clock, max(1, min(self.at_once, CHUNK_BYTES // window_bytes)))
        held = 0
        last: Tensor | None = None

        def new(shape: tuple[int, ...]) -> Tensor:
            nonlocal held
            queue.reserve(size := int(np.prod(shape)))
            held = size
            device = last.device if last is not None else torch.device("cpu")
            return torch.empty(shape, dtype=torch.uint8, device=device, pin_memory=self.pinned and device.type == "cpu")

        def watched() -> Iterator[Frames]:
            nonlocal last
            for last in chain([first], frames):
                queue.check()
                yield last

        try:
            for chunk in into_chunks(watched(), sizes, self.clock, new):
                held = 0
                queue.put(Chunk(recording, chunk), chunk.numel())
                del chunk  # the consumer's alone, so that its memory is free when it is done
        finally:
            queue.release(held)


def _finished(
    labels: Labels,
    aligned: Aligned,
    decoder: str,
    samples: UInt8[np.ndarray, "k h w 3"],
    by_pyav: str = "",
) -> Finished:
    proof: dict[str, object] = {"decoder": decoder, "sampled_sha256": sampled_sha256(samples)}
    proof |= {"frames_per_s": frame_times(labels.recording.video).per_s}
    proof |= {"alignment": ALIGNMENT} if aligned.trajectory.labelled else {}
    proof |= {"by_pyav": by_pyav} if by_pyav else {}
    proof |= {"mended": list(aligned.mended)} if aligned.mended else {}
    return Finished(labels.recording, aligned.trajectory, proof)

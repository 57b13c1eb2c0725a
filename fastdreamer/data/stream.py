"""One recording as a stream of chunks for the encoder: right frames, in bounded memory, proved while they pass.

How many frames a video shows is known when all are decoded. The packets give a good guess; labels are aligned by it,
the frames stream on, and if another number came out in the end everything begins again with that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fastdreamer.data.decode import BLOCK, count_frames, decode_blocks
from fastdreamer.data.overlap import Outlet
from fastdreamer.data.recording import Aligned, DamagedRecording, Labels, Recording
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.data.verify import disagreement, sample_numbers, sampled_sha256
from fastdreamer.errors import UserError
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.windows import chunk_sizes, into_chunks

Frames = UInt8[Tensor, "n h w 3"]


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
        trajectory: without pixels.
        proof: for the store's manifest: `decoder`; `sampled_sha256` of some frames as PyAV decodes them; `disagreed`:
            why another decoder was not used; `mended`: what was wrong with the recording and could be put right.
    """

    recording: Recording
    trajectory: Trajectory
    proof: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Streamer:
    """Streams recordings into an outlet.

    Attributes:
        clock, at_once: how frames are cut into chunks.
        card: decodes a video on the card, as blocks of frames there; None: PyAV decodes everything.
        refused: why `card` cannot take a file, or "".
        pinned: chunks in page-locked memory, for a card to fetch.
    """

    clock: LatentClock
    at_once: int
    card: Callable[[Path, int], Iterator[Frames]] | None = None
    refused: Callable[[Path], str] = lambda path: ""
    pinned: bool = False

    def stream(self, recording: Recording, labels: Labels, outlet: Outlet) -> None:
        """Put the recording's chunks and then `Finished`.

        Raises:
            DamagedRecording: if it cannot be read; the chunks that were put are void.
            Stopped: if the consumer is gone.
        """
        try:
            visible = count_frames(labels.video)
            why = "" if self.card is None else self.refused(labels.video)
            if self.card is None or why or self._align(labels, visible).retouch is not None:
                self._by_pyav(recording, labels, visible, outlet, why)
            else:
                self._by_card(recording, labels, visible, outlet)
        except DamagedRecording:
            raise
        except UserError as error:
            raise recording.damaged(error) from error

    def _by_pyav(self, recording: Recording, labels: Labels, visible: int, outlet: Outlet, why: str) -> None:
        for _ in range(3):
            aligned = self._align(labels, visible)
            passage = _Passage(aligned, sample_numbers(visible))
            blocks = (torch.from_numpy(block) for block in decode_blocks(labels.video, BLOCK))
            self._put(recording, passage.frames(blocks), len(aligned.picked), outlet)
            if passage.count == visible:
                return outlet.put(passage.finished(recording, "pyav", sampled_sha256(passage.samples), why))
            outlet.put(Restart(recording))
            visible = passage.count
        raise recording.damaged(f"{labels.video.name} decodes to another number of frames each time")

    def _by_card(self, recording: Recording, labels: Labels, visible: int, outlet: Outlet) -> None:
        """On the card, if it shows what PyAV shows."""
        assert self.card is not None
        visible, reference = _reference(labels, visible)
        aligned, shown = labels.align(visible), visible
        why = "it shows another number of frames each time"
        for _ in range(2):
            passage = _Passage(aligned, sample_numbers(visible), shown - visible)
            try:
                self._put(recording, passage.frames(self.card(labels.video, BLOCK)), len(aligned.picked), outlet)
            except (UserError, RuntimeError) as error:
                why = " ".join(str(error).split())
                break
            if passage.count == shown:
                why = disagreement(sample_numbers(visible), reference, passage.samples)
                if not why:
                    return outlet.put(passage.finished(recording, "nvdec", sampled_sha256(reference)))
                break
            outlet.put(Restart(recording))
            shown = passage.count
        outlet.put(Restart(recording))
        self._by_pyav(recording, labels, visible, outlet, why)

    def _align(self, labels: Labels, visible: int) -> Aligned:
        try:
            return labels.align(visible)
        except DamagedRecording:  # the packets may be wrong: only what decodes counts
            return labels.align(sum(len(block) for block in decode_blocks(labels.video, BLOCK)))

    def _put(self, recording: Recording, frames: Iterable[Frames], count: int, outlet: Outlet) -> None:
        sizes = chunk_sizes(count, self.clock, self.at_once)
        held = 0
        last: Tensor | None = None

        def new(shape: tuple[int, ...]) -> Tensor:
            nonlocal held
            outlet.reserve(size := int(np.prod(shape)))
            held = size
            device = last.device if last is not None else torch.device("cpu")
            return torch.empty(shape, dtype=torch.uint8, device=device, pin_memory=self.pinned and device.type == "cpu")

        def watched() -> Iterator[Frames]:
            nonlocal last
            for last in frames:
                outlet.check()
                yield last

        try:
            for chunk in into_chunks(watched(), sizes, self.clock, new):
                held = 0
                outlet.put(Chunk(recording, chunk), chunk.numel())
        finally:
            outlet.release(held)


class _Passage:
    """Lets a trajectory's frames pass and keeps count, samples and hash of what passed."""

    def __init__(self, aligned: Aligned, wanted: np.ndarray, offset: int = 0) -> None:
        self.aligned, self.offset = aligned, offset
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
            if self.aligned.retouch is not None:
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
        """Those of the wanted frames that passed."""
        return np.stack(self._samples) if self._samples else np.zeros((0, 0, 0, 3), np.uint8)

    def finished(self, recording: Recording, decoder: str, digest: str, disagreed: str = "") -> Finished:
        """The proof.

        Raises:
            DamagedRecording: if the recording says what its frames are, and they are not.
        """
        expected = self.aligned.sha256
        if expected is not None and decoder == "pyav" and self._hash.hexdigest() != expected:
            raise recording.damaged("the decoded frames are not the recorded ones (SHA-256 differs)")
        proof: dict[str, object] = {"decoder": decoder, "sampled_sha256": digest}
        proof |= {"disagreed": disagreed} if disagreed else {}
        proof |= {"mended": list(self.aligned.mended)} if self.aligned.mended else {}
        return Finished(recording, self.aligned.trajectory, proof)

    def _within(self, numbers: np.ndarray, block: Tensor) -> np.ndarray:
        inside = (numbers >= self.count) & (numbers < self.count + len(block))
        return np.asarray(numbers[inside] - self.count)


def _reference(labels: Labels, visible: int) -> tuple[int, UInt8[np.ndarray, "k h w 3"]]:
    """How many frames PyAV shows, and the sampled ones of them."""
    for _ in range(2):
        wanted, samples, count = set(sample_numbers(visible).tolist()), [], 0
        for block in decode_blocks(labels.video, BLOCK):
            samples += [frame for number, frame in enumerate(block, count) if number in wanted]
            count += len(block)
        if count == visible:
            break
        visible = count
    return visible, np.stack(samples)

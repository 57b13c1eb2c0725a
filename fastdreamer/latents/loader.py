"""A sampler's batches on the device that trains: the data position, made-ahead batches, and the time spent waiting."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.system.ranges import span


class Loader:
    """Draws batch after batch. Its state is the number of batches consumed, whatever was made ahead.

    A thread of an executor makes the batches ahead, so that nothing blocks when the loader is closed, dropped, or alive
    at the interpreter's exit, and what goes wrong while one is made is raised by the `draw` that would return it.

    Attributes:
        sampler: what says which batch comes when.
        waited_s: time spent in `draw` so far, by the host's clock: cutting or waiting for the thread, and starting the
            copy to the GPU. A GPU that has work queued goes on meanwhile, so there it is an upper bound of the time
            that the GPU starves.
    """

    def __init__(self, sampler: CropSampler, device: torch.device, ahead: int = 0) -> None:
        self.sampler, self.device, self.ahead = sampler, device, ahead
        self.waited_s = 0.0
        self._position = 0
        self._made: deque[Future[Batch]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def draw(self) -> Batch:
        """The next batch, on the device."""
        began = time.perf_counter()
        with span("batch"):
            batch = self._next().to(self.device)
        self._position += 1
        self.waited_s += time.perf_counter() - began
        return batch

    @property
    def position(self) -> int:
        """Batches consumed: the number of the next one."""
        return self._position

    def get_state(self) -> Tensor:
        """The data position, int64 (1,)."""
        return torch.tensor([self._position])

    def set_state(self, state: Tensor) -> None:
        """Moves to a data position.

        Raises:
            UserError: if it is none, as in checkpoints from before batches were numbered.
        """
        if state.shape != (1,) or state.dtype != torch.int64:
            raise UserError(
                "the checkpoint's data position is of an older FastDreamer: train the phase anew in another --run-dir"
            )
        self._drop()
        self._position = int(state)

    def close(self) -> None:
        """Ends the thread; the next draw would start another."""
        self._drop()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> Batch:
        if not self.ahead:
            return self._make(self._position)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "batches")
        while len(self._made) <= self.ahead:
            self._made.append(self._thread.submit(self._make, self._position + len(self._made)))
        try:
            return self._made.popleft().result()
        except BaseException:
            self._drop()  # what was made ahead is for positions that are not reached now
            raise

    def _make(self, number: int) -> Batch:
        with span("crops"):
            batch = self.sampler.batch(number)
        return batch.pin_memory() if self.device.type == "cuda" and not batch.latents.is_cuda else batch

    def _drop(self) -> None:
        for future in self._made:
            future.cancel()
        self._made.clear()

"""TensorBoard's scalars. Its own writer leaves them to a thread, whose errors end nothing and print a traceback."""

from __future__ import annotations

import io
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class Board:
    """Writes scalars to a new file of events in `folder`, those of a step at once.

    metrics.jsonl holds the same numbers: where the disk refuses, this is said once and training goes on.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        """What the folder holds of steps after `first_step`, if there were some, is shown no more."""
        self._file: io.FileIO | None = None
        self.folder = folder
        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(folder / name, "x")
        except OSError as error:
            self._stop(error)
        start = [Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))] if first_step else []
        self._write([Event(file_version="brain.Event:2"), *start])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The scalars of a step, by name."""
        self._write(
            [
                Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
                for name, value in values.items()
            ]
        )

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, events: list[Event]) -> None:
        if self._file is None:
            return
        records = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(records).write(event.SerializeToString())
        try:
            if self._file.write(records.getvalue()) != records.tell():
                raise OSError(0, "the disk takes no more")
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self.close()
        self._file = None
        print(
            f"TensorBoard's events cannot be written to {self.folder} ({error.strerror}): metrics.jsonl goes on",
            file=sys.stderr,
            flush=True,
        )

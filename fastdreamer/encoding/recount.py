"""What a store's episodes from before counters or times were read lack, read from their recordings, nothing encoded.

Source: relabelling must not cost an encode, and stores of large sets take hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdreamer.encoding.manifest_writer import Entry
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import read_episode
from fastdreamer.recordings.decode import count_frames
from fastdreamer.recordings.frame_selection import align
from fastdreamer.recordings.recording import ALIGNMENT, Labels, Recording

PROOF = ("decoder", "sampled_sha256", "frames_per_s", "by_pyav", "mended")  # keys of an entry: see `stream.Finished`


def is_aligned_before(entry: Mapping[str, Any]) -> bool:
    """Whether an episode with actions was encoded before times said which frame belongs to which row."""
    return bool(entry["labelled"]) and "alignment" not in entry


def recount(store: Path, recording: Recording, entry: Mapping[str, Any], labels: Labels) -> Entry | None:
    """The store's episode with the recording's counters, and its proof; None if it must be encoded anew to be sure.

    That is so where its rows are not what the recording says now, or its frames need not be those of its rows.
    """
    try:
        episode = read_episode(store, recording.name, entry)
        aligned = align(labels, count_frames(recording.video))
    except UserError:
        return None  # encoding it says what is wrong
    found = aligned.trajectory
    for name in ("actions", "rewards", "terminals", "valid"):
        if not np.array_equal(getattr(found, name), getattr(episode, name).numpy()):
            return None
    if is_aligned_before(entry) and recording.format == "vpt" and not aligned.is_by_number:
        return None
    proof = {name: entry[name] for name in PROOF if name in entry}
    proof |= {"alignment": ALIGNMENT} if found.labelled else {}
    proof |= {"mended": list(aligned.mended)} if aligned.mended else {}
    return replace(episode, counters={name: torch.from_numpy(values) for name, values in found.counters.items()}), proof

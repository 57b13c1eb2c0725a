"""The mix of recorded play: worlds of the demonstrator, of a noisier one and of random play, by stated shares.

What a world model has never seen it cannot imagine, and a demonstrator seldom fails. Seeds, not episodes, are dealt
out: a world has the same player wherever a recording begins, so that recordings can be continued and extended, and any
run of consecutive worlds has about the shares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from random import Random

from fastdreamer.config import RecordConfig

EXPERT, NOISY, RANDOM = KINDS = ("expert", "noisy", "random")
KIND_WEIGHTS = {"noop": 1, "move": 3, "do": 5, "sleep": 1, "place": 1, "make": 1}
"""How often a kind of action is tried where chance goes by kinds; within a kind all actions are alike."""
HELD_WEIGHTS = {"noop": 3, "move": 8, "do": 5, "sleep": 0.3, "place": 1, "make": 0.7}
"""The same for `held`: a person who looks, wanders and tries things."""
HELD_STEPS = {"noop": 8, "move": 3, "do": 3}
"""How many steps a kind of action is held then, on average; one where it is not named."""


@dataclass(frozen=True)
class Player:
    """The player of a world.

    Attributes:
        kind: one of `KINDS`; it stands in the recording's name.
        policy: `expert` or `random`.
        noise: share of the expert's actions that are random; 1 for random play.
        chance: how random actions are drawn: `uniform`, `kinds` first, or `held`.
    """

    kind: str
    policy: str
    noise: float
    chance: str = "uniform"


def random_action(chance: str, random: Random, names: Sequence[str]) -> int:
    """An action (an index into `names`) by chance, `uniform` or by `kinds`."""
    if chance == "uniform":
        return random.randrange(len(names))
    weights = HELD_WEIGHTS if chance == "held" else KIND_WEIGHTS
    (kind,) = random.choices(list(weights), list(weights.values()))
    return random.choice([index for index, name in enumerate(names) if name.split("_")[0] == kind])


class Chance:
    """The random actions of one episode; `held` ones last for a while, as when a person holds a key.

    Args:
        kind: how they are drawn: `uniform`, by `kinds`, or `held`.
        random: the source of all of it.
        names: the actions' names.
        share: the share of the steps that they have; None gives them all.
    """

    def __init__(self, kind: str, random: Random, names: Sequence[str], share: float | None = None) -> None:
        self.kind, self.names, self.share = kind, names, share
        self._random, self._left, self._action = random, 0, 0
        if share is not None and kind == "held":
            total = sum(weight * HELD_STEPS.get(name, 1) for name, weight in HELD_WEIGHTS.items())
            steps = total / sum(HELD_WEIGHTS.values())  # of a spell, on average
            self.share = share / (steps * (1 - share) + share)  # of the steps at which one may begin

    def act(self) -> int | None:
        """The next random action; None where the step is another player's."""
        if self._left:
            self._left -= 1
            return self._action
        if self.share is not None and self._random.random() >= self.share:
            return None
        self._action = random_action(self.kind, self._random, self.names)
        if self.kind == "held":
            self._left = self._random.randrange(2 * HELD_STEPS.get(self.names[self._action].split("_")[0], 1) - 1)
        return self._action


def player_of(seed: int, settings: RecordConfig) -> Player:
    """The player of the world `seed`."""
    at_random = settings.random_share
    if settings.policy == "random" or _is_dealt(seed, at_random):
        return Player(RANDOM, "random", 1.0, settings.chance)
    others = seed - _dealt(seed, at_random)  # worlds before this one that are not random play's
    if _is_dealt(others, min(1.0, settings.noisy_share / (1.0 - at_random))):
        return Player(NOISY, "expert", settings.noisy_noise, settings.chance)
    return Player(EXPERT, "expert", settings.noise)


def kind_of(name: str) -> str:
    """The one of `KINDS` that played our recording (or episode) of that name; "" for any other recording."""
    found = re.match(rf"v3_({'|'.join(KINDS)})_crafter-\d+_", name)
    return found[1] if found else ""


def _dealt(count: int, share: float) -> int:
    """How many of the first `count` a share gets: `share` of them, rounded."""
    return floor(count * share + 0.5)


def _is_dealt(index: int, share: float) -> bool:
    return _dealt(index + 1, share) > _dealt(index, share)

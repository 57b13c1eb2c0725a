"""What the JSON files of a run must hold for the report to show them (see `json_files`)."""

from __future__ import annotations

from typing import Any

from fastdreamer.latents.entries import is_sound
from fastdreamer.system.json_files import COUNT, NUMBER, TEXT, Every, Leaf, Maybe, fault

SECONDS = Leaf("a number of seconds", lambda v: type(v) in (int, float) and 0 <= v < 1e12)
PAIR = Leaf("a pair of numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(map(NUMBER.holds, v)))
POINT = Leaf(
    "a pair of numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(x is None or NUMBER.holds(x) for x in v)
)
INTERVAL = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}
BOUNDS = {name: Maybe(NUMBER) for name in INTERVAL}

POLICY = {
    "return_mean": NUMBER, "return_low": NUMBER, "return_high": NUMBER, "episodes": COUNT, "length_mean": NUMBER,
    "returns?": [NUMBER], "achievements?": Every(NUMBER),
}  # fmt: skip
CALIBRATION = {
    "predicted": INTERVAL, "paid": INTERVAL, "ratio": Maybe(BOUNDS), "auc": Maybe(NUMBER),
    "correlation": Maybe(NUMBER), "kinds": Every({"predicted": INTERVAL}),
    "critic?": Maybe({"value": BOUNDS, "with_rest": BOUNDS}),
}  # fmt: skip
TASK = {
    "policies?": Every(POLICY), "differences?": Every(INTERVAL), "reward_calibration?": Every(CALIBRATION),
    "max_steps?": Maybe(COUNT),
}  # fmt: skip
EVALUATION = TASK | {"env?": TEXT, "notes?": [TEXT], "task?": Maybe(TEXT), "tasks?": Every(TASK)}

CURVES = ("one_sample", "copy_last", "shuffled_actions", "noop_actions")
CORRELATIONS = ("imagined_against_real", "imagined_against_recorded", "real_against_recorded")
WINDOWS = {
    "samples?": COUNT, "ratios?": Every(INTERVAL), "notes?": [TEXT],
    "one_step?": {"over_copy": INTERVAL, "shuffled_over_real": INTERVAL}, "one_sample_over_copy?": [INTERVAL],
    "reward_correlation?": Maybe({name: Maybe(INTERVAL) for name in CORRELATIONS} | {"steps": COUNT}),
}  # fmt: skip

CHECK = {name: TEXT for name in ("group", "name", "value", "expected", "verdict", "remedy")}
ROLLOUTS = {
    "values": [POINT], "positive": COUNT, "negative": COUNT, "imagined_reward": Maybe(NUMBER),
    "real_reward?": Maybe(NUMBER),
}  # fmt: skip
AUDITED = {"states": COUNT, "points": [PAIR], "figures": Every(Maybe(INTERVAL))}
FLAGS = Every([{"step": COUNT, "name": TEXT}])
STRIP = {"rows": Every(TEXT), "episode": TEXT, "start": COUNT, "error": NUMBER}
PICTURES = {"context": COUNT, "shown": [COUNT], "frames_per_latent?": COUNT, "strips": [STRIP]}


def world_model(value: Any) -> str:
    """What is wrong with world_model.json: its curves are as long as their horizons."""
    if (wrong := fault(value, WINDOWS)) or not {"horizons", "one_step"} & value.keys():
        return wrong
    needed = ("copy_last", f"mean_of_{value.get('samples', 8)}")
    shape = {"horizons": [COUNT], "context": COUNT, "crops": COUNT} | {f"{name}?": [NUMBER] for name in CURVES}
    shape |= {name: [NUMBER] for name in needed}
    if "one_step" in value:
        shape["one_sample_over_copy"] = [INTERVAL]
    if wrong := fault(value, shape):
        return wrong
    many = len(value["horizons"])
    for name in (*CURVES, *needed, "one_sample_over_copy"):
        if name in value and len(value[name]) != many:
            return f"{name} has {len(value[name])} values, not one for each of {many} horizons"
    return "" if many else "horizons is empty"


def phase(value: Any) -> str:
    """What is wrong with a phase of diagnosis.json."""
    has_rollouts = isinstance(value, dict) and "values" in value
    return fault(value, {"step?": COUNT, "checks": [CHECK]} | (ROLLOUTS if has_rollouts else {}))


def audit(value: Any) -> str:
    """What is wrong with audit.json."""
    tried = {"tries": COUNT, "phase": COUNT, "horizon": COUNT}
    shape = {"kinds?": Every(AUDITED), "notes?": [TEXT], "checks?": [CHECK]}
    return fault(value, shape | (tried if isinstance(value, dict) and value.get("kinds") else {}))


def trained_on(value: Any) -> str:
    """What is wrong with store.json, which hashes itself."""
    if not isinstance(value, dict) or not is_sound(value):
        return "its SHA-256 is not that of its content"
    return fault(value, {"episodes": Every({"split": TEXT, "task": COUNT, "sha256": TEXT})})

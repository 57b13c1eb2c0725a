// Which key does what, from the labels of an action space.

const CRAFTER = {
  move_left: ["a", "ArrowLeft"], move_right: ["d", "ArrowRight"], move_up: ["w", "ArrowUp"], move_down: ["s", "ArrowDown"],
  do: [" "], noop: ["q"], sleep: ["z"], place_stone: ["r"], place_table: ["t"], place_furnace: ["f"], place_plant: ["p"],
  make_wood_pickaxe: ["1"], make_stone_pickaxe: ["2"], make_iron_pickaxe: ["3"],
  make_wood_sword: ["4"], make_stone_sword: ["5"], make_iron_sword: ["6"],
};
const BUTTONS = {
  forward: ["w"], back: ["s"], left: ["a"], right: ["d"], jump: [" "], sneak: ["Shift"], sprint: ["c"], attack: ["j"],
  use: ["k"], drop: ["q"], inventory: ["e"],
};
const CAMERA = { pitch: [["ArrowUp", -1, "look up"], ["ArrowDown", 1, "look down"]], yaw: [["ArrowLeft", -1, "look left"], ["ArrowRight", 1, "look right"]] };
const TURN = 4; // degrees of an arrow key's step
const SPARE = "1234567890zxcvbnmghlyuio";
const SHOWN = { " ": "space", ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowUp: "\u2191", ArrowDown: "\u2193", Shift: "shift" };

export const keyName = (key) => SHOWN[key] ?? key;
export const axisOf = (name) => name.replace("camera_", "");

/** The label whose number is next to `degrees`. */
export function nearest(labels, degrees) {
  const gaps = labels.map((label) => Math.abs(Number(label) - degrees));
  return gaps.indexOf(Math.min(...gaps));
}

/** [{component, value, label, keys, group}] for all that can be done but nothing. */
export function bindings(components) {
  const found = [], used = new Set(), isAlone = components.length === 1;
  const take = (keys) => keys.filter((key) => !used.has(key) && used.add(key));
  components.forEach(({ name, labels, kind, noop }, component) => {
    if (kind === "camera") {
      for (const [key, sign, label] of CAMERA[axisOf(name)] ?? [])
        found.push({ component, value: nearest(labels, sign * TURN), label, keys: take([key]), group: "camera" });
    } else if (kind === "binary") {
      found.push({ component, value: 1, label: name, keys: take(BUTTONS[name] ?? []), group: "buttons" });
    } else if (labels.every((label) => /^[+-]\d/.test(label))) {
      return; // numbers without a meaning that anybody could press
    } else {
      labels.forEach((label, value) => {
        if (value === noop && !isAlone) return;
        const keys = isAlone ? (CRAFTER[label] ?? []) : /^[0-9]$/.test(label) ? [label] : [];
        found.push({ component, value, label, keys: take(keys), group: isAlone ? "" : name });
      });
    }
  });
  if (isAlone)
    for (const one of found)
      if (!one.keys.length) one.keys = take([...SPARE]).slice(0, 1).map((key) => (used.add(key), key));
  return found;
}

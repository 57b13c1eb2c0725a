// Keys, buttons and the mouse as actions. A press is one step at once; what stays down is held.

import { axisOf, bindings, keyName, nearest } from "./keymap.js";

const HOLD_MS = 180; // a single choice that is down so long is held; several at once are held from the start
const DEGREES = 0.25; // a pixel of the mouse
const TYPING = "input:not([type=radio]), select, textarea, dialog *";
const PRESSING = "button, summary, a, input[type=radio]";

export class Keys {
  /** `on` has act(action, at), hold(action or null), command(name) and isOpen(). */
  constructor(find, on) {
    this.on = on;
    this.box = find("keys");
    this.hint = find("keys-hint");
    this.down = new Map();
    this.isHeld = false;
    this.commands = { Escape: "pause", ".": "single", ",": "back", "<": "back10", "/": "fork" };
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("keyup", (event) => this.up(event.key.length === 1 ? event.key.toLowerCase() : event.key));
    addEventListener("blur", () => this.letGo());
    document.addEventListener("visibilitychange", () => document.hidden && this.letGo());
    for (const name of ["real", "dream"]) this.drag(find(name));
  }

  hello(components) {
    this.components = components;
    this.noop = components.map((component) => component.noop);
    this.bindings = bindings(components);
    this.byKey = new Map(this.bindings.flatMap((one) => one.keys.map((key) => [key, one])));
    this.isAlone = components.length === 1;
    this.axes = Object.fromEntries(components.map(({ name, kind }, i) => [kind === "camera" ? axisOf(name) : "", i]));
    this.letGo();
    this.show();
  }

  show() {
    const parts = [];
    let group = "";
    for (const one of this.bindings) {
      if (one.group !== group) {
        group = one.group;
        parts.push(Object.assign(document.createElement("p"), { className: "group", textContent: group }));
      }
      const button = document.createElement("button");
      button.type = "button";
      button.append(one.label.replaceAll("_", " "));
      for (const key of one.keys) button.append(Object.assign(document.createElement("kbd"), { textContent: keyName(key) }));
      const name = `button ${one.component} ${one.value}`;
      button.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        button.setPointerCapture(event.pointerId);
        this.press(name, one, event.timeStamp);
      });
      for (const end of ["pointerup", "pointercancel"]) button.addEventListener(end, () => this.up(name));
      button.addEventListener("click", (event) => {
        if (event.detail === 0) this.once(one, event.timeStamp); // by the keyboard
      });
      one.button = button;
      parts.push(button);
    }
    this.box.replaceChildren(...parts);
    const mouse = "yaw" in this.axes ? " Drag the pictures with the mouse to look around." : "";
    this.hint.textContent = this.bindings.length
      ? `Hold a key to go on doing it.${mouse} Tab reaches everything else.`
      : "This action space has no names that a person could press: let an agent play.";
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.byKey) return;
    const on = event.target instanceof Element ? event.target : document.body;
    if (on.closest(TYPING)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (on.closest(PRESSING) && (key === " " || key === "Enter" || key.startsWith("Arrow"))) return;
    const command = this.commands[key];
    if (command) {
      event.preventDefault();
      if (!event.repeat || command === "back" || command === "single") this.on.command(command);
      return;
    }
    const one = this.byKey.get(key);
    if (!one) return;
    event.preventDefault();
    if (!event.repeat) this.press(key, one, event.timeStamp);
  }

  press(name, one, at) {
    this.down.set(name, one);
    one.button.classList.add("held");
    this.on.act(this.action(), at);
    clearTimeout(this.timer);
    if (this.isAlone) this.timer = setTimeout(() => this.hold(), HOLD_MS);
    else this.hold();
  }

  once(one, at) {
    const action = [...this.noop];
    action[one.component] = one.value;
    this.on.act(action, at);
  }

  up(name) {
    const one = this.down.get(name);
    if (!one) return;
    this.down.delete(name);
    one.button.classList.remove("held");
    clearTimeout(this.timer);
    if (this.isHeld || (this.isAlone && this.down.size)) this.hold();
  }

  letGo() {
    for (const name of [...this.down.keys()]) this.up(name);
  }

  hold() {
    this.isHeld = this.down.size > 0;
    this.on.hold(this.isHeld ? this.action() : null);
  }

  /** What is down, the newest of each component. */
  action() {
    const action = [...this.noop];
    for (const one of this.down.values()) action[one.component] = one.value;
    return action;
  }

  /** The camera turns with the mouse while a button is down: the way since the last picture is one action. */
  drag(canvas) {
    let from = null, asked = false, moved = [0, 0];
    canvas.addEventListener("pointerdown", (event) => {
      if (!("yaw" in (this.axes ?? {}))) return;
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      moved = [moved[0] + event.clientX - from[0], moved[1] + event.clientY - from[1]];
      from = [event.clientX, event.clientY];
      if (asked) return;
      asked = true;
      setTimeout(() => {
        const action = this.action(), turn = { yaw: moved[0] * DEGREES, pitch: moved[1] * DEGREES };
        asked = false;
        moved = [0, 0];
        for (const [axis, degrees] of Object.entries(turn)) {
          const component = this.axes[axis];
          if (component !== undefined && degrees) action[component] = nearest(this.components[component].labels, degrees);
        }
        this.on.act(action, event.timeStamp);
      }, 50);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (from = null));
  }
}

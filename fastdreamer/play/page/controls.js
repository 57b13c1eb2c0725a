// Time, and who plays: buttons, switches and lists, and what the server says of them.

import { fill, segments } from "./parts.js";

const PLAYERS = { you: "You", phase2: "Phase 2", phase3: "Phase 3", random: "Random", recorded: "Recorded" };
const SPEEDS = [[0, "waits for keys"], ...[2, 5, 10, 20, 30, 60].map((speed) => [speed, `${speed} a second`])];
const MOST_SPEED = 60, AGENTS_PACE = 10;

export class Controls {
  /** `say(type, fields)` tells the server; `open()` shows where to begin; `focus()` gives the keys back to the game. */
  constructor(find, say, open, focus) {
    Object.assign(this, { find, say, focus, isPaused: false, mine: 0, byPointer: false });
    this.who = segments(find("who"), "who", (who) => this.play(who));
    this.greedy = segments(find("greedy"), "greedy", (value) => this.set({ greedy: value === "greedy" }));
    this.greedy.fill([["sampled", "sampled"], ["greedy", "most likely"]]);
    this.selects = { speed: find("speed"), denoising: find("denoising"), task: find("task") };
    for (const [name, select] of Object.entries(this.selects))
      select.addEventListener("change", () => this.set({ [name]: Number(select.value) }));
    for (const name of ["pause", "single", "back", "back10", "fork", "begin"])
      find(name).addEventListener("click", () => (name === "begin" ? open() : this.command(name)));
    addEventListener("pointerdown", () => (this.byPointer = true), true);
    addEventListener("keydown", () => (this.byPointer = false), true);
    const settle = ({ target }) => this.byPointer && target.closest?.(".bar, .settings, .mind") && this.focus();
    addEventListener("change", settle);
    addEventListener("click", ({ target, detail }) => detail && target.closest?.("button, label") && target.closest("#begin") === null && settle({ target }));
  }

  hello({ players, denoising, tasks, fps, c, has_environment }) {
    this.pace = Math.max(1, Math.round(Math.min(AGENTS_PACE, fps / c)));
    this.who.fill(players.map((who) => [who, PLAYERS[who] ?? who]));
    const speeds = SPEEDS.some(([speed]) => speed === this.pace) || this.pace > MOST_SPEED ? SPEEDS : [...SPEEDS, [this.pace, `${this.pace} a second`]];
    fill(this.selects.speed, speeds.sort(([a], [b]) => a - b));
    fill(this.selects.denoising, denoising.map((steps) => [steps, steps]));
    fill(this.selects.task, tasks.map((task, i) => [i, task]));
    this.find("task-field").hidden = !tasks.length;
    const isDreamAlone = !has_environment;
    this.find("fork").querySelector("span").textContent = isDreamAlone ? "Dream again from the start" : "Fork the dream here";
  }

  set(fields) {
    this.say("set", fields);
  }

  /** Whoever is no person does not wait for keys. */
  play(who) {
    if (this.last?.who === "you") this.mine = this.last.speed;
    const speed = who === "you" ? this.mine : this.last?.speed || this.pace;
    this.set({ who, speed });
  }

  command(name) {
    if (name === "pause") this.say("pause", { on: !this.isPaused });
    else if (name === "back") this.say("rewind", { steps: 1 });
    else if (name === "back10") this.say("rewind", { steps: 10 });
    else this.say(name);
  }

  show(view) {
    this.last = view;
    this.isPaused = view.paused;
    const pause = this.find("pause");
    pause.setAttribute("aria-pressed", String(view.paused));
    pause.firstElementChild.textContent = view.paused ? "Go on" : "Pause";
    this.who.set(view.who);
    this.greedy.set(view.greedy ? "greedy" : "sampled");
    this.greedy.enable(view.who === "phase2" || view.who === "phase3");
    for (const [name, select] of Object.entries(this.selects))
      if (document.activeElement !== select && view[name] !== null) select.value = String(view[name]);
    this.find("back").disabled = this.find("back10").disabled = !view.rewindable;
    const recording = this.find("recording");
    recording.hidden = !view.recording;
    if (view.recording) recording.textContent = `recording ${view.recording}`;
  }
}

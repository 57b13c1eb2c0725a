// What the agent thinks: how likely it would do what, and what it expects.

import { BETWEEN_MS, Chart } from "./chart.js";
import { segments } from "./parts.js";

const AGENTS = { 2: "phase 2", 3: "phase 3" };
const number = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
const words = (name) => name.replaceAll("_", " ");

export class Mind {
  constructor(find) {
    this.box = find("bars");
    this.chosen = null;
    this.agents = segments(find("agents"), "agents", (value) => this.choose(value));
    this.charts = {
      reward: new Chart(find("reward"), ["real", "dream"]),
      value: new Chart(find("value"), ["real", "dream"]),
      continue: new Chart(find("continue"), ["real", "dream"], { low: 0, high: 1, digits: 0 }),
    };
    this.now = Object.fromEntries(Object.keys(this.charts).map((name) => [name, find(`${name}-now`)]));
    this.known = "";
    this.last = null;
  }

  hello(components) {
    this.rows = components.map((component) => this.rowsOf(component));
    this.box.replaceChildren(...this.rows.map((row) => row.box));
    this.clear();
  }

  clear() {
    Object.values(this.charts).forEach((chart) => chart.clear());
  }

  choose(value) {
    this.chosen = value;
    this.clear();
    if (this.last) this.show(this.last);
  }

  rowsOf({ name, labels, kind, noop }) {
    const box = document.createElement("div");
    box.className = "component";
    if (kind === "camera") {
      const strip = document.createElement("canvas");
      Object.assign(strip, { className: "strip", width: labels.length, height: 2 });
      box.append(Object.assign(document.createElement("h3"), { textContent: words(name) }), strip);
      return { box, show: (real, dream) => drawStrip(strip, real, dream) };
    }
    const shown = kind === "binary" ? [1] : labels.map((_, i) => i);
    const rows = shown.map((i) => bar(words(kind === "binary" ? name : labels[i])));
    if (kind !== "binary" && name !== "action")
      box.append(Object.assign(document.createElement("h3"), { textContent: words(name) }));
    box.append(...rows.map((row) => row.box));
    const show = (real, dream, taken) => shown.forEach((i, at) => rows[at].show(real?.[i], dream?.[i], taken === i && i !== noop));
    return { box, show };
  }

  show(view) {
    this.last = view;
    const there = Object.keys(view.agent ?? {});
    if (there.join() !== this.known) {
      this.known = there.join();
      this.agents.fill(there.map((one) => [one, AGENTS[one] ?? one]));
    }
    const dreaming = { phase2: "2", phase3: "3" }[view.who] ?? (there.includes("3") ? "3" : there[0]);
    if (!there.includes(this.chosen)) this.chosen = dreaming;
    if (this.who !== view.who) {
      if (view.who in { phase2: 0, phase3: 0 } && this.chosen !== dreaming && there.includes(dreaming)) {
        this.chosen = dreaming;
        this.clear();
      }
      this.who = view.who;
    }
    this.agents.set(this.chosen);
    const real = view.agent?.[this.chosen], dream = this.chosen === dreaming ? view.dreamed_agent : null;
    for (const [name, chart] of Object.entries(this.charts))
      chart.add(view.step, [real?.[name] ?? NaN, dream?.[name] ?? NaN], view.dreamed === 0);
    this.thought = { real, dream, taken: view.action.at(-1) };
    this.timer ??= setTimeout(() => this.write(), BETWEEN_MS);
  }

  write() {
    this.timer = null;
    const { real, dream, taken } = this.thought;
    this.rows.forEach((row, i) => row.show(real?.probabilities?.[i], dream?.probabilities?.[i], taken?.[i]));
    for (const name in this.charts) this.now[name].textContent = number(real?.[name] ?? NaN);
  }
}

function bar(label) {
  const box = document.createElement("div"), said = document.createElement("span"), out = document.createElement("output");
  const two = document.createElement("div"), fills = [document.createElement("b"), document.createElement("b")];
  box.className = "choice";
  two.className = "two";
  said.textContent = said.title = label;
  for (const fill of fills) {
    const rail = document.createElement("i");
    rail.append(fill);
    two.append(rail);
  }
  out.setAttribute("aria-live", "off");
  box.append(said, two, out);
  const show = (real, dream, isTaken) => {
    [real, dream].forEach((share, i) => (fills[i].style.transform = `scaleX(${share ?? 0})`));
    out.textContent = Number.isFinite(real) ? `${Math.round(100 * real)}%` : "-";
    box.classList.toggle("taken", isTaken);
  };
  return { box, show };
}

function drawStrip(canvas, real, dream) {
  const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
  pen.clearRect(0, 0, canvas.width, 2);
  [[real, "--real"], [dream, "--dream"]].forEach(([shares, ink], row) => {
    pen.fillStyle = style.getPropertyValue(ink);
    (shares ?? []).forEach((share, i) => {
      pen.globalAlpha = Math.min(1, 0.06 + share);
      pen.fillRect(i, row, 1, 1);
    });
  });
  pen.globalAlpha = 1;
}

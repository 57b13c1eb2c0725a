// Where to begin: another world, or a step of a recording, picked from its frames.

import { fill } from "./parts.js";
import { paint } from "./stage.js";

const MOST_SEED = 2 ** 31 - 1;

export class Starts {
  constructor(find, say, focus) {
    Object.assign(this, { say, focus });
    this.dialog = find("starts");
    this.film = find("film");
    this.which = find("which");
    this.worlds = find("worlds");
    this.recordings = find("recordings");
    const seed = find("seed");
    find("go").addEventListener("click", () => this.begin({ seed: Math.trunc(Number(seed.value)) }));
    find("any").addEventListener("click", () => this.begin({}));
    this.which.addEventListener("change", () => this.ask());
  }

  hello({ has_environment, recordings }) {
    this.worlds.hidden = !has_environment;
    this.recordings.hidden = !recordings.length;
    fill(this.which, recordings.map(({ name, steps }, i) => [i, `${name} (${steps} steps)`]));
    this.asked = null;
  }

  open() {
    this.dialog.showModal();
    if (!this.recordings.hidden && this.asked === null) this.ask();
  }

  ask() {
    this.asked = Number(this.which.value);
    this.film.replaceChildren();
    this.say("filmstrip", { recording: this.asked });
  }

  begin(start) {
    if (start.seed !== undefined && !(start.seed >= 0 && start.seed <= MOST_SEED)) return;
    this.dialog.close();
    this.focus(); // what comes next is played
    this.say("start", start);
  }

  show({ recording, steps, size: [height, width] }, pixels) {
    if (recording !== this.asked) return;
    const shown = steps.map((step, i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      paint(canvas, pixels, i);
      button.type = "button";
      button.setAttribute("aria-label", `begin at step ${step}`);
      button.append(canvas, `step ${step}`);
      button.addEventListener("click", () => this.begin({ recording, step }));
      item.append(button);
      return item;
    });
    this.film.replaceChildren(...shown);
  }
}

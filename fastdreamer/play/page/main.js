// The page: what the server says goes to its parts, and what a person does goes to the server.

import { Chart } from "./chart.js";
import { Controls } from "./controls.js";
import { Keys } from "./keys.js";
import { Link } from "./link.js";
import { Mind } from "./mind.js";
import { Stage } from "./stage.js";
import { Starts } from "./starts.js";

const NOTICE_MS = 5000;
const OVER = { died: "You died.", cut: "The episode was cut off.", "end of recording": "The recording ends here." };
const find = (id) => document.getElementById(id);
const number = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
const stage = find("stage"), data = document.body.dataset;
let view = null, about = null, sent = 0;

history.replaceState(null, "", location.pathname); // a token does not stay in sight

const link = new Link({ hello, view: arrived, late, film: (head, pixels) => starts.show(head, pixels), error: warn, lost, bye });
const screen = new Stage(find("real"), find("dream"), drawn);
const mind = new Mind(find);
const drift = new Chart(find("drift"), ["dream", "copy"], { low: 0 });
const say = (type, fields) => link.say(type, fields) || notice("No connection: that was not done.", true);
const focus = () => stage.focus({ preventScroll: true });
const starts = new Starts(find, say, focus);
const controls = new Controls(find, say, () => starts.open(), focus);
const keys = new Keys(find, { act, hold: (action) => link.say("hold", { action }), command: (name) => controls.command(name) });

function hello(said, before) {
  about = said;
  sent = said.n;
  view = null;
  screen.forget();
  screen.size(said.size);
  find("title").textContent = said.title;
  find("no-real").hidden = said.has_environment;
  find("same-keys").hidden = !said.has_environment;
  [mind, keys].forEach((part) => part.hello(said.components));
  [controls, starts].forEach((part) => part.hello(said));
  drift.clear();
  showCard(said.card);
  find("notes").hidden = !said.notes?.length;
  find("notes").replaceChildren(...(said.notes ?? []).map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  if (data.state === "lost" || data.state === "connecting") focus();
  if (data.state === "lost") notice(before === said.session ? "Connected again, where you were." : "Connected again. The server has begun a new session.");
  delete data.view;
  Object.assign(data, { state: "open", session: said.session, n: said.n });
  find("lost").hidden = true;
}

function arrived(head, pixels) {
  // The frames of one step are spread over the time until the next.
  const spread = 1000 / Math.max(1, Math.max(head.speed, about.fps / about.c) * head.shape.frames);
  screen.show(head, pixels, spread);
}

function drawn(head) {
  link.say("seen", { view: head.view });
  if (!view || view.episode !== head.episode) {
    drift.clear();
    mind.clear();
  }
  view = head;
  find("no-real").hidden = head.shape.real;
  find("real-note").textContent = !head.shape.real ? "nothing to see here" : about.has_environment ? "the game itself" : "the recording";
  find("dream-note").textContent = head.dreamed ? `imagined for ${head.dreamed} step${head.dreamed === 1 ? "" : "s"}` : "begins at this frame";
  find("step").textContent = head.step;
  find("return").textContent = number(head.return);
  thought(head);
  controls.show(head);
  if (head.over) over(head);
  else if (find("notice").dataset.over) notice("");
  Object.assign(data, { view: head.view, n: head.n, step: head.step, who: head.who, ms: head.ms.toFixed(2) });
}

/** What follows the pictures of a view: its drift and what the agents think, to the view that is drawn or waits. */
function late(said) {
  if (screen.complete(said) || said.view !== view?.view) return;
  Object.assign(view, said);
  thought(view);
}

function thought(head) {
  if (!head.agent) return;
  find("drift-dream").textContent = number(head.drift.dream, 3);
  find("drift-copy").textContent = number(head.drift.copy, 3);
  drift.add(head.step, [head.drift.dream ?? NaN, head.drift.copy ?? NaN], head.dreamed === 0);
  mind.show(head);
  data.thought = head.view;
}

function over(head) {
  const said = head.who === "you" || head.over !== "died" ? OVER[head.over] : "The player died.";
  notice(`${said ?? head.over} Rewind, or begin elsewhere.`, true, 0);
  find("notice").dataset.over = "1";
}

function act(action, at) {
  if (!view) return;
  if (view.who !== "you") {
    notice("Somebody else plays: choose You to take over.", true);
    return;
  }
  if (link.say("act", { n: sent + 1, action })) screen.press(++sent, at);
  else notice("No connection: that key was not sent.", true);
}

let timer = 0;
function notice(line, isWarning = false, ms = NOTICE_MS) {
  const box = find("notice");
  clearTimeout(timer);
  if (box.textContent !== line) box.textContent = line;
  box.classList.toggle("warn", isWarning);
  delete box.dataset.over;
  if (line && ms) timer = setTimeout(() => notice(""), ms);
}

function warn(line) {
  notice(line, true);
}

function lost() {
  keys.letGo();
  screen.forget();
  if (data.state !== "ended") data.state = "lost";
  find("lost").textContent = "Connection lost. Trying again ... If this lasts, look whether fastdreamer play still runs.";
  find("lost").hidden = false;
}

function bye(line) {
  keys.letGo();
  data.state = "ended";
  const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Connect again" });
  again.addEventListener("click", () => {
    data.state = "connecting";
    link.open();
  });
  find("lost").replaceChildren(line.charAt(0).toUpperCase() + line.slice(1), ". ", again);
  find("lost").hidden = false;
}

function showCard(card) {
  find("card").hidden = !card;
  const rows = Object.entries(card ?? {}).flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name.replaceAll("_", " ") }),
    Object.assign(document.createElement("dd"), { textContent: typeof value === "object" ? JSON.stringify(value) : String(value) }),
  ]);
  find("card-list").replaceChildren(...rows);
}

setInterval(() => {
  const { p50, p95, count } = screen.delay(), rate = screen.rate();
  find("rate").textContent = rate;
  find("delay").textContent = count ? `${Math.round(p50)} ms` : "-";
  find("delay").title = count ? `95 of 100 within ${Math.round(p95)} ms` : "";
  Object.assign(data, { rate, p50: number(p50), p95: number(p95) });
}, 250);

link.open();

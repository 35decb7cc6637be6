// Rows on the page: a panel for each, one clock in network calls for all of them, and one position looked at closely.

import { Row } from "./replay.js";
import { find } from "./server.js";

const TICK_MS = 350;
const WORDS = { reveal: "revealed", replace: "replaced", remask: "masked again", fill: "filled at the end", choose: "chosen" };

let panels = []; // {title, row, element}
let now = 0;
let following = true; // the clock goes with the stream
let timer = null;
let looked = null; // {panel, position}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

// Empty panels, one for each title.
export function open(titles) {
  pause();
  panels = titles.map(title => ({ title, row: null, element: make("article", "panel") }));
  find("panels").replaceChildren(...panels.map(p => p.element));
  find("inspector").replaceChildren();
  find("result").hidden = false;
  [now, following, looked] = [0, true, null];
  draw();
}

// An event of the stream of panel `number`.
export function tell(number, event) {
  const panel = panels[number];
  if (event.object === "text_completion.start") build(panel, number, event);
  if (event.object === "text_completion.edit") panel.row.add(event);
  if (event.object === "text_completion") {
    const choice = event.choices[0];
    panel.row.end = { text: choice.text, ...choice.proseco };
  }
  // While rows run, all are shown at the calls that each of them has made, so that they are compared at equal cost.
  if (following) now = Math.min(...panels.filter(p => !p.row?.end).map(p => p.row?.known ?? 0), last());
  draw();
}

export function last() {
  return Math.max(0, ...panels.map(p => p.row?.known ?? 0));
}

function build(panel, number, event) {
  panel.row = new Row(event);
  const head = make("h3", "", panel.title);
  head.append(make("small"));
  const canvas = make("div", "canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "group");
  canvas.setAttribute("aria-label", `${panel.title}: row of ${event.tokens.length} positions; arrow keys move`);
  panel.row.start.forEach((_, position) => {
    const cell = make("b");
    cell.dataset.position = position;
    canvas.append(cell);
  });
  const select = e => e.target.dataset.position !== undefined && look(number, Number(e.target.dataset.position));
  canvas.addEventListener("pointerover", select);
  canvas.addEventListener("click", select);
  canvas.addEventListener("keydown", e => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side(panel.row), ArrowDown: side(panel.row) }[e.key];
    if (!step) return;
    e.preventDefault();
    const at = looked?.panel === number ? looked.position + step : 0;
    look(number, Math.max(0, Math.min(event.tokens.length - 1, at)));
    canvas.children[looked.position].scrollIntoView({ block: "nearest" });
  });
  panel.element.replaceChildren(head, canvas, make("p", "summary-line"), make("div", "final"));
}

// Short rows of single letters whose length is a square are drawn as one.
function side(row) {
  const root = Math.sqrt(row.start.length);
  const small = row.start.length <= 100 && Number.isInteger(root);
  const letters = row.steps.flatMap(s => s.edits).every(e => e.text === null || e.text.length <= 1 || e.new === row.maskId);
  return small && letters ? root : 1;
}

function draw() {
  for (const panel of panels) if (panel.row) drawPanel(panel);
  const clock = find("clock");
  clock.max = last();
  clock.value = now;
  find("now").textContent = `${now} of ${last()} calls`;
  find("back").disabled = now <= 0;
  find("forward").disabled = now >= last();
  find("play").disabled = last() === 0;
  drawInspector();
}

function drawPanel({ row, element }) {
  const [head, canvas, line, text] = element.children;
  const cells = row.at(now), columns = side(row);
  canvas.classList.toggle("square", columns > 1);
  canvas.style.setProperty("--side", columns);
  cells.forEach((cell, i) => {
    const shown = cell.masked ? "\u00b7" : cell.text === "" ? "\u00d7" : (cell.text ?? `#${cell.token}`);
    const element = canvas.children[i];
    if (element.textContent !== shown) element.textContent = shown;
    const special = !cell.masked && (cell.text === "" || /^\[[A-Z]+\]$/.test(shown));
    const names = [
      cell.masked && "mask", cell.given && "prompt", special && "special", cell.reason,
      cell.corrected && !cell.reason && "corrected",
      looked && panels[looked.panel].row === row && looked.position === i && "here",
    ];
    element.className = names.filter(Boolean).join(" ");
  });
  const calls = Math.min(now, row.known);
  head.querySelector("small").textContent = row.end ? (now >= row.end.calls ? "finished" : "") : "writing";
  const masked = cells.filter(cell => cell.masked).length;
  line.textContent = `${calls} calls, ${row.corrections(now)} corrections, ${masked} still masked`;
  const over = row.end && now >= row.end.calls;
  if (over) line.textContent = `${row.end.calls} calls, ${row.end.edits} corrections`;
  text.textContent = over ? row.end.text : "";
  text.hidden = !over;
}

function look(panel, position) {
  looked = { panel, position };
  draw();
}

function drawInspector() {
  const box = find("inspector");
  if (!looked) {
    box.replaceChildren(make("p", "quiet", "Point at a position, or tap it, to see what happened to it."));
    return;
  }
  const { row, title } = panels[looked.panel];
  const steps = row.history(looked.position, now);
  const list = make("ol");
  for (const s of steps) {
    const shown = text => (text === null ? "mask" : text === "" ? "padding" : JSON.stringify(text));
    const sure = s.confidence === null ? "" : `, probability ${s.confidence.toFixed(3)}`;
    list.append(make("li", "", `call ${s.call}: ${WORDS[s.reason] ?? s.reason}, ${shown(s.before)} to ${shown(s.after)}${sure}`));
  }
  const given = row.start[looked.position].token !== row.maskId;
  const nothing = given ? "It was given." : "Nothing yet.";
  const head = `Position ${looked.position}${panels.length > 1 ? ` of ${title}` : ""}`;
  box.replaceChildren(make("strong", "", head), steps.length ? list : make("p", "", nothing));
}

// The next call after `now` that changed anything, or the last one before it.
function next(direction) {
  const calls = [0, ...panels.flatMap(p => p.row?.calls ?? []), last()].sort((a, b) => a - b);
  return direction > 0 ? (calls.find(c => c > now) ?? last()) : (calls.findLast(c => c < now) ?? 0);
}

export function go(call) {
  now = call;
  following = false;
  draw();
}

function pause() {
  clearInterval(timer);
  timer = null;
  find("play").textContent = "\u25b6\ufe0e";
  find("play").setAttribute("aria-label", "Play");
}

function play() {
  if (now >= last()) go(0);
  find("play").textContent = "\u275a\u275a";
  find("play").setAttribute("aria-label", "Pause");
  timer = setInterval(() => {
    go(next(1));
    if (now >= last()) pause();
  }, TICK_MS);
}

find("play").addEventListener("click", () => (timer ? pause() : play()));
find("back").addEventListener("click", () => { pause(); go(next(-1)); });
find("forward").addEventListener("click", () => { pause(); go(next(1)); });
find("clock").addEventListener("input", e => { pause(); go(Number(e.target.value)); });

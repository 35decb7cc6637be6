// Tables that batch jobs left: their rows page by page, and any row opened like one that was just written.

import { ask, fail, find, say } from "./server.js";
import * as view from "./view.js";

const LIMIT = 20;
const NUMBERS = ["calls", "edits", "seed", "sample_index"];
const KEPT = {
  trace: ".",
  corrections: ": only its corrections were kept, so it starts from what they changed.",
  nothing: ": its edits were not kept, so it is shown as it ended.",
};
let offset = 0;

// The tables there are; without any the section stays away.
export async function list() {
  const { data } = await (await ask("v1/tables")).json();
  find("tables").hidden = !data.length;
  find("table").replaceChildren(...data.map(t => new Option(`${t.label}, ${t.rows} rows`, t.name)));
  if (data.length) await show(0);
}

async function show(from) {
  const name = find("table").value;
  const page = await (await ask(`v1/tables/${encodeURIComponent(name)}/rows?offset=${from}&limit=${LIMIT}`)).json();
  offset = from;
  const columns = Object.keys(page.data[0] ?? {});
  const cell = (tag, column, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    element.className = NUMBERS.includes(column) ? "number" : "text";
    return element;
  };
  const head = document.createElement("tr");
  head.append(document.createElement("th"), ...columns.map(c => cell("th", c, c)));
  find("tables").querySelector("thead").replaceChildren(head);
  find("tables").querySelector("tbody").replaceChildren(...page.data.map((row, i) => {
    const line = document.createElement("tr");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Open";
    button.setAttribute("aria-label", `Open row ${from + i}`);
    button.addEventListener("click", () => open(name, from + i).catch(fail));
    const first = document.createElement("td");
    first.append(button);
    line.append(first, ...columns.map(c => cell("td", c, row[c] ?? "")));
    return line;
  }));
  find("place").textContent = page.total ? `${from} to ${from + page.data.length - 1} of ${page.total}` : "no rows";
  find("earlier").disabled = from === 0;
  find("later").disabled = from + LIMIT >= page.total;
}

async function open(name, number) {
  fail(null);
  const { data, kept } = await (await ask(`v1/tables/${encodeURIComponent(name)}/rows/${number}`)).json();
  view.open([`row ${number}`]);
  for (const event of data) view.tell(0, event);
  view.go(view.last());
  say(`Row ${number}${KEPT[kept]}`);
  find("result").scrollIntoView({ block: "start" });
}

find("table").addEventListener("change", () => show(0).catch(fail));
find("earlier").addEventListener("click", () => show(Math.max(0, offset - LIMIT)).catch(fail));
find("later").addEventListener("click", () => show(offset + LIMIT).catch(fail));

// The form: what is asked for, and the streams that answer.

import { asked, events } from "./replay.js";
import { ask, fail, find, say } from "./server.js";
import * as tables from "./tables.js";
import * as view from "./view.js";

let samplers = []; // what the server offers: {id, summary, options, problem}
let running = null; // aborts the streams

function option(value, text, problem) {
  const element = new Option(text, value);
  if (problem) [element.disabled, element.title] = [true, problem];
  return element;
}

async function start() {
  fail(null);
  try {
    const [models, offered] = await Promise.all(["v1/models", "v1/samplers"].map(async p => (await ask(p)).json()));
    samplers = offered.data;
    find("model").replaceChildren(...models.data.map(m => option(m.id, m.id)));
    if (!find("samplers").children.length) ["proseco", "mdlm"].forEach(addSampler);
    compare();
    await tables.list();
  } catch (error) {
    fail(error);
  }
}

// A sampler and its most useful options. What is left empty has the preset's value, which stands there in grey.
function addSampler(preferred, number) {
  find("samplers").append(find("sampler").content.cloneNode(true));
  const field = find("samplers").lastElementChild;
  field.querySelector("legend").textContent = `Sampler ${"AB"[number]}`;
  const select = field.querySelector("select");
  select.replaceChildren(...samplers.map(s => option(s.id, s.id, s.problem)));
  const usable = samplers.filter(s => !s.problem);
  select.value = (usable.find(s => s.id === preferred) ?? usable[0])?.id;
  const show = () => {
    const { summary, options } = samplers.find(s => s.id === select.value);
    field.querySelector(".summary").textContent = summary;
    for (const input of field.querySelectorAll("input")) {
      const value = input.name.split(".").reduce((at, name) => at?.[name], options);
      input.placeholder = value ?? "";
      input.closest("label").hidden = value === undefined;
    }
  };
  select.addEventListener("change", show);
  show();
}

function compare() {
  find("samplers").children[1].hidden = !find("compare").checked;
}

// The options of a sampler that were filled in, nested as the server reads them.
function optionsOf(field) {
  const options = {};
  for (const input of field.querySelectorAll("input")) {
    if (input.value === "" || input.closest("label").hidden) continue;
    const [part, name] = input.name.split(".");
    if (name) options[part] = { ...options[part], [name]: input.valueAsNumber };
    else options[part] = input.valueAsNumber;
  }
  return options;
}

function requests() {
  const shared = { ...asked(find("prompt").value), model: find("model").value, seed: find("seed").valueAsNumber, n: 1, stream: true };
  if (find("length").value) shared.length = find("length").valueAsNumber;
  return [...find("samplers").children].filter(field => !field.hidden)
    .map(field => ({ ...shared, sampler: field.querySelector("select").value, options: optionsOf(field) }));
}

async function write() {
  running?.abort();
  const own = (running = new AbortController());
  const all = requests();
  fail(null);
  view.open(all.map(request => request.sampler));
  find("stop").disabled = false;
  say("Writing.");
  const began = performance.now();
  try {
    await Promise.all(all.map(async (request, number) => {
      for await (const event of events(await ask("v1/completions", request, own.signal))) view.tell(number, event);
    }));
    say(`Written in ${((performance.now() - began) / 1000).toFixed(1)} s. Play it again, or move the clock.`);
  } catch (error) {
    own.abort(); // the other sampler need not go on
    say(error.name === "AbortError" ? "Stopped." : "");
    if (error.name !== "AbortError") fail(error);
  }
  if (running === own) find("stop").disabled = true;
}

find("access-form").addEventListener("submit", start);
find("ask").addEventListener("submit", e => { e.preventDefault(); write(); });
find("stop").addEventListener("click", () => running?.abort());
find("compare").addEventListener("change", compare);
find("prompt").addEventListener("keydown", e => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) find("ask").requestSubmit(); });
start();

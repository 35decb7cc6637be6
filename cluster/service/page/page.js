// The form: what is asked for, and the streams that answer.

import { asked, events } from "./replay.js";
import { ask, fail, find, say } from "./server.js";
import * as tables from "./tables.js";
import * as view from "./view.js";

let models = []; // what the server has: {id, samplers, default_sampler}
let samplers = []; // what it can do: {id, summary, options}
let running = null; // aborts the streams

async function start() {
  fail(null);
  try {
    const answers = await Promise.all(["v1/models", "v1/samplers"].map(async path => (await ask(path)).json()));
    [models, samplers] = answers.map(answer => answer.data);
    find("model").replaceChildren(...models.map(m => new Option(m.id)));
    if (!find("samplers").children.length) ["A", "B"].forEach(addSampler);
    fit();
    compare();
    await tables.list();
  } catch (error) {
    fail(error);
  }
}

// A sampler and its most useful options. What is left empty has the preset's value, which stands there in grey.
function addSampler(letter) {
  find("samplers").append(find("sampler").content.cloneNode(true));
  const field = find("samplers").lastElementChild;
  field.querySelector("legend").textContent = `Sampler ${letter}`;
  field.querySelector("select").replaceChildren(...samplers.map(s => new Option(s.id)));
  field.querySelector("select").addEventListener("change", () => describe(field));
}

// What the chosen sampler is, and the options that it has.
function describe(field) {
  const { summary, options } = samplers.find(s => s.id === field.querySelector("select").value);
  field.querySelector(".summary").textContent = summary;
  for (const input of field.querySelectorAll("input")) {
    const value = input.name.split(".").reduce((at, name) => at?.[name], options);
    input.placeholder = value ?? "";
    input.closest("label").hidden = value === undefined;
  }
}

// Only samplers that the chosen model was trained for can be chosen: its own first, and plain unmasking beside it.
function fit() {
  const model = models.find(m => m.id === find("model").value);
  [...find("samplers").children].forEach((field, number) => {
    const select = field.querySelector("select");
    for (const option of select.options) option.disabled = !model.samplers.includes(option.value);
    if (!field.dataset.fitted || select.selectedOptions[0]?.disabled) select.value = number ? "mdlm" : model.default_sampler;
    field.dataset.fitted = "yes";
    describe(field);
  });
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
find("model").addEventListener("change", fit);
find("compare").addEventListener("change", compare);
find("prompt").addEventListener("keydown", e => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) find("ask").requestSubmit(); });
start();

// Rows as data: what a stream says, and the canvas after any number of calls. Nothing here touches the page.

// Server-sent events of a response, as objects; comments keep the connection alive and say nothing.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The stream broke off before its end. Write again.");
    const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter(line => line.startsWith("data:"));
      if (!lines.length) continue;
      const data = lines.map(line => line.slice(5).replace(/^ /, "")).join("\n");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// "one [5] three" is a template of texts and numbers of positions to write; anything else is a prompt.
export function asked(text) {
  const pieces = text.split(/\[(\d+)\]/);
  if (pieces.length === 1) return { prompt: text };
  const template = pieces.map((piece, i) => (i % 2 ? Number(piece) : piece)).filter(piece => piece !== "");
  return { template };
}

const CORRECTIONS = ["replace", "remask"];

export class Row {
  constructor(start) {
    this.maskId = start.mask_id;
    this.start = start.tokens.map((token, i) => ({ token, text: start.pieces?.[i] ?? null }));
    this.steps = []; // {call, edits}, in the order of their calls
    this.end = null; // how the row ended
  }

  add({ call, edits }) {
    this.steps.push({ call, edits });
  }

  // Calls that changed something, each once.
  get calls() {
    return [...new Set(this.steps.map(step => step.call))];
  }

  // Calls that are known to be over.
  get known() {
    return this.end ? this.end.calls : (this.steps.at(-1)?.call ?? 0);
  }

  // The canvas after `call` calls: {token, text, masked, given, reason, corrected} of every position.
  at(call) {
    const cells = this.start.map(({ token, text }) => ({
      token, text, masked: token === this.maskId, given: token !== this.maskId, reason: "", corrected: 0,
    }));
    const past = this.steps.filter(step => step.call <= call);
    const last = past.at(-1)?.call;
    for (const step of past) {
      for (const edit of step.edits) {
        const cell = cells[edit.position];
        cell.token = edit.new;
        cell.text = edit.text;
        cell.masked = edit.new === this.maskId;
        cell.given = false;
        if (CORRECTIONS.includes(edit.reason)) cell.corrected += 1;
        if (step.call === last) cell.reason = edit.reason === "fill" ? "reveal" : edit.reason;
      }
    }
    return cells;
  }

  // What happened to a position up to `call`: {call, before, after, confidence, reason}.
  history(position, call) {
    let before = this.start[position].text;
    const found = [];
    for (const step of this.steps.filter(s => s.call <= call)) {
      for (const edit of step.edits.filter(e => e.position === position)) {
        found.push({ call: step.call, before, after: edit.text, confidence: edit.confidence, reason: edit.reason });
        before = edit.text;
      }
    }
    return found;
  }

  // Corrections up to `call`.
  corrections(call) {
    return this.steps.filter(step => step.call <= call)
      .flatMap(step => step.edits).filter(edit => CORRECTIONS.includes(edit.reason)).length;
  }
}

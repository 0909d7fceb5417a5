// The data: the index, which is read at once, and the rollouts' details, unpacked when they are asked for.

const data = JSON.parse(byId("index").textContent);
const lines = data.columns;
const size = lines.step ? lines.step.length : 0;
const packed = [...document.querySelectorAll('script[type="application/x-rollouts"]')];
const WRONG_FROM = 0.5; // a step error from which on a step is called wrong, as in records/inspect/record.py
const MARKS = { right: "✓", wrong: "✗", unknown: "?" };

const prompt = (index) => data.prompts[lines.prompt[index]];
const runName = (index) => data.runs[lines.run[index]].name;

async function unpack(number) {
  const bytes = Uint8Array.from(atob(packed[number].textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const recent = new Map(); // chunk number -> promise of its rollouts; a few, the latest last

async function rollout(index) {
  const number = Math.floor(index / data.chunk);
  const chunk = recent.get(number) || unpack(number);
  recent.delete(number);
  recent.set(number, chunk);
  if (recent.size > 8) recent.delete(recent.keys().next().value);
  return (await chunk)[index % data.chunk];
}

const responseOf = (row) => row.text ?? (row.pieces || []).join("");

// All that can be searched, in lower case, one string a rollout; a promise that is made at the first search.
let haystack = null;

async function readAll(progress) {
  const texts = [];
  for (let number = 0; number < packed.length; number += 1) {
    progress(number / packed.length);
    for (const row of await unpack(number)) {
      const said = [...(row.critiques || []), ...(row.outcome_critiques || [])];
      const replies = said.map((critique) => `${critique.reply}\n${critique.cause}`);
      const parts = [row.uid, row.problem, row.answer, row.reference || "", responseOf(row), ...replies];
      texts.push(parts.join("\n").toLowerCase());
    }
  }
  return texts;
}

function searchable(progress) {
  haystack ??= readAll(progress);
  return haystack;
}

// Rollouts of the same prompt at the same step, which share a baseline.
function siblings(index) {
  const found = [];
  for (let other = 0; other < size; other += 1) if (lines.group[other] === lines.group[index]) found.push(other);
  return found;
}

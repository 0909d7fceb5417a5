// The response: its steps coloured by verdict, its tokens by advantage or reward, and their numbers.

const TINTS = { advantage: "by advantage", reward: "by reward", point: "when pointed at" };
let tint = "advantage";

function verdictOf(row, step) {
  if (!row.step_error || step < 0) return { kind: "none", text: "" };
  const error = row.step_error[step];
  const votes = (row.critiques || []).filter((critique) => critique.wrong !== null);
  if (!row.valid) return { kind: "none", text: "no verdict: every critique abstained" };
  const against = votes.filter((critique) => critique.wrong.includes(step)).length;
  const counted = `${against} of ${plural(votes.length, "critique")}`;
  const kind = error >= WRONG_FROM ? "wrong" : "right";
  const share = error > 0 && error < 1 ? ` (step error ${number(error)})` : "";
  return { kind, text: `${MARKS[kind]} ${kind}${share}${against ? `; called wrong by ${counted}` : ""}` };
}

function response(row) {
  const box = el("div", {
    id: "response",
    tabindex: 0,
    role: "group",
    "aria-label": "Response; arrow keys go through its tokens",
  });
  for (const part of parts(row)) {
    const verdict = verdictOf(row, part.step);
    const head =
      part.step < 0 ? null : el("p", { class: "step-head" }, el("b", {}, `Step ${part.step}`), " ", verdict.text);
    const text = el(
      "p",
      { class: "text" },
      part.text ?? shownPieces(row, part.tokens).map((text, place) => token(row, part.tokens[place], text)),
    );
    box.append(
      el("div", { class: `step ${verdict.kind}`, id: part.step < 0 ? null : `step-${part.step}` }, head, text),
    );
  }
  if (!box.childNodes.length) box.append(el("p", { class: "muted" }, "The response is empty."));
  box.addEventListener("pointerover", (event) => tell(row, event.target));
  box.addEventListener("pointerleave", () => tell(row, null));
  box.addEventListener("blur", () => tell(row, null));
  box.addEventListener("keydown", (event) => walk(row, box, event));
  const scale = el("span", { class: "muted" });
  paint(row, box, scale);
  return [tintChoice(row, box, scale), box];
}

// Tokens side by side of the same step; by the steps' spans where tokens are not known.
function parts(row) {
  if (!row.pieces || !row.pieces.length) {
    const text = responseOf(row);
    const chars = Array.from(text); // spans count code points
    return row.spans.map(([start, end], step) => ({ step, text: chars.slice(start, end).join("") }));
  }
  const found = [];
  for (let at = 0; at < row.pieces.length; at += 1) {
    const step = row.step_of_token[at];
    const last = found[found.length - 1];
    const joins = last && (last.step === step || row.special[at]);
    if (joins) last.tokens.push(at);
    else found.push({ step, tokens: [at] });
  }
  return found;
}

// Special tokens by their ids; the blank lines that end a step as marks, for they would only take room.
function shownPieces(row, tokens) {
  const pieces = tokens.map((at) => (row.special[at] ? `⟨${row.response_ids[at]}⟩` : row.pieces[at]));
  for (let last = pieces.length - 1; last >= 0; last -= 1) {
    if (row.special[tokens[last]]) continue;
    const text = pieces[last].trimEnd();
    pieces[last] = text + pieces[last].slice(text.length).replaceAll("\n", "↵");
    if (text) break;
  }
  return pieces;
}

const token = (row, at, text) =>
  el("span", { class: row.special[at] ? "token special" : "token", "data-at": at }, text);

const extent = (values) => Math.max(0, ...(values || []).map((value) => Math.abs(value ?? 0)));

function paint(row, box, scale) {
  box.dataset.tint = tint;
  const values = tint === "reward" ? row.token_rewards : row.advantages;
  const most = extent(values) || 1;
  scale.textContent = values
    ? `full colour: ±${number(most)} · point at a token for its numbers`
    : "not trained on: no rewards";
  for (const node of box.querySelectorAll(".token")) {
    const value = (values || [])[node.dataset.at] ?? 0;
    node.classList.toggle("less", value < 0);
    node.style.setProperty("--share", `${Math.round((62 * Math.abs(value)) / most)}%`);
  }
}

function tintChoice(row, box, scale) {
  const options = Object.entries(TINTS).map(([value, text]) => el("option", { value, selected: value === tint }, text));
  const select = el("select", { id: "tint" }, options);
  select.addEventListener("input", () => {
    tint = select.value;
    paint(row, box, scale);
  });
  const swatch = (kind, text) => el("span", { class: `swatch ${kind}` }, text);
  return el(
    "p",
    { class: "legend" },
    el("label", {}, "Colour tokens ", select),
    swatch("more", "above 0"),
    swatch("below", "below 0"),
    scale,
  );
}

function tokenFacts(row, at) {
  const value = (name) => (row[name] ? number(row[name][at], 4) : NONE);
  return {
    token: JSON.stringify(row.pieces[at]),
    id: row.response_ids[at],
    step: row.step_of_token ? row.step_of_token[at] : NONE,
    reward: value("token_rewards"),
    advantage: row.advantages ? signed(row.advantages[at], 4) : NONE,
    "logprob engine": value("engine_logprobs"),
    "logprob trainer": value("trainer_logprobs"),
  };
}

// The numbers of one token, beside it.
function tell(row, node) {
  const tip = byId("tip");
  for (const other of document.querySelectorAll(".token.current")) other.classList.remove("current");
  const here = node && node.classList.contains("token") ? node : null;
  tip.hidden = !here;
  if (!here) return;
  here.classList.add("current");
  const facts = Object.entries(tokenFacts(row, Number(here.dataset.at)));
  tip.replaceChildren(
    ...facts.map(([name, value]) => el("span", {}, el("i", {}, `${name} `), el("b", {}, String(value)))),
  );
  const place = here.getClientRects()[0];
  tip.style.left = `${clamp(place.left, 8, Math.max(8, innerWidth - tip.offsetWidth - 8))}px`;
  const below = place.bottom + 8 + tip.offsetHeight < innerHeight;
  tip.style.top = `${below ? place.bottom + 8 : place.top - 8 - tip.offsetHeight}px`;
}

function walk(row, box, event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const nodes = [...box.querySelectorAll(".token")];
  if (!nodes.length) return;
  event.preventDefault();
  const at = nodes.findIndex((node) => node.classList.contains("current"));
  const next = nodes[clamp(at + (event.key === "ArrowRight" ? 1 : -1), 0, nodes.length - 1)];
  next.scrollIntoView({ block: "nearest" });
  tell(row, next);
}

function tokenTable(row) {
  const box = el(
    "details",
    { class: "part" },
    el("summary", {}, `All ${plural(row.response_ids.length, "token")} in a table`),
  );
  box.addEventListener("toggle", () => {
    if (!box.open || box.querySelector("table")) return;
    const rows = row.response_ids.map((_, at) => tokenFacts(row, at));
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "#"),
      Object.keys(rows[0] || {}).map((name) => el("th", { scope: "col" }, name)),
    );
    const body = rows.map((facts, at) =>
      el(
        "tr",
        {},
        [at, ...Object.values(facts)].map((value) => el("td", {}, String(value))),
      ),
    );
    box.append(
      el(
        "div",
        { class: "scroll", tabindex: 0 },
        el("table", { class: "numbers" }, el("thead", {}, head), el("tbody", {}, body)),
      ),
    );
  });
  return box;
}

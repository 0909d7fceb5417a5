// One rollout: what was asked and answered, how it was judged, and what its tokens got.

async function showDetail(index) {
  const box = byId("detail");
  if (index === null) {
    box.replaceChildren(...overview());
    return;
  }
  const row = await rollout(index);
  if (index !== list.chosen) return; // another one was chosen meanwhile
  tell(row, null);
  box.replaceChildren();
  fill(box, {}, [
    heading(index, row),
    part("Problem", textBlock(row.problem)),
    row.reference !== null && row.reference !== undefined && folded("Reference solution", textBlock(row.reference)),
    part("Response", response(row)),
    judged(row),
    critiques("Critiques", row.critiques, said),
    critiques("Critiques of the answer", row.outcome_critiques, saidOfAnswer),
    profiles(row),
    tokenTable(row),
    raw(row),
  ]);
  box.scrollTop = 0;
}

const part = (title, ...content) =>
  el("section", { class: "part", "aria-label": title }, el("h3", {}, title), ...content);
const folded = (title, ...content) => el("details", { class: "part" }, el("summary", {}, title), ...content);
const textBlock = (text) => el("p", { class: "text block" }, text);

function heading(index, row) {
  const back = el("button", { type: "button", class: "back", on: { click: () => leaveDetail() } }, "← List");
  const step = (by, text) => el("button", { type: "button", on: { click: () => move(by) } }, text);
  const facts = {
    Run: runName(index),
    Prompt: row.uid,
    Answer: row.answer || NONE,
    "Policy version": row.policy_version ?? NONE,
    "Ended by": row.finish_reason === "length" ? "length limit" : "stop",
    Tokens: `${number((row.prompt_ids || []).length)} prompt + ${number((row.response_ids || []).length)} response`,
    Sampling: row.seconds === null ? NONE : `${number(row.seconds, 2)} s`,
    Judging: row.critiques
      ? `${number(Math.max(0, ...row.critiques.map((one) => one.seconds ?? 0)), 2)} s (slowest critique)`
      : "no judge",
  };
  const pairs = Object.entries(facts).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, String(value))),
  );
  return el(
    "header",
    {},
    el(
      "div",
      { class: "bar" },
      back,
      el("button", { type: "button", class: "home", on: { click: () => choose(null) } }, "Overview"),
      step(-1, "↑ Previous"),
      step(1, "Next ↓"),
    ),
    el("h2", {}, `Step ${row.step}, sample ${row.sample} `, outcomeBadge(row.outcome), " ", stepsBadge(index)),
    el("dl", { class: "facts" }, pairs),
    group(index),
  );
}

function group(index) {
  const others = siblings(index);
  if (others.length < 2) return null;
  const chips = others.map((other) =>
    el(
      "button",
      { type: "button", class: "chip", "aria-pressed": String(other === index), on: { click: () => choose(other) } },
      `${MARKS[lines.outcome[other]]} ${lines.sample[other]}`,
      lines.wrong[other] ? el("i", {}, ` ${lines.wrong[other]} wrong`) : null,
    ),
  );
  return el("p", { class: "group" }, "Samples of this prompt: ", chips);
}

// Critiques down, steps across: who called what wrong, what the vote made of it, and what the tokens got.
function judged(row) {
  if (!row.step_error || !row.step_error.length)
    return part("Votes", el("p", { class: "muted" }, row.critiques ? "No steps." : "No judge was asked."));
  const steps = row.step_error.map((_, step) => step);
  const line = (name, kind, cell) => el("tr", { class: kind }, el("th", { scope: "row" }, name), steps.map(cell));
  const head = steps.map((step) => el("th", { scope: "col" }, stepLink(step)));
  const body = (row.critiques || []).map((one, at) => line(`Critique ${at}`, "", (step) => vote(one, step)));
  const foot = [
    line("Verdict", "verdict", (step) => verdictCell(row, step)),
    row.token_rewards &&
      line("Mean reward", "", (step) => el("td", {}, number(stepMean(row, "token_rewards", step), 2))),
    row.advantages && line("Mean advantage", "", (step) => el("td", {}, signed(stepMean(row, "advantages", step), 2))),
  ];
  const table = el(
    "table",
    { class: "votes" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Step"), head)),
    el("tbody", {}, body),
    el("tfoot", {}, foot),
  );
  return part(
    "Votes",
    el("p", { class: "muted" }, counted(row)),
    el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Votes" }, table),
  );
}

function stepLink(step) {
  const go = () => byId(`step-${step}`)?.scrollIntoView({ block: "center" });
  return el("button", { type: "button", class: "link", on: { click: go } }, step);
}

function stepMean(row, name, step) {
  const own = row[name].filter((value, at) => row.step_of_token[at] === step && value !== null);
  return own.length ? own.reduce((sum, value) => sum + value, 0) / own.length : null;
}

function counted(row) {
  const off = (row.critiques || []).filter((critique) => critique.cause === "aborted").length;
  const counts = [
    `${plural(row.valid, "critique")} voted`,
    `${row.abstained} abstained`,
    off && `${off} called off`,
    row.valid && `agreement ${number(row.agreement, 2)}`,
  ];
  return counts.filter(Boolean).join(", ");
}

function vote(critique, step) {
  if (critique.wrong === null)
    return el(
      "td",
      { class: "none", title: critique.cause || "abstained" },
      critique.cause === "aborted" ? "off" : "abst.",
    );
  const wrong = critique.wrong.includes(step);
  return el("td", { class: wrong ? "wrong" : "right" }, wrong ? "✗ wrong" : "✓");
}

function verdictCell(row, step) {
  const { kind } = verdictOf(row, step);
  const error = row.step_error[step];
  return el(
    "td",
    { class: kind },
    kind === "none" ? NONE : `${MARKS[kind]} ${error > 0 && error < 1 ? number(error, 2) : kind}`,
  );
}

function said(critique) {
  if (critique.cause === "aborted") return ["none", "called off: the vote was settled"];
  if (critique.wrong === null) return ["none", `abstained: ${critique.cause || "no verdict"}`];
  if (!critique.wrong.length) return ["right", "✓ no wrong step"];
  return ["wrong", `✗ wrong: step ${critique.wrong.join(", ")}`];
}

// A GenORM reads the whole solution: its critiques call the answer right or wrong.
function saidOfAnswer(critique) {
  if (critique.wrong === null || critique.cause === "aborted") return said(critique);
  return critique.wrong.length ? ["wrong", "✗ wrong answer"] : ["right", "✓ right answer"];
}

function critiques(title, several, words) {
  if (!several || !several.length) return null;
  const cards = several.map((critique, at) => {
    const [kind, text] = words(critique);
    const { prompt_tokens: read, completion_tokens: written, seconds } = critique;
    const cost = `${number(read)} tokens read, ${number(written)} written, ${number(seconds, 2)} s`;
    return el(
      "article",
      { class: `critique ${kind}` },
      el("h4", {}, `Critique ${at} `, el("span", { class: `badge ${kind}` }, text)),
      el("p", { class: "muted" }, cost),
      textBlock(critique.reply || "(no reply)"),
    );
  });
  return part(title, el("div", { class: "critiques" }, cards));
}

function profiles(row) {
  if (!row.token_rewards && !row.advantages) return null;
  return part(
    "Along the response",
    el(
      "div",
      { class: "profiles" },
      row.token_rewards && profile("Token reward", row.token_rewards, row),
      row.advantages && profile("Token advantage", row.advantages, row),
    ),
  );
}

// One value a token, as steps of a line; wrong steps are shaded.
function profile(title, values, row) {
  const [width, height, left, top, bottom] = [460, 134, 44, 8, 34];
  const known = values.filter((value) => value !== null);
  let [low, high] = [Math.min(0, ...known), Math.max(0, ...known)];
  if (low === high) high = low + 1;
  const x = (at) => left + ((width - left - 6) * at) / values.length;
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
  const path = values
    .map((value, at) => `${at ? "L" : "M"}${x(at)} ${y(value ?? 0)}L${x(at + 1)} ${y(value ?? 0)}`)
    .join("");
  const shades = parts(row)
    .filter(({ step, tokens }) => tokens && row.step_error && row.step_error[step] >= WRONG_FROM)
    .map(({ step, tokens }) => tokens.filter((at) => row.step_of_token[at] === step))
    .map((own) =>
      svg("rect", { class: "shade", x: x(own[0]), y: top, width: x(own.length) - x(0), height: height - top - bottom }),
    );
  const marks = ticks(low, high, 3).map((value) => [
    svg("line", { class: value === 0 ? "zero" : "grid", x1: left, x2: width - 6, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)),
  ]);
  const across = ticks(0, values.length, 5)
    .filter(Number.isInteger)
    .map((at) => svg("text", { x: x(at), y: height - 14, "text-anchor": "middle" }, number(at)));
  const range = `${number(Math.min(...known))} to ${number(Math.max(...known))}`;
  const label = `${title}: ${range} over ${plural(values.length, "token")}; wrong steps shaded`;
  return el(
    "figure",
    {},
    el("figcaption", {}, title),
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      shades,
      marks,
      across,
      svg("text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle" }, "token"),
      svg("path", { class: "profile", d: path }),
    ),
  );
}

function raw(row) {
  const box = folded("The record as JSON");
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) box.append(textBlock(JSON.stringify(row, null, 1)));
  });
  return box;
}

// What is in the page, counted; each count shows its rollouts.

const VIEWS = [
  ["right answers", { outcome: "right" }],
  ["wrong answers", { outcome: "wrong" }],
  ["answers of unknown outcome", { outcome: "unknown" }],
  ["with a step called wrong", { wrong: "yes" }],
  ["right answers with a step called wrong: is the judge right?", { outcome: "right", wrong: "yes", sort: "wrong" }],
  ["wrong answers with no step called wrong: what did it miss?", { outcome: "wrong", wrong: "no" }],
  ["whose critiques disagree", { agree: "disagree", sort: "disagreement" }],
  ["with critiques that abstained", { abstained: "yes" }],
];

function fitting(view) {
  const set = Object.entries(view).filter(([id]) => id in FILTERS);
  let count = 0;
  for (let index = 0; index < size; index += 1) if (set.every(([id, value]) => FILTERS[id](index, value))) count += 1;
  return count;
}

function look(view) {
  byId("filters").reset();
  for (const [id, value] of Object.entries(view)) byId(id).value = value;
  return applyFilters();
}

function overview() {
  const cards = VIEWS.map(([text, view]) => [text, view, fitting(view)])
    .filter(([, , count]) => count)
    .map(([text, view, count]) =>
      el(
        "button",
        { type: "button", on: { click: () => look(view) } },
        el("b", {}, number(count)),
        el("span", {}, text),
      ),
    );
  const rewarded = { "the most rewarded": { sort: "high" }, "the most punished": { sort: "low" } };
  const ends = Object.entries(rewarded).map(([text, view]) =>
    el(
      "button",
      { type: "button", on: { click: () => look(view) } },
      el("b", {}, view.sort === "high" ? "+" : MINUS),
      el("span", {}, text),
    ),
  );
  return [
    el("h2", {}, `${plural(size, "rollout")}`),
    el("div", { class: "overview" }, cards, ends),
    el(
      "p",
      { class: "muted" },
      "Choose a count for its rollouts, a rollout in the list for its steps, critiques and tokens; ? shows the keys.",
    ),
  ];
}

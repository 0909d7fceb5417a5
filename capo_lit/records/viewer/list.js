// The list: filters, search, order, and only as many rows in the page as can be seen.

const ROW = 62; // height of a row in px, as in style.css
const FILTERS = {
  run: (index, value) => lines.run[index] === Number(value),
  from: (index, value) => lines.step[index] >= Number(value),
  to: (index, value) => lines.step[index] <= Number(value),
  outcome: (index, value) => lines.outcome[index] === value,
  wrong: (index, value) =>
    value === "unjudged"
      ? lines.steps[index] === null
      : lines.steps[index] !== null && lines.wrong[index] > 0 === (value === "yes"),
  agree: (index, value) =>
    lines.disagreement[index] !== null && lines.disagreement[index] > 0 === (value === "disagree"),
  abstained: (index, value) => lines.abstained[index] > 0 === (value === "yes"),
};
const peak = (index) => lines.peak[index];
const ORDERS = {
  order: null,
  size: (index) => (peak(index) === null ? null : Math.abs(peak(index))),
  high: peak,
  low: (index) => (peak(index) === null ? null : -peak(index)),
  disagreement: (index) => lines.disagreement[index],
  wrong: (index) => (lines.steps[index] === null ? null : lines.wrong[index]),
  tokens: (index) => lines.tokens[index],
};

const list = { shown: [], chosen: null, asked: 0 };

async function applyFilters() {
  const ticket = (list.asked += 1); // a later change overtakes a search that still reads
  const set = Object.keys(FILTERS).filter((id) => byId(id).value !== "");
  let shown = Array.from({ length: size }, (_, index) => index);
  for (const id of set) shown = shown.filter((index) => FILTERS[id](index, byId(id).value));
  const words = byId("search").value.toLowerCase().trim();
  if (words) {
    const texts = await searchable((share) => {
      if (byId("search").value) byId("count").textContent = `searching, ${Math.round(100 * share)} %`;
    });
    shown = shown.filter((index) => texts[index].includes(words));
  }
  if (ticket !== list.asked) return;
  list.shown = inOrder(shown, ORDERS[byId("sort").value]);
  byId("count").textContent = `${number(shown.length)} of ${plural(size, "rollout")}`;
  byId("list").scrollTop = 0;
  drawRows();
  if (list.shown.includes(list.chosen)) scrollTo(list.chosen);
}

// Largest first; rollouts without a value last. The sort is stable: equals stay in order of training.
function inOrder(shown, key) {
  if (!key) return shown;
  const value = (index) => key(index) ?? -Infinity;
  return shown.sort((one, other) => value(other) - value(one) || one - other);
}

function drawRows() {
  const box = byId("list");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 6);
  const last = Math.min(list.shown.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 6);
  byId("rows").style.height = `${list.shown.length * ROW}px`;
  const rows = [];
  for (let place = first; place < last; place += 1) rows.push(listRow(place));
  if (!list.shown.length) rows.push(el("p", { class: "nothing" }, "No rollout fits these filters."));
  byId("rows").replaceChildren(...rows);
  const there = rows.some((row) => row.id === `row-${list.chosen}`);
  if (there) box.setAttribute("aria-activedescendant", `row-${list.chosen}`);
  else box.removeAttribute("aria-activedescendant");
}

function listRow(place) {
  const index = list.shown[place];
  const attributes = {
    class: "row",
    role: "option",
    id: `row-${index}`,
    "aria-selected": String(index === list.chosen),
    "aria-setsize": list.shown.length,
    "aria-posinset": place + 1,
    vars: { "--top": `${place * ROW}px` },
    on: { click: () => choose(index) },
  };
  const where = `step ${lines.step[index]} · #${lines.sample[index]}`;
  return el(
    "div",
    attributes,
    el(
      "span",
      { class: "line" },
      outcomeBadge(lines.outcome[index]),
      el("span", { class: "where" }, where),
      lines.disagreement[index] > 0 && el("span", { class: "badge plain", title: "the critiques disagree" }, "split"),
      lines.abstained[index] > 0 &&
        el("span", { class: "badge plain", title: "critiques that abstained" }, `${lines.abstained[index]} abst.`),
      stepsBadge(index),
      el("span", { class: "peak", title: "token advantage furthest from 0" }, signed(peak(index), 2)),
    ),
    el(
      "span",
      { class: "line" },
      el("span", { class: "problem" }, prompt(index).problem),
      data.runs.length > 1 && el("span", { class: "run" }, runName(index)),
    ),
  );
}

const outcomeBadge = (outcome) => el("span", { class: `badge ${outcome}` }, `${MARKS[outcome]} ${outcome}`);

function stepsBadge(index) {
  if (lines.steps[index] === null) return null;
  const text = `${lines.wrong[index]}/${lines.steps[index]} steps wrong`;
  return el("span", { class: lines.wrong[index] ? "badge wrong" : "badge plain" }, text);
}

function scrollTo(index) {
  const place = list.shown.indexOf(index);
  const box = byId("list");
  if (place < 0) return;
  if (place * ROW < box.scrollTop) box.scrollTop = place * ROW;
  if ((place + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (place + 1) * ROW - box.clientHeight;
}

function move(by) {
  if (!list.shown.length) return;
  const place = list.shown.indexOf(list.chosen);
  choose(list.shown[place < 0 ? 0 : clamp(place + by, 0, list.shown.length - 1)]);
}

const page = () => Math.max(1, Math.floor(byId("list").clientHeight / ROW) - 1);
const LIST_KEYS = {
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  PageDown: () => move(page()),
  PageUp: () => move(-page()),
  Home: () => move(-size),
  End: () => move(size),
  Enter: () => byId("detail").focus(),
};

function startList() {
  for (const [number, run] of data.runs.entries()) byId("run").append(el("option", { value: number }, run.name));
  byId("run").prepend(el("option", { value: "", selected: true }, "all"));
  byId("run-label").hidden = data.runs.length < 2;
  let waiting = 0;
  byId("filters").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(applyFilters, 120);
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(applyFilters));
  byId("list").addEventListener("scroll", () => requestAnimationFrame(drawRows));
  new ResizeObserver(() => drawRows()).observe(byId("list"));
  byId("list").addEventListener("keydown", (event) => {
    const act = LIST_KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  return applyFilters();
}

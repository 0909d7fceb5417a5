// Training curves: one chart a metric, one line a run.

const CHART = { width: 460, height: 240, left: 56, right: 12, top: 10, bottom: 38 };
const LINES = 7; // colours in style.css; further runs repeat them dashed otherwise

function showCurves() {
  const box = byId("curves");
  if (box.childElementCount) return;
  const metrics = data.metrics.filter((metric) => data.runs.some((run) => run.curves[metric.name]));
  if (!metrics.length) {
    box.append(
      el(
        "p",
        { class: "muted" },
        "These runs logged no curves: there was no csv/version_*/metrics.csv beside their records.",
      ),
    );
    return;
  }
  const names = data.runs.map((run, at) =>
    el(
      "li",
      {},
      svg("svg", { viewBox: "0 0 30 10", class: "key" }, svg("path", { class: lineClass(at), d: "M0 5H30" })),
      el("bdi", {}, run.name),
      Object.keys(run.curves).length ? null : el("i", {}, " (no curves)"),
    ),
  );
  box.append(
    el("ul", { class: "runs" }, names),
    el(
      "p",
      { class: "muted" },
      "Point at a chart, or go along it with the arrow keys, for its values; click, or press Enter, for the rollouts " +
        "that led to that step.",
    ),
    el("div", { class: "charts" }, metrics.map(chart)),
  );
}

const lineClass = (at) => `curve run-${at % LINES} dash-${Math.floor(at / LINES) % 3}`;

function chart(metric) {
  const curves = data.runs.map((run) => run.curves[metric.name] || null);
  const steps = [...new Set(curves.flatMap((curve) => (curve ? curve[0] : [])))].sort((one, other) => one - other);
  const axes = scales(curves, steps);
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", tabindex: 0, "aria-label": spoken(metric, curves) },
    grid(axes, metric),
    curves.map((curve, at) => curve && drawn(curve, at, axes)),
  );
  const values = el("output", { class: "values" }, lastValues(curves));
  follow(drawing, values, curves, steps, axes);
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      el("b", {}, metric.title),
      el("span", { class: "muted" }, ` ${metric.name}: ${metric.meaning}`),
    ),
    drawing,
    values,
  );
}

function scales(curves, steps) {
  const all = curves.flatMap((curve) => (curve ? curve[1] : []));
  let [low, high] = [
    all.reduce((one, other) => Math.min(one, other)),
    all.reduce((one, other) => Math.max(one, other)),
  ];
  if (low >= 0 && low < 0.7 * high) low = 0;
  if (low === high) [low, high] = [Math.min(0, low), Math.max(0, high) || 1];
  high += (high - low) * 0.04;
  const [first, last] = [steps[0], steps[steps.length - 1]];
  const across = CHART.width - CHART.left - CHART.right;
  const down = CHART.height - CHART.top - CHART.bottom;
  return {
    low,
    high,
    first,
    last,
    x: (step) => CHART.left + (last === first ? across / 2 : (across * (step - first)) / (last - first)),
    y: (value) => CHART.top + (down * (high - value)) / (high - low),
  };
}

function grid({ low, high, first, last, x, y }, metric) {
  const floor = CHART.height - CHART.bottom;
  const marks = ticks(low, high, 5).map((value) => [
    svg("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value) }),
    svg("text", { x: CHART.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  const stops = first === last ? [first] : ticks(first, last, 5).filter(Number.isInteger);
  const numbers = stops.map((step) =>
    svg("text", { x: x(step), y: floor + 15, "text-anchor": "middle" }, number(step)),
  );
  const middle = (CHART.top + floor) / 2;
  return [
    marks,
    numbers,
    svg("line", { class: "zero", x1: CHART.left, x2: CHART.width - CHART.right, y1: floor, y2: floor }),
    svg("text", { x: (CHART.left + CHART.width) / 2, y: CHART.height - 5, "text-anchor": "middle" }, "optimizer steps"),
    svg("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, metric.unit),
  ];
}

const short = (value) => number(value, 3, { notation: "compact" });

function drawn([steps, values], at, { x, y }) {
  const points = steps.map((step, place) => `${x(step).toFixed(1)} ${y(values[place]).toFixed(1)}`);
  if (points.length === 1) return svg("circle", { class: lineClass(at), cx: x(steps[0]), cy: y(values[0]), r: 3 });
  return svg("path", { class: lineClass(at), d: `M${points.join("L")}` });
}

const named = (at, text) =>
  el(
    "span",
    { class: `value run-${at % LINES}` },
    data.runs.length > 1 && [el("bdi", {}, data.runs[at].name), " "],
    el("b", {}, text),
  );

function lastValues(curves) {
  return [
    "at the end: ",
    ...curves.flatMap((curve, at) => (curve ? [named(at, number(curve[1][curve[1].length - 1]))] : [])),
  ];
}

function spoken(metric, curves) {
  const end = ([steps, values], at) => `${number(values[at])} at step ${steps[at]}`;
  const said = curves.map((curve, at) => {
    return curve && `${data.runs[at].name} from ${end(curve, 0)} to ${end(curve, curve[0].length - 1)}`;
  });
  return `${metric.title} over optimizer steps: ${said.filter(Boolean).join("; ")}`;
}

// The rule that follows the pointer or the arrow keys, and the values where it stands.
function follow(drawing, values, curves, steps, axes) {
  const rule = svg("line", { class: "rule", y1: CHART.top, y2: CHART.height - CHART.bottom, visibility: "hidden" });
  drawing.append(rule);
  let here = null;
  const stand = (place) => {
    here = clamp(place, 0, steps.length - 1);
    const step = steps[here];
    for (const end of ["x1", "x2"]) rule.setAttribute(end, axes.x(step));
    rule.setAttribute("visibility", "visible");
    const there = curves.flatMap((curve, at) =>
      curve && curve[0].includes(step) ? [named(at, number(curve[1][curve[0].indexOf(step)], 4))] : [],
    );
    values.replaceChildren(`step ${step}: `, ...there);
  };
  const leave = () => {
    here = null;
    rule.setAttribute("visibility", "hidden");
    values.replaceChildren(...lastValues(curves));
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * CHART.width;
    const gaps = steps.map((step) => Math.abs(axes.x(step) - at));
    stand(gaps.indexOf(Math.min(...gaps)));
  });
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("click", () => here !== null && rolloutsOfStep(steps[here]));
  drawing.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" && here !== null) rolloutsOfStep(steps[here]);
    if (!by) return;
    event.preventDefault();
    stand(here === null ? (by > 0 ? 0 : steps.length - 1) : here + by);
  });
}

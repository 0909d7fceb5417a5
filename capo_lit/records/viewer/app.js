// The page as a whole: which view is shown, the address's hash, and the keys.

function show(view) {
  for (const name of ["rollouts", "curves"]) {
    byId(name).hidden = name !== view;
    byId(`show-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  byId("tip").hidden = true;
  if (view === "curves") showCurves();
  else drawRows();
}

const ofRollout = /^#rollout-(\d+)$/;

// The hash says what is shown, so that links and the browser's back button work.
async function follows() {
  const match = ofRollout.exec(location.hash);
  const index = match && Number(match[1]) < size ? Number(match[1]) : null;
  show(location.hash === "#curves" ? "curves" : "rollouts");
  if (location.hash === "#curves") return;
  list.chosen = index;
  document.body.classList.toggle("reading", index !== null);
  if (index !== null) scrollTo(index);
  drawRows();
  await showDetail(index);
}

function choose(index) {
  const hash = index === null ? "#" : `#rollout-${index}`;
  if (ofRollout.test(location.hash)) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  follows();
}

function leaveDetail() {
  document.body.classList.remove("reading");
  drawRows();
  byId("list").focus();
}

function toggleCurves() {
  const curves = location.hash === "#curves";
  const hash = curves ? (list.chosen === null ? "#" : `#rollout-${list.chosen}`) : "#curves";
  history.pushState(null, "", hash);
  follows();
}

// Curves count optimizer steps, and are logged after those of a batch; its rollouts bear the version before.
function rolloutsOfStep(step) {
  const before = (index) => (lines.version[index] ?? lines.step[index]) < Math.max(step, 1);
  const versions = lines.step.map((own, index) => (before(index) ? (lines.version[index] ?? own) : -1));
  const last = versions.reduce((one, other) => Math.max(one, other), -1);
  const steps = lines.step.filter((_, index) => versions[index] === last);
  if (last < 0) return;
  byId("filters").reset();
  byId("from").value = steps.reduce((one, other) => Math.min(one, other));
  byId("to").value = steps.reduce((one, other) => Math.max(one, other));
  toggleCurves();
  leaveDetail();
  applyFilters();
}

function nextTint() {
  const select = byId("tint");
  if (!select) return;
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("input"));
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => {
    if (location.hash === "#curves") toggleCurves();
    leaveDetail();
    byId("search").focus();
  },
  c: toggleCurves,
  o: () => choose(null),
  t: nextTint,
  "?": () => byId("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  if (event.key === "Escape") {
    byId("tip").hidden = true;
    leaveDetail();
    return;
  }
  if (event.target.matches("input, select, textarea") || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

async function start() {
  const counts = [
    plural(data.total, "rollout"),
    size && `steps ${lines.step.reduce((a, b) => Math.min(a, b))} to ${lines.step.reduce((a, b) => Math.max(a, b))}`,
  ];
  const names = data.runs.flatMap((run, at) => [at ? ", " : "", el("bdi", {}, run.name)]);
  byId("what").append(...names, ...counts.filter(Boolean).map((text) => ` · ${text}`));
  if (size < data.total) {
    byId("left-out").hidden = false;
    byId("left-out").append(
      el("b", {}, `${plural(data.total - size, "rollout")} left out. `),
      `This page shows ${number(size)} of ${number(data.total)}: whole groups, spread evenly over the steps. `,
      "For others: ",
      el("code", {}, "capo inspect --steps FIRST:LAST"),
      " or a larger ",
      el("code", {}, "--limit"),
      ` than ${data.limit}.`,
    );
  }
  byId("show-rollouts").addEventListener("click", () => location.hash === "#curves" && toggleCurves());
  byId("show-curves").addEventListener("click", () => location.hash !== "#curves" && toggleCurves());
  byId("show-keys").addEventListener("click", KEYS["?"]);
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", follows);
  await startList();
  await follows();
  document.body.dataset.ready = "yes";
}

start();

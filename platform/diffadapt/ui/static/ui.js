"use strict";
// The page of `diffadapt ui`. Views ask /api/..., draw what they get, and ask again while something goes on.

const EVERY = 2000; // milliseconds between two looks at what goes on
const SLOW = 10000; // and at what does not
const MOST = 480; // pictures that stay while new ones come
const $ = (id) => document.getElementById(id);
const taken = []; // runs that are to be compared
let view = null; // what is shown: {refresh, every, keys}
let timer = 0;
let turn = 0; // counts views, so that a late answer to an earlier one is dropped

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false && c !== ""));
  return element;
}

function drawn(svg) { // charts come from the server, every text in them escaped
  const box = document.createElement("template");
  box.innerHTML = svg;
  return box.content;
}

function chart(pair, more) {
  return pair && pair[0] ? [h("div", { class: "wide " + (more || "") }, drawn(pair[0])), h("div", { class: "narrow" }, drawn(pair[1]))] : [];
}

function address(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters || {}))
    for (const one of Array.isArray(value) ? value : [value])
      if (one !== "" && one !== null && one !== undefined) query.append(name, one);
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

async function ask(path, parameters) {
  let answer;
  try {
    answer = await fetch(address(path, parameters), { credentials: "same-origin" });
  } catch {
    throw new Error("The server does not answer: is `diffadapt ui` still running?");
  }
  let value;
  try {
    value = await answer.json();
  } catch {
    throw new Error(`The server answered ${answer.status} without a sentence.`);
  }
  if (!answer.ok) throw new Error(value.error || `The server answered ${answer.status}.`);
  return value;
}

const link = (...parts) => "#/" + parts.map(encodeURIComponent).join("/");
const plural = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

function when(seconds) {
  if (!seconds) return "";
  const past = Date.now() / 1000 - seconds;
  if (past < 60) return "now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  return new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
}

function whenFull(seconds) {
  return seconds ? new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC" : "";
}

const state = (row) => h("span", { class: `state ${row.state}`, title: row.said || row.state }, row.state);
const bar = (share, label) => h("progress", { max: 1, value: Math.min(1, share), class: share >= 1 ? "whole" : "", "aria-label": label });
const problem = (sentence) => h("section", { class: "problem", role: "alert" }, h("p", {}, sentence));

function table(head, rows, kind) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" },
    h("table", { class: kind || "text" },
      h("thead", {}, h("tr", {}, head.map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, rows.map((row) => row instanceof Node ? row : h("tr", {}, row.map((c) => c instanceof Node && c.tagName === "TD" ? c : h("td", {}, c)))))));
}

function put(...nodes) { // into the page, with the focus where it was
  const main = $("main");
  const key = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : "";
  const at = key && document.activeElement.selectionStart;
  main.replaceChildren(...nodes.flat(3).filter(Boolean));
  refocus(main, key, at);
}

function refocus(where, key, at) {
  if (!key) return;
  const again = where.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!again) return;
  again.focus({ preventScroll: true });
  if (typeof at === "number" && again.setSelectionRange && again.type === "search") again.setSelectionRange(at, at);
}

function live(text, bad) {
  $("live").textContent = text;
  $("live").classList.toggle("bad", Boolean(bad));
}

// -- lists -----------------------------------------------------------------------------------------------

function listView(kind) {
  const own = turn;
  const wanted = { q: "", state: "", sort: "newest", limit: 100 };
  let seen = "";
  let body = null;
  const search = h("input", { type: "search", placeholder: `Search ${kind}`, "aria-label": `Search ${kind}`, "data-key": "search", oninput: later(() => { wanted.q = search.value; wanted.limit = 100; refresh(); }) });
  const order = h("select", { "data-key": "sort", onchange: () => { wanted.sort = order.value; refresh(); } },
    [["newest", "newest first"], ["oldest", "oldest first"], ["name", "by name"], ["state", "by state"], ["done", "least done first"]].map(([v, t]) => h("option", { value: v }, t)));
  const chips = h("div", { class: "chipset", role: "group", "aria-label": "State" });
  const holder = h("div", {});

  async function refresh() {
    const found = await ask("/api/" + kind, wanted);
    if (own !== turn) return;
    const text = JSON.stringify(found);
    if (text === seen) return;
    seen = text;
    const key = document.activeElement.dataset ? document.activeElement.dataset.key : "";
    chips.replaceChildren(...[["", found.all], ...Object.entries(found.states).sort()].map(([name, count]) =>
      h("button", { type: "button", "data-key": "state " + name, "aria-pressed": String(wanted.state === name), onclick: () => { wanted.state = name; refresh(); } }, `${name || "all"} ${count}`)));
    const empty = !found.whole ? h("p", { class: "soft" }, found.unread ? `Reading the root: ${found.unread.toLocaleString("en")} ${kind} are still to come ...` : "Reading the root ...")
      : !found.all ? h("p", {}, kind === "runs" ? ["No runs here yet: ", h("code", {}, "diffadapt run quickstart"), " makes one."] : ["No sweeps here yet: ", h("code", {}, "diffadapt sweep"), " makes one."])
      : !found.rows.length ? h("p", { class: "soft" }, "Nothing fits the search.") : null;
    body = h("tbody", {}, found.rows.map((r) => kind === "runs" ? runRow(r) : sweepRow(r)));
    const heads = kind === "runs" ? ["", "run", "state", "shards", "result", "last written"] : ["sweep", "state", "trials", "last written"];
    holder.replaceChildren(...[
      found.error ? problem(found.error) : null, empty,
      found.rows.length ? h("table", { class: "rows" }, h("thead", {}, h("tr", {}, heads.map((t) => h("th", { scope: "col" }, t)))), body) : null,
      found.total > found.rows.length ? h("div", { class: "more" }, h("button", { type: "button", "data-key": "more", onclick: () => { wanted.limit = Math.min(1000, wanted.limit + 200); refresh(); } }, "Show more"), h("span", { class: "soft" }, `${found.rows.length} of ${plural(found.total, kind.slice(0, -1))}`)) : null,
    ].filter(Boolean));
    refocus($("main"), key);
  }

  put(h("div", { class: "title" }, h("h1", {}, kind === "runs" ? "Runs" : "Sweeps")),
    h("div", { class: "tools" }, search, h("label", {}, "order", order)), h("div", { class: "tools" }, chips), h("section", {}, holder));
  return { refresh, every: EVERY, search, rows: () => [...holder.querySelectorAll("tbody a[data-key]")] };
}

function progressCell(r, what) {
  return h("td", { class: "prog" }, bar(r.total ? r.done / r.total : 0, `${r.done} of ${r.total} ${what}`),
    h("span", { class: "soft" }, `${r.done} / ${r.total}`, r.left ? ` · ${r.left} left of this stage` : "", r.quarantined ? ` · ${r.quarantined} quarantined` : ""));
}

function runRow(r) {
  const go = link("run", r.name, "progress");
  const box = h("input", { type: "checkbox", "aria-label": `Compare ${r.name}`, "data-key": "pick " + r.name, checked: taken.includes(r.name), onclick: (e) => { e.stopPropagation(); take(r.name); } });
  return h("tr", { onclick: (e) => { if (e.target.closest("a, input, td.pick") === null) location.hash = go; } },
    h("td", { class: "pick" }, box), h("td", { class: "name" }, h("a", { href: go, "data-key": "row " + r.name, "data-run": r.name }, r.name)),
    h("td", { class: "st" }, state(r)), progressCell(r, "shards"),
    h("td", { class: "res" }, r.mean !== undefined ? [h("b", {}, r.mean.toFixed(1)), ` ${r.method}`] : r.error ? h("span", { class: "bad" }, r.error.slice(0, 90)) : ""),
    h("td", { class: "when soft", title: whenFull(r.updated) }, when(r.updated)));
}

function sweepRow(r) {
  const go = link("sweep", r.name, "trials");
  return h("tr", { onclick: (e) => { if (e.target.closest("a") === null) location.hash = go; } },
    h("td", { class: "name" }, h("a", { href: go, "data-key": "row " + r.name }, r.name)), h("td", { class: "st" }, state(r)), progressCell(r, "trials and shared shards"),
    h("td", { class: "when soft", title: whenFull(r.updated) }, when(r.updated)));
}

function later(what) {
  let waiting = 0;
  return () => { clearTimeout(waiting); waiting = setTimeout(() => attempt(what), 200); };
}

async function attempt(what) {
  try { await what(); } catch (error) { live(error.message, true); }
}

// -- comparison ------------------------------------------------------------------------------------------

function take(name) {
  const at = taken.indexOf(name);
  if (at < 0) taken.push(name); else taken.splice(at, 1);
  tray();
  for (const box of document.querySelectorAll(".pick input")) box.checked = taken.includes(box.dataset.key.slice(5));
}

function tray() {
  const box = $("tray");
  box.hidden = !taken.length || location.hash.startsWith("#/compare");
  box.replaceChildren(h("span", {}, taken.length === 1 ? `${taken[0]} and ...` : `${taken.length} runs taken`),
    h("button", { type: "button", class: "main", disabled: taken.length < 2, onclick: compare }, "Compare"),
    h("button", { type: "button", onclick: () => { taken.length = 0; tray(); for (const b of document.querySelectorAll(".pick input")) b.checked = false; } }, "Clear"));
}

function compare() {
  if (taken.length > 1) location.hash = link("compare", ...taken);
}

function compareView(refs) {
  const own = turn;
  put(h("p", { class: "soft" }, "Comparing ..."));
  async function refresh() {
    const found = await ask("/api/compare", { run: refs });
    if (own !== turn) return;
    const spread = found.rows.some((r) => r.spread);
    const heads = ["method", ...found.labels, ...found.labels.slice(1).map((l) => `${l} - ${found.labels[0]}`), ...(spread ? ["s.d."] : [])];
    const signed = (d) => h("td", { class: d.startsWith("+") ? "up" : d.startsWith("-") ? "down" : "" }, d);
    const differs = (title, entries) => entries.length ? h("section", {}, h("h2", {}, title), table(["name", ...found.labels], entries.map(([n, v]) => [h("td", { class: "mono" }, n), ...v.map((x) => h("td", { class: "mono" }, x))]))) : null;
    put(h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / comparison"),
      h("div", { class: "title" }, h("h1", {}, "Side by side")),
      h("dl", { class: "chips" }, found.names.map((n, i) => h("div", {}, h("dt", {}, found.labels[i]), h("dd", {}, h("a", { href: link("run", refs[i], "scores") }, n))))),
      h("section", {}, h("h2", {}, `Scores: ${found.title}`), table(heads, found.rows.map((r) => h("tr", {}, h("th", { scope: "row" }, r.method + (r.control ? " (control)" : "")), r.means.map((m) => h("td", {}, m)), r.deltas.map(signed), spread ? h("td", {}, r.spread) : null)), "nums"),
        h("ul", { class: "legend-notes" }, found.remarks.map((r) => h("li", {}, r)))),
      h("section", {}, h("h2", {}, "Means"), h("div", { class: "pair stack" }, found.charts.map((c, i) => h("div", {}, h("h3", {}, `${found.labels[i]}  ${found.names[i]}`), drawn(c[1]))))),
      differs("What was asked for differently", found.fields), differs("Versions", found.versions), await comparedPictures(refs, found.labels, own));
  }
  return { refresh, every: 0 };
}

async function comparedPictures(refs, labels, own) {
  const all = await Promise.all(refs.map((run) => ask("/api/galleries", { run }).catch(() => ({ stages: [], classes: [] }))));
  const names = all[0].stages.map((s) => s.stage).filter((n) => all.every((g) => g.stages.some((s) => s.stage === n)));
  if (!names.length) return null;
  const choose = h("select", { "data-key": "compared stage", onchange: () => attempt(fill) }, names.map((n) => h("option", { value: n }, n)));
  choose.value = names.includes("aligned") ? "aligned" : names[0];
  const text = h("input", { type: "search", placeholder: "Part of a key", "aria-label": "Part of a key", oninput: later(fill) });
  const pick = h("select", { "aria-label": "Class", onchange: () => attempt(fill), hidden: !all[0].classes.length }, h("option", { value: "" }, "all classes"), all[0].classes.map((c, i) => h("option", { value: String(i) }, c)));
  const place = h("div", { class: "pair" });
  const about = h("p", { class: "soft" });
  async function fill() {
    const pages = await Promise.all(refs.map((run) => ask("/api/pictures", { run, stage: choose.value, order: "planned", q: text.value, class: pick.value, limit: 240 })));
    if (own !== turn) return;
    const keyed = pages.map((p) => new Map(p.pictures.map((x) => [x.key, x])));
    const common = [...keyed[0].keys()].filter((k) => keyed.every((m) => m.has(k)));
    const many = Math.min(24, common.length); // evenly apart, so that all classes come
    const keys = Array.from({ length: many }, (_, i) => common[Math.floor(i * common.length / many)]);
    const rows = keyed.map((m, i) => keys.length ? keys.map((k) => m.get(k)) : pages[i].pictures.slice(0, 24));
    place.replaceChildren(...rows.map((row, i) => h("div", {}, h("h3", {}, labels[i]), h("div", { class: "grid" }, row.map((x, n) => card(refs[i], choose.value, x, () => [row, n]))))));
    about.textContent = keys.length ? "The same images in both, by their keys." : "No key is in the first shards of all: the first pictures of each.";
  }
  await fill();
  return h("section", {}, h("h2", {}, "Pictures"), h("div", { class: "tools" }, h("label", {}, "stage", choose), pick, text), about, place);
}

// -- a run -----------------------------------------------------------------------------------------------

const TABS = [["progress", "Progress"], ["scores", "Scores"], ["pictures", "Pictures"], ["apart", "Left out"], ["prompts", "Prompts"], ["logs", "Logs"], ["settings", "Settings"], ["report", "Report"]];

function runView(ref, tab, given) {
  const own = turn;
  const [sweep, trial] = ref.includes(":") ? ref.split(":") : ["", ""];
  const head = h("div", {});
  const body = h("div", { id: "tab" }, h("p", { class: "soft" }, "Reading ..."));
  let shown = null;
  let seen = "";
  put(h("p", { class: "crumbs" }, sweep ? [h("a", { href: "#/sweeps" }, "Sweeps"), " / ", h("a", { href: link("sweep", sweep, "trials") }, sweep)] : h("a", { href: "#/runs" }, "Runs"), ` / ${trial || ref}`), head, body);

  async function refresh() {
    const run = await ask("/api/run", { run: ref });
    if (own !== turn) return;
    self.every = run.state === "running" ? EVERY : SLOW;
    const text = JSON.stringify(run);
    if (text !== seen) {
      const key = document.activeElement.dataset ? document.activeElement.dataset.key : "";
      head.replaceChildren(...runHead(run, ref, tab));
      refocus(head, key);
    }
    if (!shown) { body.replaceChildren(); shown = tabs[tab] ? tabs[tab](ref, body, given, own) : tabs.progress(ref, body, given, own); }
    await shown(run, text !== seen);
    seen = text;
  }
  const self = { refresh, every: EVERY, tabs: TABS.map(([n]) => link("run", ref, n)), up: sweep ? link("sweep", sweep, "trials") : "#/runs", rows: () => [...body.querySelectorAll(".pic")], run: sweep ? "" : ref };
  return self;
}

function runHead(run, ref, tab) {
  const chip = (name, value) => value ? h("div", {}, h("dt", {}, name), h("dd", {}, value)) : null;
  return [
    h("div", { class: "title" }, h("h1", {}, run.name), state(run), h("button", { type: "button", "data-key": "take", onclick: () => take(ref), hidden: ref.includes(":") }, "Compare with ...")),
    bar(run.total ? run.done / run.total : 0, `${run.done} of ${run.total} shards`),
    h("dl", { class: "chips" }, chip("shards", `${run.done} of ${run.total}`), chip("left of the stages under way", run.left), chip(run.state === "running" ? "so far" : "took", run.took), chip("quarantined", run.quarantined ? String(run.quarantined) : ""), chip("written", when(run.updated)), chip("job", run.job)),
    h("nav", { class: "tabs", "aria-label": "Parts of the run" }, TABS.map(([name, title], i) => h("a", { href: link("run", ref, name), "data-key": "tab " + name, "aria-current": name === tab ? "page" : null }, title, " ", h("kbd", { "aria-hidden": "true" }, i + 1)))),
  ];
}

const tabs = {
  progress: (ref, body) => (run, changed) => {
    if (!changed && body.childElementCount) return;
    const key = document.activeElement.dataset ? document.activeElement.dataset.key : "";
    body.replaceChildren(...[
      run.error ? h("section", { class: "problem" }, h("h2", {}, run.state === "failed" ? "It failed" : "Its last word"), h("p", {}, run.error)) : null,
      run.state === "interrupted" ? h("section", { class: "problem" }, h("p", {}, "The process is gone: the same command goes on from what is finished.")) : null,
      run.warnings.length ? h("section", { class: "warnings" }, h("h2", {}, "Warnings"), h("ul", {}, run.warnings.map((w) => h("li", {}, w)))) : null,
      h("section", {}, h("h2", {}, "Stages"), run.stages.length ? h("div", { class: "stages" }, run.stages.map((s) => stage(s, ref, run))) : h("p", { class: "soft" }, "Nothing is recorded yet.")),
    ].filter(Boolean));
    refocus(body, key);
  },
  scores: (ref, body, given, own) => {
    let at = -1;
    return async (run) => {
      if (at === run.updated || (at >= 0 && run.state === "running")) return;
      if (!run.has.scores) { body.replaceChildren(h("section", {}, h("p", {}, run.state === "running" ? "Scores are written when every stage is done." : "The run has no scores: it did not come to its end, or its target has no labels."))); return; }
      const found = await ask("/api/scores", { run: ref });
      if (own !== turn) return;
      at = run.updated;
      body.replaceChildren(...scores(found, ref));
    };
  },
  pictures: (ref, body, given, own) => pictures(ref, body, given, own),
  apart: (ref, body, given, own) => apart(ref, body, own),
  prompts: (ref, body, given, own) => prompts(ref, body, own),
  logs: (ref, body, given, own) => logs(ref, body, own),
  settings: (ref, body, given, own) => {
    let done = false;
    return async () => {
      if (done) return;
      const s = await ask("/api/settings", { run: ref });
      if (own !== turn) return;
      done = true;
      const fields = (rows) => h("table", { class: "text fields" }, h("tbody", {}, rows.map(([n, v]) => h("tr", {}, h("td", { class: "mono" }, n), h("td", { class: "mono" }, v)))));
      const fold = (title, inner, open) => h("details", { open: Boolean(open) }, h("summary", {}, title), inner);
      body.replaceChildren(
        h("section", {}, h("h2", {}, "To make it again"), h("pre", {}, h("code", {}, s.command)), s.whole ? null : h("p", { class: "soft" }, "Fields that were changed on the command line have to be given again."), h("p", { class: "soft mono" }, s.folder)),
        h("section", {}, h("h2", {}, "Settings"), s.settings.map(([name, rows]) => fold(name, fields(rows), name === "recipe"))),
        h("section", {}, h("h2", {}, "How it was made"),
          fold("Stages", table(["stage", "kind", "reads", "shards", "items", "quarantined", "digest"], s.stages.map((x) => [x.name, x.kind, x.inputs, String(x.shards), String(x.items), String(x.quarantined), h("td", { class: "mono" }, x.family)]))),
          fold("Weights", s.weights.length ? table(["weights", "revision", "used by"], s.weights) : h("p", { class: "soft" }, "None from outside.")),
          fold("Versions", fields([...s.versions, ...(s.runner ? [["runner", s.runner]] : []), ...s.batch_sizes.map(([n, v]) => [`batch size, ${n}`, v])]))));
    };
  },
  report: (ref, body) => {
    let had = null;
    return (run) => {
      if (had === run.has.report) return;
      had = run.has.report;
      const source = address("/report", { run: ref });
      body.replaceChildren(...(had
        ? [h("p", { class: "more" }, h("a", { href: source, target: "_blank", rel: "noopener" }, "Open it alone")), h("iframe", { class: "report", sandbox: "", src: source, title: `Report of ${run.name}` })]
        : [h("section", {}, h("p", {}, "The report is written when the run ends; ", h("code", {}, `diffadapt report ${run.name}`), " writes it anew."))]));
    };
  },
};

function stage(s, ref, run) {
  const facts = [];
  if (s.steps) facts.push(`step ${s.step} of ${s.steps}`);
  facts.push(`${s.done} / ${s.shards} shards`);
  if (s.hits) facts.push(`${s.hits} from the store`);
  if (s.rate && s.done < s.shards) facts.push(`${s.rate.toFixed(1)} images/s`);
  if (s.note) facts.push(s.note);
  if (s.left) facts.push(`${s.left} left`);
  const going = run.state === "running" && s.share > 0 && s.share < 1;
  return h("div", { class: "stage" + (going ? " going" : ""), "data-stage": s.name },
    h("span", { class: "name" }, s.name, " ", h("span", { class: "kind" }, s.kind && s.kind !== s.name ? s.kind : "")), bar(s.share, `${s.name}: ${Math.round(100 * s.share)} percent`),
    h("span", { class: "facts" }, facts.join(" · "), s.quarantined ? [" · ", h("a", { class: "bad", href: link("run", ref, "apart") }, `${s.quarantined} quarantined`)] : "", s.failed ? h("span", { class: "bad" }, ` · ${s.failed} failed`) : ""));
}

function scores(found, ref) {
  const out = [];
  if (found.head.what) out.push(h("p", { class: "lead" }, found.head.what));
  if (found.head.tiles && found.head.tiles.length) out.push(h("div", { class: "tiles" }, found.head.tiles.map((t) => h("div", { class: "tile" }, h("span", {}, t.name), h("b", {}, t.value, " ", h("small", {}, t.error)), t.step ? h("span", {}, t.step) : null))));
  for (const t of found.tables) {
    const heads = ["method", "mean", ...(t.has_deviation ? ["s.d."] : []), ...(t.has_error ? ["s.e."] : []), ...(t.has_delta ? [`to ${t.reference}`] : []), ...(t.has_clean ? ["clean"] : []), "images"];
    const row = (r) => h("tr", { class: r.best ? "best" : null }, h("th", { scope: "row" }, r.method), h("td", { class: "mean" }, r.mean), t.has_deviation ? h("td", {}, r.deviation) : null, t.has_error ? h("td", {}, r.error) : null,
      t.has_delta ? h("td", { class: r.delta_sign > 0 ? "up" : r.delta_sign < 0 ? "down" : "" }, r.delta) : null, t.has_clean ? h("td", {}, r.clean) : null, h("td", {}, r.images),
      t.groups.length ? r.cells.map((c) => h("td", { class: "cell" + (c.best ? " best" : ""), title: c.title }, c.text)) : null);
    const controls = t.rows.filter((r) => r.control);
    out.push(h("section", {}, h("h2", {}, `Scores: ${t.metric}`),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "score table" }, h("table", { class: "score" },
        h("thead", {}, h("tr", {}, heads.map((x) => h("th", { scope: "col" }, x)), t.groups.map((g) => h("th", { scope: "col", class: "turn" }, h("span", {}, g))))),
        h("tbody", {}, t.rows.filter((r) => !r.control).map(row), controls.length ? h("tr", { class: "group" }, h("th", { colspan: String(heads.length + t.groups.length) }, "controls")) : null, controls.map(row)))),
      h("ul", { class: "legend-notes" }, t.legend.map((x) => h("li", {}, x)), t.rows.filter((r) => r.note).map((r) => h("li", {}, h("b", {}, r.method), `: ${r.note}`)))));
    if (t.findings.length) out.push(h("section", {}, h("h2", {}, "What the rows show"), h("ul", { class: "findings" }, t.findings.map((f) => h("li", { class: f.startsWith("Remark:") ? "remark" : null }, f)))));
    const swatch = ([i, name]) => h("li", {}, drawn(`<svg viewBox="0 0 11 11" aria-hidden="true"><rect width="11" height="11" rx="2" class="s${Number(i)}"/></svg>`), name);
    out.push(h("section", {}, h("h2", {}, `Charts: ${t.metric}`), h("h3", {}, "Mean of each method"), chart(t.bars, "bars"),
      t.group_bars[0] ? [h("h3", {}, `Each of the ${t.groups.length} ${t.noun}`), h("ul", { class: "swatches" }, t.colours.map(swatch)), chart(t.group_bars)] : null));
  }
  if (found.figures.length) out.push(h("section", {}, h("h2", {}, "Figures"), found.figures.map((f) => {
    const source = address("/figure", { run: ref, name: f.image });
    return h("figure", {}, h("h3", {}, f.title), h("a", { href: source, target: "_blank", rel: "noopener" }, h("img", { src: source, alt: f.alt || f.title, loading: "lazy" })), h("figcaption", {}, f.caption));
  })));
  return out;
}

// -- pictures --------------------------------------------------------------------------------------------

const source = (ref, stage, p, more) => address("/image", { run: ref, stage, shard: p.shard, row: p.row, ...more });

function tiny(event) { // small pictures are enlarged without smoothing
  if (event.target.naturalWidth && event.target.naturalWidth <= 64) event.target.classList.add("tiny");
}

function card(ref, stage, p, among, fresh) { // among: (the pictures around it, its place) when it is opened
  return h("button", { type: "button", class: "pic" + (p.kept === false ? " out" : "") + (fresh ? " new" : ""), title: p.key, "data-key": `pic ${stage} ${p.shard} ${p.row}`, onclick: () => viewer(ref, stage, ...among()) },
    h("img", { src: source(ref, stage, p, { small: 1 }), alt: `${p.class || "picture"} ${p.key}`, loading: "lazy", onload: tiny }),
    h("span", {}, p.class || p.key), p.reason ? h("span", { class: "why" }, p.reason) : null);
}

function viewer(ref, stage, all, start) {
  let n = start;
  const box = $("viewer");
  const show = () => {
    const p = all[n];
    const fact = (name, value) => value !== undefined && value !== "" && value !== null ? [h("dt", {}, name), h("dd", { class: name === "key" || name === "shard" ? "mono" : null }, String(value))] : [];
    const others = h("div", { class: "views" });
    box.replaceChildren(
      h("div", { class: "views" }, h("img", { src: source(ref, stage, p), alt: p.key, onload: tiny }), p.annotation ? h("img", { src: source(ref, stage, p, { column: "annotation" }), alt: "Its label map, a colour for each class number", onload: tiny }) : null),
      others,
      h("dl", { class: "facts" }, fact("key", p.key), fact("class", p.class || p.label), fact("stage", stage), fact("prompt", p.prompt),
        p.kept === undefined ? [] : fact("training", p.kept ? "sees it" : `does not see it: ${p.reason}`), fact("CLIP's probability of its class", p.clip), fact("seed", p.seed), fact("shard", p.shard), fact("committed", whenFull(p.when))),
      h("div", { class: "tools" }, h("button", { type: "button", disabled: n === 0, onclick: () => step(-1) }, "← Previous"), h("button", { type: "button", disabled: n === all.length - 1, onclick: () => step(1) }, "Next →"),
        h("button", { type: "button", onclick: (e) => { e.target.disabled = true; attempt(() => elsewhere(ref, stage, p, others)); } }, "In other stages"), h("button", { type: "button", onclick: () => box.close() }, "Close")));
  };
  const step = (by) => { if (all[n + by]) { n += by; show(); } };
  box.onkeydown = (e) => {
    if (e.key === "ArrowRight" || e.key === "j") step(1);
    else if (e.key === "ArrowLeft" || e.key === "k") step(-1);
    else return;
    e.preventDefault();
  };
  show();
  if (!box.open) box.showModal();
}

async function elsewhere(ref, stage, p, place) { // the same key in the run's other stages
  const galleries = await ask("/api/galleries", { run: ref });
  const ending = p.key;
  let found = 0;
  for (const other of galleries.stages.map((s) => s.stage).filter((s) => s !== stage)) {
    let after = "";
    for (let i = 0; i < 30; i++) {
      const page = await ask("/api/pictures", { run: ref, stage: other, order: "planned", q: ending, limit: 4, after });
      const same = page.pictures.find((x) => x.key === ending);
      if (same) {
        found++;
        place.append(h("figure", {}, h("img", { src: source(ref, other, same), alt: `${ending} in ${other}`, onload: tiny }), h("figcaption", {}, other)));
        break;
      }
      after = page.next;
      if (!after) break;
    }
  }
  if (!found) place.append(h("p", { class: "soft" }, "No other stage has a picture of this key."));
}

function pictures(ref, body, given, own) {
  const wanted = { stage: given.stage || "", order: given.order || "", class: "", only: given.only || "", q: "" };
  let all = [], next = "", known = new Set(), sets = "", first = true, classes = [], busy = false, judged = new Set();
  const choose = h("select", { "data-key": "stage", "aria-label": "Stage", onchange: () => { wanted.stage = choose.value; only.hidden = !judged.has(wanted.stage); if (only.hidden) wanted.only = only.value = ""; start(); } });
  const order = h("select", { "data-key": "order", "aria-label": "Order", onchange: () => { wanted.order = order.value; start(); } }, [["sample", "a sample of all shards"], ["newest", "newest first"], ["planned", "as planned"]].map(([v, t]) => h("option", { value: v }, t)));
  const pick = h("select", { "data-key": "class", "aria-label": "Class", onchange: () => { wanted.class = pick.value; start(); } });
  const only = h("select", { "data-key": "only", "aria-label": "Filters", onchange: () => { wanted.only = only.value; start(); } }, [["", "kept and left out"], ["kept", "kept"], ["out", "left out"]].map(([v, t]) => h("option", { value: v }, t)));
  const text = h("input", { type: "search", "data-key": "text", placeholder: "Part of a key", "aria-label": "Part of a key", oninput: later(() => { wanted.q = text.value; return start(); }) });
  const grid = h("div", { class: "grid" });
  const more = h("button", { type: "button", "data-key": "more", onclick: () => attempt(() => load(true)) }, "More");
  const about = h("p", { class: "soft", role: "status" });
  const start = () => attempt(() => { all = []; next = ""; known = new Set(); first = true; grid.replaceChildren(); return load(false); });

  async function load(on) {
    if (!wanted.stage || busy) return;
    busy = true;
    try {
      let page = null;
      for (let i = 0; i < 40; i++) { // a filter may look through many shards; each answer is short
        page = await ask("/api/pictures", { run: ref, ...wanted, after: on ? next : "" });
        if (own !== turn) return;
        next = page.next;
        const fresh = page.pictures.filter((p) => !known.has(p.shard + p.row));
        if (!on && !first && fresh.length) all = [...fresh, ...all]; else all.push(...fresh);
        fresh.forEach((p) => known.add(p.shard + p.row));
        const node = (p) => card(ref, wanted.stage, p, () => [all, all.indexOf(p)], !first && !on);
        if (!on && !first && fresh.length) {
          for (const old of grid.querySelectorAll(".new")) old.classList.remove("new");
          for (const gone of [...grid.children].slice(MOST)) gone.remove(); // the pictures stay reachable by More
        }
        if (!on && !first) grid.prepend(...fresh.map(node)); else grid.append(...fresh.map(node));
        on = on || Boolean(wanted.only || wanted.q || wanted.class !== "");
        if (all.length >= 24 || !next || fresh.length || !(wanted.only || wanted.q || wanted.class !== "")) break;
      }
      first = false;
      more.hidden = !next;
      const out = page.left_out.map(([why, n]) => `${n} ${why}`).join(", ");
      about.textContent = [`${page.shards} of ${plural(page.planned, "shard")} committed`, page.images ? plural(page.images, "picture") : "", page.judge ? (out ? `left out by ${page.judge}: ${out}` : `${page.judge} left nothing out`) : "", !all.length ? (page.shards ? "no picture fits" : "no picture yet") : ""].filter(Boolean).join(" · ");
    } finally { busy = false; }
  }

  return async (run) => {
    if (!sets || run.state === "running") {
      const found = await ask("/api/galleries", { run: ref });
      if (own !== turn) return;
      const now = found.stages.map((s) => s.stage).join(" ");
      if (!now) {
        body.replaceChildren(h("section", {}, h("p", {}, !found.told ? "Which stages this run has is not recorded: it was begun by an earlier version and has not ended." : run.state === "running" ? "No pictures yet: they appear here as soon as the first shard is committed." : "No stage of this run stores pictures."),
          found.in_place.length ? h("p", { class: "soft" }, `${found.in_place.join(", ")} is read where it lies, outside the root, and is therefore not shown.`) : null));
        return;
      }
      if (now !== sets) {
        const had = Boolean(sets);
        sets = now;
        classes = found.classes;
        if (!wanted.stage || !found.stages.some((s) => s.stage === wanted.stage)) wanted.stage = (found.stages.find((s) => ["aligned", "synth", "transferred"].includes(s.stage)) || found.stages[0]).stage;
        if (!wanted.order) wanted.order = run.state === "running" ? "newest" : "sample";
        choose.replaceChildren(...found.stages.map((s) => h("option", { value: s.stage }, s.stage)));
        choose.value = wanted.stage;
        order.value = wanted.order;
        only.value = wanted.only;
        pick.replaceChildren(h("option", { value: "" }, "all classes"), ...classes.map((c, i) => h("option", { value: String(i) }, c)));
        pick.hidden = !classes.length;
        judged = new Set(found.stages.filter((s) => s.judged).map((s) => s.stage));
        only.hidden = !judged.has(wanted.stage);
        if (!had) {
          body.replaceChildren(h("section", {}, h("div", { class: "tools" }, choose, order, pick, only, text), about, grid, h("div", { class: "more" }, more)));
          await load(false);
          return;
        }
      }
    }
    if (run.state === "running" && wanted.order === "newest" && !wanted.q && wanted.class === "" && !wanted.only) await load(false);
  };
}

function apart(ref, body, own) {
  let seen = "", count = 100;
  const place = h("div", {});
  const filtered = h("div", {});
  body.replaceChildren(filtered, place);
  let judged = "";
  return async (run) => {
    const found = await ask("/api/quarantine", { run: ref });
    const galleries = await ask("/api/galleries", { run: ref });
    if (own !== turn) return;
    const names = galleries.stages.filter((s) => s.judged).map((s) => s.stage);
    const key = names.join(" ") + (run.state === "running" ? "" : " ended");
    if (key !== judged) {
      judged = key;
      const parts = [];
      for (const name of names) {
        const p = await ask("/api/pictures", { run: ref, stage: name, only: "out", order: "planned", limit: 24 });
        if (own !== turn) return;
        parts.push(h("section", {}, h("h2", {}, `Left out of training: ${name}`),
          !p.judge ? h("p", { class: "soft" }, "Not judged yet.") : !p.left_out.length ? h("p", { class: "soft" }, `${p.judge} left nothing out.`) : [
            table(["reason", "pictures"], p.left_out.map(([w, n]) => [w, String(n)]), "nums"),
            h("div", { class: "grid spaced" }, p.pictures.map((x, i) => card(ref, name, x, () => [p.pictures, i]))),
            h("p", { class: "more" }, h("a", { href: link("run", ref, "pictures") + "?" + new URLSearchParams({ stage: name, only: "out", order: "planned" }) }, "All of them"))]));
      }
      filtered.replaceChildren(...parts);
    }
    const text = JSON.stringify(found);
    if (text === seen) return;
    seen = text;
    const rows = h("tbody", {});
    const fill = (items) => rows.append(...items.map((i) => h("tr", {}, h("td", { title: i.stages.join(", ") }, i.stages.length > 3 ? `${i.stages.slice(0, 2).join(", ")} and ${i.stages.length - 2} more` : i.stages.join(", ")), h("td", { class: "mono" }, i.key), h("td", {}, i.reason))));
    fill(found.items);
    const more = h("button", { type: "button", hidden: found.total <= found.items.length, onclick: () => attempt(async () => {
      const page = await ask("/api/quarantine", { run: ref, offset: count });
      count += page.items.length; fill(page.items); more.hidden = count >= page.total;
    }) }, "More");
    place.replaceChildren(h("section", {}, h("h2", {}, "Quarantine"),
      found.total ? [h("p", {}, `${plural(found.total, "item")} could not be used${found.whole ? "" : " so far (not all shards are read yet)"}.`),
        h("div", { class: "scroll" }, h("table", { class: "text" }, h("thead", {}, h("tr", {}, ["stages", "item", "reason"].map((t) => h("th", { scope: "col" }, t)))), rows)), h("div", { class: "more" }, more)]
        : h("p", { class: "soft" }, "No item was quarantined.")));
  };
}

function prompts(ref, body, own) {
  const wanted = { q: "", class: "", offset: 0 };
  let ready = false, classes = [];
  const rows = h("tbody", {});
  const about = h("p", { class: "soft", role: "status" });
  const text = h("input", { type: "search", placeholder: "Words of a prompt", "aria-label": "Words of a prompt", "data-key": "text", oninput: later(() => { wanted.q = text.value; wanted.offset = 0; return fill(); }) });
  const pick = h("select", { "aria-label": "Class", "data-key": "class", onchange: () => attempt(() => { wanted.class = pick.value; wanted.offset = 0; return fill(); }) });
  const more = h("button", { type: "button", onclick: () => attempt(fill) }, "More");
  async function fill() {
    const found = await ask("/api/prompts", { run: ref, ...wanted });
    if (own !== turn) return;
    if (!wanted.offset) rows.replaceChildren();
    if (!classes.length) { classes = found.classes; pick.replaceChildren(h("option", { value: "" }, "all classes"), ...classes.map((c, i) => h("option", { value: String(i) }, c))); }
    rows.append(...found.prompts.map((p) => h("tr", {}, h("td", {}, p.class), h("td", {}, p.prompt), h("td", { class: "soft" }, p.source))));
    wanted.offset += found.prompts.length;
    more.hidden = wanted.offset >= found.total;
    about.textContent = `${plural(found.total, "prompt")} · ` + Object.entries(found.sources).map(([s, n]) => `${n} by ${s}`).join(", ");
  }
  return async (run) => {
    if (!run.has.prompts) { body.replaceChildren(h("section", {}, h("p", {}, "This run writes no prompts: its generator takes classes, or it makes no images."))); return; }
    if (ready && run.state !== "running") return;
    if (!ready) body.replaceChildren(h("section", {}, h("div", { class: "tools" }, text, pick), about, h("div", { class: "scroll" }, h("table", { class: "text" }, h("thead", {}, h("tr", {}, ["class", "prompt", "written by"].map((t) => h("th", { scope: "col" }, t)))), rows)), h("div", { class: "more" }, more)));
    if (!ready || !rows.childElementCount) { ready = true; wanted.offset = 0; await fill(); }
  };
}

function logs(ref, body, own) {
  let seen = "", fit = "", drawnAt = "";
  const curves = h("div", { class: "curves" });
  const choose = h("select", { "aria-label": "Training", "data-key": "fit", onchange: () => attempt(() => { fit = choose.value; drawnAt = ""; return draw(); }) });
  const place = h("div", {});
  const training = h("section", { hidden: true }, h("h2", {}, "Curves of the trainings"), h("div", { class: "tools" }, choose), curves);
  body.replaceChildren(training, place);
  async function draw() {
    const found = await ask("/api/curves", { run: ref, fit });
    const text = JSON.stringify(found);
    if (own !== turn || text === drawnAt) return;
    drawnAt = text;
    curves.replaceChildren(...found.curves.map((c) => h("div", {}, h("h3", {}, c.name, " ", h("span", { class: "soft" }, `${Number(c.last).toPrecision(4)} at step ${c.step}`)), drawn(c.svg[1]))));
  }
  return async (run) => {
    const found = await ask("/api/logs", { run: ref });
    if (own !== turn) return;
    if (found.fits.length) {
      training.hidden = false;
      if (choose.options.length !== found.fits.length) { choose.replaceChildren(...found.fits.map((f) => h("option", { value: f }, f))); fit = fit || found.fits[0]; choose.value = fit; drawnAt = ""; }
      if (!drawnAt || run.state === "running") await draw();
    }
    const text = JSON.stringify(found);
    if (text === seen || own !== turn) return;
    seen = text;
    place.replaceChildren(...[
      found.error ? h("section", { class: "problem" }, h("h2", {}, "Its error"), h("p", {}, found.error)) : null,
      found.errors ? h("section", {}, h("h2", {}, "errors.log"), h("pre", { class: "log", tabindex: 0 }, found.errors), found.cut ? h("p", { class: "soft" }, "The rest is in the file.") : null) : null,
      h("section", {}, h("h2", {}, "What was said"), found.warnings.length ? h("ul", {}, found.warnings.map((w) => h("li", {}, w))) : h("p", { class: "soft" }, "No warning.")),
      h("section", {}, h("h2", {}, "Recorded"), h("pre", { class: "log", tabindex: 0 }, found.recorded), h("p", { class: "soft" }, `Files: ${found.files.join(", ")}`)),
    ].filter(Boolean));
  };
}

// -- a sweep ---------------------------------------------------------------------------------------------

function sweepView(name, tab) {
  const own = turn;
  let seen = "";
  put(h("p", { class: "soft" }, "Reading ..."));
  async function refresh() {
    const s = await ask("/api/sweep", { sweep: name });
    if (own !== turn) return;
    self.every = s.state === "running" ? EVERY : SLOW;
    const text = JSON.stringify(s);
    if (text === seen) return;
    seen = text;
    const chip = (n, v) => v ? h("div", {}, h("dt", {}, n), h("dd", {}, v)) : null;
    const nav = [["trials", "Trials"], ["report", "Report"]].map(([n, t], i) => h("a", { href: link("sweep", name, n), "data-key": "tab " + n, "aria-current": n === tab ? "page" : null }, t, " ", h("kbd", { "aria-hidden": "true" }, i + 1)));
    const ranked = s.settings.some((x) => x.rank);
    const trialLink = (id) => h("a", { href: link("run", `${name}:${id}`, "progress"), "data-key": "row " + id }, id);
    const source = address("/report", { sweep: name });
    put(h("p", { class: "crumbs" }, h("a", { href: "#/sweeps" }, "Sweeps"), ` / ${name}`),
      h("div", { class: "title" }, h("h1", {}, s.space), state(s)), bar(s.planned ? s.ended / s.planned : 0, `${s.ended} of ${s.planned} trials`),
      h("dl", { class: "chips" }, chip("sweep", s.name), chip("trials", s.planned ? `${s.ended} of ${s.planned}` : String(s.ended)), chip("left of this stage", s.left), chip("recipe", s.recipes.join(", ")), chip("searcher", s.searcher), chip("objective", s.objective), chip("written", when(s.updated))),
      h("nav", { class: "tabs", "aria-label": "Parts of the sweep" }, nav), s.error ? problem(s.error) : null,
      tab === "report" ? (s.report ? [h("p", { class: "more" }, h("a", { href: source, target: "_blank", rel: "noopener" }, "Open it alone")), h("iframe", { class: "report", sandbox: "", src: source, title: `Report of ${name}` })] : h("section", {}, h("p", {}, "The report is written at the end; ", h("code", {}, `diffadapt report ${name}`), " writes it from what there is."))) : [
        s.running.length ? h("section", {}, h("h2", {}, "Going on"), h("div", { class: "stages" }, s.running.map((t) => h("div", { class: "stage going" }, h("span", { class: "name" }, trialLink(t.id)), bar(t.total ? t.done / t.total : 0, t.id), h("span", { class: "facts" }, `${t.done} / ${t.total} shards${t.left ? ` · ${t.left} left` : ""}`))))) : null,
        s.settings.length ? h("section", {}, h("h2", {}, "Settings, best first"), table([...(s.columns.length ? s.columns : ["setting"]), ...(ranked ? ["rank"] : []), ...s.metrics, "trials", s.hours], s.settings.map((x) => h("tr", { class: x.best ? "best" : null }, x.values.map((v) => h("td", {}, v)), ranked ? h("td", {}, x.rank) : null, x.metrics.map((m) => h("td", {}, m)), h("td", {}, `${x.trials}${x.complete ? "" : " *"}`), h("td", {}, x.hours))), "nums")) : null,
        s.notes.length ? h("section", {}, h("h2", {}, "Remarks"), h("ul", {}, s.notes.map((n) => h("li", {}, n)))) : null,
        h("section", {}, h("h2", {}, "Trials"), s.trials.length ? table(["trial", "state", "values", s.objective, "accuracy", "seconds", "made", "found", ""], s.trials.map((t) => h("tr", {}, h("td", {}, trialLink(t.id)), h("td", { class: "left" }, state({ state: t.state })), h("td", { class: "left" }, t.values), h("td", {}, t.objective), h("td", {}, t.accuracy), h("td", {}, String(t.seconds)), h("td", {}, String(t.made)), h("td", {}, String(t.found)), h("td", { class: "bad left" }, t.error))), "nums") : h("p", { class: "soft" }, "No trial has ended yet.")),
      ]);
  }
  const self = { refresh, every: EVERY, tabs: ["trials", "report"].map((t) => link("sweep", name, t)), up: "#/sweeps", rows: () => [...document.querySelectorAll("main td a[data-key]")] };
  return self;
}

// -- where we are ----------------------------------------------------------------------------------------

function route() {
  turn++;
  clearTimeout(timer);
  if ($("viewer").open) $("viewer").close();
  const [path, query] = location.hash.slice(1).split("?");
  const parts = path.split("/").slice(1).map((p) => { try { return decodeURIComponent(p); } catch { return p; } });
  const given = Object.fromEntries(new URLSearchParams(query || ""));
  const [kind, name, tab] = parts;
  if (kind === "run" && name) view = runView(name, TABS.some(([t]) => t === tab) ? tab : "progress", given);
  else if (kind === "sweep" && name) view = sweepView(name, tab === "report" ? "report" : "trials");
  else if (kind === "compare" && parts.length > 2) view = compareView(parts.slice(1));
  else view = listView(kind === "sweeps" ? "sweeps" : "runs");
  const section = kind === "sweep" || kind === "sweeps" || (name || "").includes(":") ? "sweeps" : "runs";
  for (const a of document.querySelectorAll("[data-nav]")) a.toggleAttribute("aria-current", a.dataset.nav === section);
  document.title = [name || (kind === "sweeps" ? "Sweeps" : "Runs"), "diffadapt"].join(" · ");
  tray();
  tick(turn);
}

async function tick(own) {
  if (own !== turn) return;
  const mine = view;
  try {
    if (!document.hidden) await mine.refresh();
    if (own === turn) live(mine.every === EVERY ? "live" : "");
  } catch (error) {
    if (own !== turn) return;
    live(error.message, true);
    if ($("main").querySelectorAll("section").length === 0) put(h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs")), problem(error.message));
  }
  if (own === turn && mine.every) timer = setTimeout(() => tick(own), mine.every);
}

let chord = "";
function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const rows = view.rows ? view.rows() : [];
  const move = (by) => {
    const at = rows.indexOf(document.activeElement);
    const to = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by))];
    if (to) { to.focus(); to.scrollIntoView({ block: "nearest" }); event.preventDefault(); }
  };
  if (chord === "g" && (event.key === "r" || event.key === "s")) { location.hash = event.key === "r" ? "#/runs" : "#/sweeps"; chord = ""; return; }
  chord = event.key === "g" ? "g" : "";
  const digit = Number(event.key);
  if (event.key === "j" || (event.key === "ArrowDown" && rows.includes(document.activeElement))) move(1);
  else if (event.key === "k" || (event.key === "ArrowUp" && rows.includes(document.activeElement))) move(-1);
  else if (event.key === "/") { const box = document.querySelector("main input[type=search]"); if (box) { box.focus(); event.preventDefault(); } }
  else if (event.key === "x") { const run = (document.activeElement.dataset || {}).run || view.run; if (run) take(run); }
  else if (event.key === "c") compare();
  else if (event.key === "u" && view.up) location.hash = view.up;
  else if (event.key === "?") $("help").showModal();
  else if (digit >= 1 && view.tabs && view.tabs[digit - 1]) location.hash = view.tabs[digit - 1];
}

$("help-button").addEventListener("click", () => $("help").showModal());
document.addEventListener("keydown", keys);
document.addEventListener("visibilitychange", () => { if (!document.hidden) { clearTimeout(timer); tick(turn); } });
window.addEventListener("hashchange", route);
attempt(async () => { const root = await ask("/api/root"); $("root").textContent = root.root; $("root").title = root.root; });
route();

"use strict";

// Everything on a page works without this file but drawing and live updates: forms, links and
// tables come from the server. Data reaches it as JSON scripts and the API's answers only.

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function trace(series) {
  const ink = { main: "--accent", ours: "--ours", other: "--muted", faint: "--faint" }[series.role];
  const text = series.labels.length ? series.labels : undefined;
  const shared = { name: series.name, x: series.x, y: series.y, text, hovertext: text, type: "scatter" };
  const hover = `${text ? "%{hovertext}<br>" : ""}%{x:.4~g}, %{y:.4~g}<extra>${series.name}</extra>`;
  if (series.kind === "line") {
    const dash = series.role === "faint" ? "dot" : "solid";
    const line = { color: color(ink), width: 2, dash };
    return { ...shared, mode: "lines", line, hovertemplate: hover };
  }
  const ours = series.role === "ours";
  const shape = series.name === "measured" ? "star" : "circle";
  const symbol = ours ? "diamond" : series.role === "other" ? "circle-open" : shape;
  const marker = { color: color(ink), size: ours ? 13 : shape === "star" ? 12 : 8, symbol, line: { width: ours ? 0 : 1.5 } };
  const named = series.named && text ? { mode: "markers+text", textposition: "top right", textfont: { size: 11, color: color(ink) }, cliponaxis: false } : { mode: "markers" };
  return { ...shared, ...named, marker, hovertemplate: hover };
}

const sides = ["top right", "bottom right", "top left", "bottom left", "top center", "bottom center"];

// The rectangle of a name on one side of its point, in pixels.
function nameBox(name, x, y, side) {
  const width = 6.6 * name.length + 2;
  const left = side.endsWith("right") ? x + 4 : side.endsWith("left") ? x - 4 - width : x - width / 2;
  const top = side.startsWith("top") ? y - 20 : y + 6;
  return { left, top, right: left + width, bottom: top + 14 };
}

const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

// Each name goes to the first side of its point where it meets no other and is not cut; the last
// series has the first choice. A name without such a side shows on hovering, and in the table.
function separate(target) {
  const { xaxis, yaxis, width } = target._fullLayout;
  const taken = [];
  const changes = target.data.map((series, index) => ({ series, index })).reverse();
  for (const { series, index } of changes) {
    if (series.mode !== "markers+text") continue;
    const chosen = series.hovertext.map((name, i) => {
      const place = [xaxis.d2p(series.x[i]), yaxis.d2p(series.y[i])];
      const free = sides.find((side) => {
        const box = nameBox(name, ...place, side);
        const inside = box.left > -xaxis._offset && box.right < width - xaxis._offset && box.top > 0;
        return inside && !taken.some((other) => meet(box, other));
      });
      if (free) taken.push(nameBox(name, ...place, free));
      return free;
    });
    const text = series.hovertext.map((name, i) => (chosen[i] ? name : ""));
    const textposition = chosen.map((side) => side ?? sides[0]);
    if (JSON.stringify([text, textposition]) === JSON.stringify([series.text, series.textposition])) continue;
    window.Plotly.restyle(target, { text: [text], textposition: [textposition] }, [index]);
  }
}

// A log axis of few decades is marked at 1, 2 and 5, a longer one at powers of ten.
function marks(spec, values) {
  if (spec.scale !== "log") return { nticks: 8 };
  const known = values.filter((value) => value > 0);
  const decades = Math.log10(Math.max(...known) / Math.min(...known));
  return decades < 2 ? { dtick: "D2" } : { nticks: 6 };
}

function axis(spec, values) {
  return {
    title: { text: spec.title, standoff: 12, font: { size: 13 } },
    type: spec.scale,
    gridcolor: color("--line"),
    linecolor: color("--line"),
    zeroline: false,
    automargin: true,
    exponentformat: "power",
    ...(spec.range ? { range: spec.scale === "log" ? spec.range.map(Math.log10) : spec.range } : {}),
    ...marks(spec, values),
  };
}

// Plotly is 4 MB: only a page that has a plot loads it.
const plotlyAddress = document.currentScript.dataset.plotly;
let plotlyLoading = null;

function loadPlotly() {
  plotlyLoading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.addEventListener("load", resolve);
    script.addEventListener("error", reject);
    script.src = plotlyAddress;
    document.head.append(script);
  });
  return plotlyLoading;
}

async function draw(root) {
  const plots = root.querySelectorAll("script.plot-data");
  if (!plots.length) return;
  try {
    await loadPlotly();
  } catch {
    return; // the table below each plot says the same
  }
  for (const data of plots) {
    if (!data.isConnected) continue;
    const target = data.previousElementSibling;
    const plot = JSON.parse(data.textContent);
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("--muted") },
      margin: { l: 56, r: 12, t: 8, b: 48 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left" },
      showlegend: plot.series.length > 1,
      hoverlabel: { bgcolor: color("--surface"), bordercolor: color("--line-strong"), font: { color: color("--text") } },
      xaxis: axis(plot.x, plot.series.flatMap((series) => series.x)),
      yaxis: axis(plot.y, plot.series.flatMap((series) => series.y)),
    };
    await window.Plotly.react(target, plot.series.map(trace), layout, {
      displayModeBar: false,
      responsive: true,
    });
    separate(target);
    if (!target.dataset.separated) target.on("plotly_relayout", () => separate(target));
    target.dataset.separated = "true";
  }
}

async function page(url, signal) {
  const answer = await fetch(url, { headers: { Accept: "text/html" }, signal });
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

function swap(id, from) {
  const fresh = from.getElementById(id);
  const old = document.getElementById(id);
  if (!fresh || !old) return;
  const active = document.activeElement;
  const link = active && old.contains(active) ? active.getAttribute("href") : null;
  const heat = old.querySelector(".heatmap");
  const seen = heat && { top: heat.scrollTop, left: heat.scrollLeft };
  old.replaceWith(fresh);
  draw(fresh);
  offer(fresh);
  seek(fresh);
  if (seen) fresh.querySelector(".heatmap")?.scrollTo(seen);
  const again = link && [...fresh.querySelectorAll(".heat a, a.chip")].find((a) => moduleOf(a) === moduleOf({ href: new URL(link, location).href }));
  if (again) again.focus({ preventScroll: true });
}

const moduleOf = (anchor) => new URL(anchor.href, location).searchParams.get("module");

// The slider answers from the frontier at once, and from the solver when it rests.
function whatIf(form) {
  const slider = document.getElementById("step");
  const typed = form.elements.budget;
  const words = document.getElementById("budget-words");
  const frontier = JSON.parse(document.getElementById(form.dataset.frontier).textContent);
  let timer = 0;
  let asking = null;
  const address = (module) => {
    const query = new URLSearchParams(new FormData(form));
    query.set("module", module ?? form.elements.module.value);
    return `${form.getAttribute("action")}?${query}`;
  };
  const show = async (url) => {
    if (asking) asking.abort();
    asking = new AbortController();
    history.replaceState(null, "", url);
    try {
      const fresh = await page(url, asking.signal);
      swap("answer", fresh);
      const said = fresh.getElementById("budget-words");
      if (said) words.textContent = said.textContent;
      const at = fresh.getElementById("step");
      if (at) slider.value = at.value;
    } catch (error) {
      if (error.name !== "AbortError") words.textContent = "The server did not answer; move again.";
    }
  };
  slider.addEventListener("input", () => {
    const [bytes, cost] = frontier[Number(slider.value)];
    typed.value = bytes;
    words.textContent = `${size(bytes)}: ${slider.dataset.objective} ${Number(cost.toPrecision(3))}`;
    slider.setAttribute("aria-valuetext", words.textContent);
    clearTimeout(timer);
    timer = setTimeout(() => show(address()), 180);
  });
  for (const field of [typed, ...["device", "context", "kv_bits", "runtime"].map((name) => form.elements[name])]) {
    field.addEventListener("change", () => show(address()));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(address());
  });
  document.addEventListener("click", (event) => {
    const cell = event.target.closest(".heat a, a.chip");
    if (!cell || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    form.elements.module.value = moduleOf(cell);
    show(address(moduleOf(cell))).then(() => {
      const detail = document.getElementById("tensor");
      if (detail) detail.scrollIntoView({ block: "nearest" });
    });
  });
}

function size(bytes) {
  const units = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];
  for (const [name, unit] of units) if (bytes >= unit) return `${(bytes / unit).toFixed(2)} ${name}`;
  return `${bytes} B`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(Math.round(seconds), 1)} s`;
  return seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function amount(progress) {
  const seconds = progress.seconds || 0;
  const speed = seconds > 0 ? progress.done / seconds : 0;
  const bytes = progress.unit === "bytes";
  const say = (value) => (bytes ? size(value) : value.toLocaleString("en"));
  const parts = [`${say(progress.done)}${progress.total ? ` of ${say(progress.total)}` : ""}${bytes ? "" : ` ${progress.unit}`}`];
  if (speed >= 1) parts.push(bytes ? `${size(speed)}/s` : `${speed.toFixed(0)} ${progress.unit}/s`);
  if (progress.seconds_left != null) parts.push(`${duration(progress.seconds_left)} left of the job`);
  if (progress.detail) parts.push(progress.detail);
  return parts.join(" · ");
}

const isWriting = (part) => part.contains(document.activeElement) && document.activeElement.matches("input, textarea");

// A job's events move the bar; a change of state fetches the page anew.
function follow(root) {
  const source = new EventSource(root.dataset.events);
  const refresh = async () => {
    if (isWriting(document.getElementById("job"))) {
      setTimeout(refresh, 2000);
      return;
    }
    swap("job", await page(location.href));
    const now = document.getElementById("job");
    if (!now.dataset.events) source.close();
  };
  source.addEventListener("progress", (event) => {
    const found = JSON.parse(event.data);
    const progress = found.data || found;
    const bar = document.getElementById("progress");
    if (!bar || !progress.step) return;
    bar.value = progress.job_fraction || 0;
    document.getElementById("amount").textContent = amount(progress);
    const items = [...document.querySelectorAll("[data-step]")];
    const at = items.findIndex((item) => item.dataset.step === progress.step);
    if (at < 0) return refresh();
    if (items[at].classList.contains("now")) return;
    items.forEach((item, index) => {
      item.className = index < at ? "done" : index === at ? "now" : "later";
      item.toggleAttribute("aria-current", index === at);
      if (index === at) item.setAttribute("aria-current", "step");
    });
    document.getElementById("announce").textContent = `Step ${progress.step}`;
  });
  for (const kind of ["started", "answered", "log", "requeued", "labelled", "cancel_requested", "succeeded", "failed", "cancelled"]) {
    source.addEventListener(kind, refresh);
  }
  addEventListener("pagehide", () => source.close());
}

// The form says what fits while it is filled in.
function instantFit(form) {
  const output = document.getElementById("fit");
  let timer = 0;
  let asking = null;
  // A name that is still being typed is not looked up on the Hub.
  const ask = async (settled) => {
    if (asking) asking.abort();
    asking = new AbortController();
    const query = new URLSearchParams(new FormData(form));
    if (settled) query.set("settled", "true");
    if (settled && output.className === "waiting") output.textContent = "Reading its headers.";
    try {
      const answer = await fetch(`${output.dataset.source}?${query}`, { signal: asking.signal });
      const said = await answer.json();
      output.textContent = said.words;
      output.className = said.verdict;
    } catch (error) {
      if (error.name !== "AbortError") output.textContent = "";
    }
  };
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(ask, 250, event.target !== form.elements.model);
  });
  form.elements.model.addEventListener("change", () => {
    clearTimeout(timer);
    ask(true);
  });
  if (form.elements.model.value) ask(false);
}

// What waits for workers is fetched anew every few seconds, unless somebody is writing in it.
function live() {
  const list = document.querySelector("[data-live]");
  if (!list) return;
  const isUsed = () => list.contains(document.activeElement) && document.activeElement.matches("a, input, textarea");
  setTimeout(async () => {
    try {
      if (!document.hidden && !isUsed()) swap(list.id, await page(location.href));
    } finally {
      sortable(document);
      live();
    }
  }, 1000 * Number(list.dataset.live));
}

// A click on the head of a column sorts the rows of this page.
function sortable(root) {
  for (const head of root.querySelectorAll("table.sortable thead th:not([data-sorts])")) {
    head.dataset.sorts = "";
    const button = document.createElement("button");
    button.className = "link";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const body = head.closest("table").tBodies[0];
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const key = (row) => row.cells[head.cellIndex].dataset.sort ?? row.cells[head.cellIndex].textContent.trim();
      const order = new Intl.Collator("en", { numeric: true });
      body.append(...[...body.rows].sort((a, b) => sign * order.compare(key(a), key(b))));
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
  }
}

// Texts to copy; without a clipboard the text can still be selected.
function copying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const text = button.dataset.copy ?? button.previousElementSibling.textContent;
    await navigator.clipboard.writeText(text);
    const said = button.innerHTML;
    button.textContent = "Copied";
    setTimeout(() => { button.innerHTML = said; }, 1500);
  });
}

function offer(root) {
  if (!navigator.clipboard) return;
  for (const button of root.querySelectorAll("button.copy[hidden]")) button.hidden = false;
}

// The search of the heatmap: words name columns, numbers and spans of them layers.
let sought = "";

function seek(root) {
  const field = root.querySelector("#seek");
  if (!field) return;
  field.parentElement.hidden = false;
  field.value = sought;
  field.addEventListener("input", () => {
    sought = field.value;
    narrow(field);
  });
  if (sought) narrow(field);
}

function narrow(field) {
  const table = field.closest("figure").querySelector("table.heat");
  const asked = sought.toLowerCase().split(/[\s,]+/).filter((part) => part && part !== "layer" && part !== "layers");
  const spans = asked.map((part) => part.match(/^(\d+)(?:-(\d+))?$/)).filter(Boolean);
  const names = asked.filter((part) => !/^\d+(-\d*)?$/.test(part));
  const named = (head) => names.every((name) => `${head.title} ${head.textContent}`.toLowerCase().includes(name));
  const heads = [...table.tHead.rows[0].cells];
  const kept = heads.map((head, index) => !index || named(head));
  const spanned = (layer) => !spans.length || spans.some(([, from, to]) => layer >= Number(from) && layer <= Number(to ?? from));
  let rows = 0;
  for (const row of [table.tHead.rows[0], ...table.tBodies[0].rows]) {
    [...row.cells].forEach((cell, index) => { cell.hidden = !kept[index]; });
    if (row.parentElement === table.tHead) continue;
    row.hidden = !spanned(Number(row.cells[0].textContent));
    rows += !row.hidden;
  }
  const columns = kept.filter(Boolean).length - 1;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  document.getElementById("sought").textContent = asked.length ? `${count(columns, "module")} in ${count(rows, "layer")}` : "";
}

// A link to what is folded unfolds it.
function unfold() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.matches("details")) target.open = true;
}

document.addEventListener("DOMContentLoaded", () => {
  unfold();
  addEventListener("hashchange", unfold);
  draw(document);
  offer(document);
  copying();
  sortable(document);
  seek(document);
  live();
  const job = document.querySelector("[data-events]");
  if (job) follow(job);
  const form = document.getElementById("what-if");
  if (form) whatIf(form);
  const submit = document.getElementById("submit");
  if (submit) instantFit(submit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(document));
});

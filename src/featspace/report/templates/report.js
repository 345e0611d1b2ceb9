// The tables sort and filter; the viewer shows one of the runs at a time. Texts are set as text, never as HTML.
import DataTable from "datatables";

const $ = selector => document.querySelector(selector);

/** What Python packed: JSON, compressed by gzip, in base64. */
function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}
const { targets, runs } = await unpacked($("#runs"));
const images = JSON.parse($("#images").textContent);

// A long table has its first rows in the page and all of them packed: they are unpacked when it is opened, and paged.
const number = text => text === "" || isNaN(text = text.replaceAll(",", "").replace("−", "-")) ? -Infinity : Number(text);
const numeric = (text, use) => use === "sort" || use === "type" ? number(text) : text;
const asColumn = head => head.matches(".number") ? { type: "num", className: "number", render: numeric } : { render: DataTable.render.text() };
function enhance(table, data) {
  const name = table.getAttribute("aria-label");
  const long = data && { data, columns: [...table.tHead.rows[0].cells].map(asColumn), deferRender: true, pageLength: table.tBodies[0].rows.length };
  if (long) table.tBodies[0].replaceChildren();
  new DataTable(table, {
    ...long, paging: Boolean(long), order: [], autoWidth: false,
    layout: { topStart: "search", topEnd: "info", bottomStart: long ? "paging" : null, bottomEnd: null },
    language: { search: "Filter", info: "_TOTAL_ rows", infoFiltered: "of _MAX_", infoEmpty: "no rows", zeroRecords: "No row fits." },
  });
  const box = document.createElement("div");
  Object.assign(box, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${name}, rows` });
  table.replaceWith(box);
  box.append(table);
}
for (const part of document.querySelectorAll("details.table")) {
  const table = part.querySelector("table"), rows = part.querySelector("script");
  if (!rows) enhance(table);
  else {
    const open = async () => { if (rows.isConnected && part.open) { rows.remove(); enhance(table, await unpacked(rows)); } };
    part.addEventListener("toggle", open);
    open();
  }
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));

// Viewer: what is chosen

const WINDOW = 100;  // options of a select box, at most
const keys = ["encoder", "layer", "target", "sample"];
const selects = Object.fromEntries(keys.map(key => [key, $(`#choice select[name=${key}]`)]));
const find = $("#choice [name=find]");
find.parentElement.hidden = Object.keys(targets).length <= WINDOW;
const state = {}, listed = {};
const unique = list => [...new Set(list)];
const fitting = upTo => runs.filter(run => keys.slice(0, upTo).every(key => run[key] === state[key]));
function values(key) {
  const all = unique(fitting(keys.indexOf(key)).map(run => run[key])), sought = find.value.toLowerCase();
  const found = key === "target" && sought ? all.filter(value => named(key, value).toLowerCase().includes(sought)) : all;
  if (key === "target") find.ariaInvalid = `${!found.length}`;
  return found.length ? found : all;
}
const named = (key, value) => {
  if (key === "layer") return value || "its feature";
  return key === "target" && targets[value].text ? `${value}: “${targets[value].text}”` : `${value}`;
};

/** Fills the select boxes with what there is, or what is about the choice; one that is not there any more becomes the first. */
function choose(changes) {
  Object.assign(state, changes);
  keys.forEach(key => {
    const there = values(key);
    if (!there.includes(state[key])) state[key] = there[0];
    const start = Math.max(0, Math.min(there.indexOf(state[key]) - WINDOW / 2, there.length - WINDOW));
    listed[key] = there.slice(start, start + WINDOW);
    selects[key].replaceChildren(...listed[key].map(value => new Option(named(key, value), value, false, value === state[key])));
  });
  show(fitting(keys.length)[0]);
}

/** The next or previous in a list, around its ends. */
const next = (list, now, by) => list[(list.indexOf(now) + by + list.length) % list.length];
const move = (key, by) => choose({ [key]: next(values(key), state[key], by) });
function moveFeature(by) {
  const all = unique(runs.map(run => JSON.stringify([run.encoder, run.layer])));
  const [encoder, layer] = JSON.parse(next(all, JSON.stringify([state.encoder, state.layer]), by));
  choose({ encoder, layer });
}
keys.forEach(key => selects[key].addEventListener("change", () => choose({ [key]: listed[key][selects[key].selectedIndex] })));
find.addEventListener("input", () => choose({}));
$("#choice").addEventListener("submit", event => event.preventDefault());
const moves = {
  ArrowLeft: () => move("target", -1), ArrowRight: () => move("target", 1),
  ArrowUp: () => moveFeature(-1), ArrowDown: () => moveFeature(1),
  "+": () => move("sample", 1), "-": () => move("sample", -1),
};
$("#stage").addEventListener("keydown", event => {
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  moves[event.key]();
});

// Viewer: what is shown

const precision = value => value >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 };
const digits = value => value === null ? "–" : value.toLocaleString("en", precision(value));
const html = (name, textContent) => Object.assign(document.createElement(name), { textContent });
const cosine = value => value === null ? "–" : value.toFixed(4);
function picture(id, index, alt, caption) {
  $(`#${id} .frame`).replaceChildren(Object.assign(new Image(), { src: images[index], alt }));
  $(`#${id} figcaption`).textContent = caption;
}
let shown;
function show(run) {
  shown = run;
  const { text, image } = targets[run.target];
  if (image === null) {
    $("#photograph .frame").replaceChildren(html("blockquote", `“${text}”`));
    $("#photograph figcaption").textContent = "The caption";
  } else picture("photograph", image, `The photograph ${run.target}`, "The photograph");
  const what = `${run.target}, sample ${run.sample}, decoded by ${run.encoder} from ${named("layer", run.layer)}`;
  picture("best", run.best, `The nearest image of ${what}`, `The nearest image, ${run.side} × ${run.side} pixels`);
  picture("last", run.last, `The last image of ${what}`, `The last image, squared distance ${digits(run.last_distance)}`);
  const numbers = { "Cosine": cosine(run.cosine), "Squared distance": digits(run.distance), "Judge’s cosine": cosine(run.judge) };
  $("#numbers").replaceChildren(...Object.entries(numbers).flatMap(([key, value]) => [html("dt", key), html("dd", value)]));
  $("#estimate").hidden = !run.frames;
  $("#trace").hidden = !run.trace;
  if (!run.trace) return;
  slider.max = run.trace.e.length - 1;
  slider.value = slider.max;
  draw();
}
addEventListener("resize", () => shown.trace && draw());

// Viewer: the trace

const slider = $("#trace input");
const svg = $("#trace svg");
const element = (name, attributes, textContent = "") => {
  const made = Object.assign(document.createElementNS("http://www.w3.org/2000/svg", name), { textContent });
  Object.entries(attributes).forEach(pair => made.setAttribute(...pair));
  return made;
};
let place;
function draw() {
  const { e, d } = shown.trace;
  const [width, height, left, right, top, bottom] = [svg.clientWidth, svg.clientHeight, 64, 12, 22, 34];
  const [low, high] = [Math.log10(Math.min(...d)), Math.log10(Math.max(...d))];
  const first = e[0], span = e.at(-1) - first || 1, range = high - low || 1;
  const x = value => left + (value - first) / span * (width - left - right);
  const y = value => top + (high - Math.log10(value)) / range * (height - top - bottom);
  place = point => [x(e[point]), y(d[point])];
  const steps = range > 1.2 ? [1] : [1, 2, 3, 5, 7];
  const ticks = [...Array(Math.ceil(high) - Math.floor(low) + 1).keys()].flatMap(k => steps.map(s => s * 10 ** (Math.floor(low) + k)))
    .filter(tick => Math.log10(tick) >= low && Math.log10(tick) <= high);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    ...ticks.flatMap(tick => [element("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      element("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, digits(tick))]),
    element("text", { x: 0, y: 12 }, "squared distance (log)"),
    ...[0, .5, 1].map(part => Math.round(first + part * span)).map((value, i) =>
      element("text", { x: x(value), y: height - 14, "text-anchor": ["start", "middle", "end"][i] }, digits(value))),
    element("text", { x: left + (width - left - right) / 2, y: height, "text-anchor": "middle" }, "evaluation"),
    element("path", { d: e.map((_, i) => `${i ? "L" : "M"}${place(i).map(value => value.toFixed(1))}`).join("") }),
    element("circle", { r: 5 }));
  scrub();
}
/** Marks the chosen point, and shows the latest estimate up to there. */
function scrub() {
  const { e, d, t, f } = shown.trace, point = Number(slider.value), [cx, cy] = place(point);
  svg.querySelector("circle").setAttribute("cx", cx);
  svg.querySelector("circle").setAttribute("cy", cy);
  const text = `Evaluation ${e[point]}, at timestep ${t[point]}: squared distance ${digits(d[point])}`;
  $("#trace output").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  if (!shown.frames) return;
  const latest = Object.keys(f).map(Number).filter(other => other <= point).at(-1) ?? Number(Object.keys(f)[0]);
  const frame = $("#estimate .frame"), last = shown.frames - 1;
  Object.assign(frame.style, {
    backgroundImage: `url("${images[shown.strip]}")`, backgroundSize: `${shown.frames * 100}% 100%`,
    backgroundPosition: `${last ? f[latest] / last * 100 : 0}% 0`,
  });
  frame.role = "img";
  frame.ariaLabel = `The estimate of the clean image at evaluation ${e[latest]}`;
  $("#estimate figcaption").textContent = `The estimate x̂ at evaluation ${e[latest]}`;
}
slider.addEventListener("input", scrub);
choose({});

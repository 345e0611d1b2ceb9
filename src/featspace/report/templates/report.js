// The tables sort and filter; the viewer shows one of the runs at a time. Texts are set as text, never as HTML.
import DataTable from "datatables";

const $ = selector => document.querySelector(selector);
const { targets, runs, images } = JSON.parse($("#runs").textContent);

for (const table of document.querySelectorAll("table.data")) {
  const name = table.getAttribute("aria-label");
  new DataTable(table, {
    paging: false, order: [], autoWidth: false,
    layout: { topStart: "search", topEnd: "info", bottomStart: null, bottomEnd: null },
    language: { search: "Filter", info: "_TOTAL_ rows", infoFiltered: "of _MAX_", infoEmpty: "no rows", zeroRecords: "No row fits." },
  });
  const box = document.createElement("div");
  Object.assign(box, { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${name}, rows` });
  table.replaceWith(box);
  box.append(table);
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));

// Viewer: what is chosen

const keys = ["encoder", "layer", "target", "sample"];
const selects = Object.fromEntries(keys.map(key => [key, $(`#choice select[name=${key}]`)]));
const state = {};
const unique = list => [...new Set(list)];
const fitting = upTo => runs.filter(run => keys.slice(0, upTo).every(key => run[key] === state[key]));
const values = key => unique(fitting(keys.indexOf(key)).map(run => run[key]));
const named = (key, value) => {
  if (key === "layer") return value || "its feature";
  return key === "target" && targets[value].text ? `${value}: “${targets[value].text}”` : `${value}`;
};

/** Fills the select boxes with what there is; a choice that is not there any more becomes the first. */
function choose(changes) {
  Object.assign(state, changes);
  keys.forEach(key => {
    const there = values(key);
    if (!there.includes(state[key])) state[key] = there[0];
    selects[key].replaceChildren(...there.map(value => new Option(named(key, value), value, false, value === state[key])));
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
keys.forEach(key => selects[key].addEventListener("change", () => choose({ [key]: values(key)[selects[key].selectedIndex] })));
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

"""What moves the static playground: controls, the address, and where results go.

Knows the page; all arithmetic and all rules come from `program`, which stands before
it.
"""

NUMBERS = r"""
// Numbers as Python writes them: ties go to the even digit.

function digits(x) {  // three of them
  const exact = x.toExponential(60), tie = /^-?\d\.\d([02468])50*e/.test(exact);
  return tie ? Number(exact.replace(/50*e/, "e")) : Number(x.toPrecision(3));
}
function whole(x) {
  const up = Math.round(x), even = up - x === .5 && up % 2 ? up - 1 : up;
  return BigInt(even).toLocaleString("en-US");
}
function three(x) {
  if (!(Math.abs(x) < 999.5)) return whole(x);
  const y = digits(x);
  if (y === 0 || Math.abs(y) >= 1e-4) return String(y);
  return y.toExponential().replace(/e-(\d)$/, "e-0$1");
}
function scaled(x, scales) {
  const [unit, scale] = scales.find(([, least]) => x >= least) || scales.at(-1);
  return `${three(x / scale)} ${unit}`;
}
const FORMAT = {
  three, count: whole, percent: (x) => three(100 * x) + "%",
  flops: (x) => scaled(x, SCALES.flops), size: (x) => scaled(x, SCALES.size),
  seconds: (x) => scaled(x, SCALES.seconds),
};
const filled = ({ template, numbers }) =>
  template.replace(/\{(\d+):(\w+)\}/g, (_, i, kind) => FORMAT[kind](numbers[i]));
"""

SCRIPT = r"""
const box = document.getElementById("PLACE"), words = GIVEN.words;
const fields = new Map(Object.entries(GIVEN.fields));
const control = (name) => box.querySelector(`[data-field="${name}"]`);
const cell = (key) => box.querySelector(`[data-key="${key}"]`);
const isRange = (input) => input.type === "range";

// --- where the controls stand

const at = (name) => {
  const input = control(name);
  return isRange(input) ? Number(input.value) : input.selectedIndex;
};
const value = (name) => fields.get(name).values[at(name)];

function setting(method) {
  const s = Object.fromEntries([...fields.keys()].map((name) => [name, value(name)]));
  [s.block_q, s.block_k] = s.block;
  return { ...s, method };
}
function turnTo(name, i) {
  const input = control(name);
  if (isRange(input)) input.value = i;
  else input.selectedIndex = i;
}

// --- results

function of(table, s) {  // one function, or one for each block
  const found = table[`${s.task}|${s.method}`];
  return found.length > 1 ? found[at("block")] : found[0];
}
function known(s) {
  let i = 0;
  for (const name of ["task", "method", "block", "T", "K"]) {
    i = i * fields.get(name).values.length + at(name);
  }
  const answer = KNOWN.answers[KNOWN.place[i]];
  const timed = Object.entries(KNOWN.shape).every(([name, n]) => s[name] === n);
  return { ...answer, measured: timed ? answer.measured : "" };
}
function results(s, roof) {
  const full = { ...s, method: words.methods[0] };
  const own = of(WORK, s)(s), all = of(WORK, full)(full);
  const answer = known(s);
  const bounds = BOUNDS(own, all, OTHER[s.task](s), roof, s.L);
  const e = { choice: s, own, full: all, bounds, lost: answer.lost };
  const texts = { advice: filled(of(ADVICE, s)(e)), quality: answer.quality,
    measured: answer.measured || words.untimed };
  for (const [name, shown] of Object.entries(ROWS(e))) {
    shown.forEach((text, i) => { texts[`${name}-${i}`] = filled(text); });
  }
  return texts;
}
function bars(s, roof) {
  const times = words.methods.map((method) => {
    const other = { ...s, method };
    const fits = !of(OBSTACLE, other)(other).template;
    return fits ? SECONDS(of(WORK, other)(other), roof) : null;
  });
  const timed = times.filter((time) => time !== null), svg = box.querySelector("svg");
  const texts = times.map((time, i) =>
    `${words.methods[i]}: ${time === null ? "does not fit" : FORMAT.seconds(time)}`);
  const least = Math.min(...timed), most = Math.max(...timed);
  times.forEach((time, i) => {
    const [text, rect] = svg.children[i].children;
    const length = time === null ? 0 : BAR(time, least, most);
    text.textContent = texts[i];
    rect.setAttribute("width", `${length.toFixed(1)}%`);
    svg.children[i].classList.toggle("playground-own", words.methods[i] === s.method);
  });
  svg.setAttribute("aria-label", `${words.bars}. ${texts.join("; ")}`);
}
function show() {
  for (const [name, { shown }] of fields) {
    const input = control(name);
    if (!isRange(input)) continue;
    input.setAttribute("aria-valuetext", shown[at(name)]);
    input.parentElement.querySelector("output").textContent = shown[at(name)];
  }
  const s = setting(value("method")), roof = ROOFS[at("device")][s.bytes];
  const problem = filled(of(OBSTACLE, s)(s));
  const texts = problem ? { advice: problem } : results(s, roof);
  for (const part of box.querySelectorAll("[data-key]")) {
    part.textContent = texts[part.dataset.key] ?? words.none;
  }
  cell("device").textContent = s.device;
  cell("rates").textContent = filled(RATES(roof));
  bars(s, roof);
}

// --- the address holds the state

const note = box.querySelector(".playground-note");

function write() {
  const parts = [...fields].map(([name, { slugs }]) => `${name}=${slugs[at(name)]}`);
  history.replaceState(null, "", `#${parts.join("&")}`);
  note.textContent = "";
}
function restore() {  // a link to a place of the page is not for us
  const ours = location.hash.includes("="), ignored = [];
  for (const [name, given] of new URLSearchParams(ours ? location.hash.slice(1) : "")) {
    const i = fields.get(name)?.slugs.indexOf(given) ?? -1;
    if (i < 0) ignored.push(`${name}=${given}`);
    else turnTo(name, i);
  }
  note.textContent = ignored.length ? `Ignored in the link: ${ignored.join(", ")}` : "";
  show();
  return ours;
}
for (const name of fields.keys()) {
  control(name).addEventListener("input", () => { write(); show(); });
}
addEventListener("hashchange", restore);
addEventListener("pageshow", show);  // a browser restores positions after this
if (restore()) box.scrollIntoView();
"""

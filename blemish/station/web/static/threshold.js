// The thresholds of a model: a histogram with lines that can be moved, and what they would have done.
import { attempt, call, say, short, svg } from "./common.js";

const root = document.getElementById("threshold");
const { model } = root.dataset;
const present = Number(root.dataset.threshold);
const hasUpper = root.dataset.upper !== "";
const presentUpper = hasUpper ? Number(root.dataset.upper) : present;
const bins = JSON.parse(document.getElementById("bins").textContent);
const histogram = document.getElementById("histogram");
const slider = document.getElementById("slider");
const upper = document.getElementById("upper");
const apply = document.getElementById("apply");
const address = `/v1/models/${encodeURIComponent(model)}`;
const [WIDTH, BASE, TOP] = [1000, 250, 20];
const GROUPS = [["calibration", "calibration"], ["not reviewed", "quiet-bar"], ["good", "good"], ["defective", "bad"]];
const low = bins.edges[0];
// A line may stand beyond the highest score.
const high = Math.max(bins.edges.at(-1), presentUpper) + 0.03 * (bins.edges.at(-1) - low);
const x = (score) => 10 + ((score - low) / (high - low)) * (WIDTH - 20);
let shown;
let asked = 0;

/** A line with a knob at its top. */
function grip(id, kind) {
  const group = svg("g", { id });
  group.append(svg("line", { class: kind, x1: 0, x2: 0, y1: TOP - 8, y2: BASE }), svg("circle", { class: "knob", cx: 0, cy: TOP - 8, r: 8 }));
  histogram.append(group);
}

function bars() {
  const highest = Math.max(1, ...GROUPS.flatMap(([name]) => bins[name]));
  const width = (x(bins.edges[1]) - x(low)) / GROUPS.length;
  GROUPS.forEach(([name, kind], group) => {
    bins[name].forEach((count, index) => {
      if (!count) return;
      // The square root, so that one defect beside a thousand good parts is seen.
      const height = Math.max(3, Math.sqrt(count / highest) * (BASE - TOP));
      const bar = svg("rect", { class: kind, x: x(bins.edges[index]) + group * width, y: BASE - height, width: Math.max(width - 0.5, 1), height });
      bar.append(svg("title", {}, `${name}: ${count}`));
      histogram.append(bar);
    });
  });
  histogram.append(svg("line", { class: "axis", x1: 10, x2: WIDTH - 10, y1: BASE, y2: BASE }));
  for (let step = 0; step <= 5; step += 1) {
    const score = low + ((high - low) * step) / 5;
    const label = step === 5 && bins.is_cut ? `${short(score)} and above` : short(score);
    histogram.append(svg("text", { x: x(score), y: BASE + 20, "text-anchor": step === 0 ? "start" : step === 5 ? "end" : "middle" }, label));
  }
  for (const score of hasUpper ? [present, presentUpper] : [present]) {
    histogram.append(svg("line", { class: "asked", x1: x(score), x2: x(score), y1: TOP, y2: BASE }));
  }
  if (hasUpper) grip("upper-line", "upper");
  grip("moved-line", "threshold");
}

const line = (name, score) => document.getElementById(name).setAttribute("transform", `translate(${x(score)} 0)`);
const LEAST_SHOWN = 5e-5; // as on the command line
const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;
const text = (name, value) => { document.getElementById(name).textContent = value; };
const parts = (n) => (n === 1 ? "1 part" : `${n} parts`);

/** What the lines would have changed, in an operator's words. */
function words(effect) {
  if (!effect.n) return "No part was inspected by this model yet.";
  const isMoved = Math.abs(effect.threshold - present) > 1e-9 || Math.abs((effect.upper_threshold ?? present) - presentUpper) > 1e-9;
  if (!isMoved) {
    const doubt = hasUpper ? `, ${parts(effect.n_look_again)} to be looked at again` : "";
    return `As it is now: of ${parts(effect.n)} ${effect.n_above - effect.n_look_again} are called defective${doubt}.`;
  }
  const said = [];
  if (effect.n_now_good) said.push(`${parts(effect.n_now_good)} that are stopped now would be called good`);
  if (effect.n_now_defective) said.push(`${parts(effect.n_now_defective)} that are called good now would be stopped`);
  const rest = effect.n_changed - effect.n_now_good - effect.n_now_defective;
  if (rest > 0) said.push(`${parts(rest)} would change between “look again” and “defective”`);
  if (!said.length) return `Of ${parts(effect.n)} none would be called otherwise.`;
  const missed = effect.n_missed ? ` ${parts(effect.n_missed)} that people called defective would pass.` : "";
  return `Of ${parts(effect.n)}: ${said.join("; ")}.${missed}`;
}

function show(effect) {
  shown = effect;
  line("moved-line", effect.threshold);
  text("value", short(effect.threshold));
  if (hasUpper) {
    line("upper-line", effect.upper_threshold);
    text("upper-value", short(effect.upper_threshold));
  }
  text("words", words(effect));
  text("rate", percent(effect.false_positive_rate));
  const [low, high] = effect.rate_interval;
  text("interval", `${percent(low > LEAST_SHOWN ? low : 0)} to ${percent(high)}`);
  text("changed", effect.n_changed);
  text("n", effect.n);
  text("alarms", effect.n_false_positives);
  text("n-good", effect.n_good);
  text("missed", effect.n_missed);
  text("n-defective", effect.n_defective);
  if (apply) {
    apply.disabled = Math.abs(effect.threshold - present) < 1e-9 && Math.abs((effect.upper_threshold ?? present) - presentUpper) < 1e-9;
  }
}

/** Ask for the effect of both lines; the one that was not moved gives way. */
async function preview(moved = slider) {
  if (hasUpper && Number(upper.value) < Number(slider.value)) (moved === upper ? slider : upper).value = moved.value;
  // A slider stands at one of its steps; a line that was not moved stays exactly where it is.
  const score = (input, exact) => (Math.abs(input.value - exact) <= input.step ? exact : Number(input.value));
  const query = new URLSearchParams({ threshold: score(slider, present) });
  if (hasUpper) query.set("upper_threshold", Math.max(score(upper, presentUpper), score(slider, present)));
  const number = ++asked;
  const effect = await attempt(() => call("GET", `${address}/threshold?${query}`));
  if (effect && number === asked) show(effect);
}

const scoreAt = (event) => {
  const box = histogram.getBoundingClientRect();
  const score = low + ((((event.clientX - box.left) / box.width) * WIDTH - 10) / (WIDTH - 20)) * (high - low);
  return Math.min(high, Math.max(low, score));
};

bars();
for (const [input, score] of hasUpper ? [[slider, present], [upper, presentUpper]] : [[slider, present]]) {
  input.min = low;
  input.max = high;
  input.step = (high - low) / 400;
  input.value = score;
  input.addEventListener("input", () => preview(input));
}
histogram.addEventListener("pointerdown", (event) => {
  const score = scoreAt(event);
  // The nearer line is taken; where they lie on each other, the one on the side of the pointer.
  const [toLower, toUpper] = hasUpper ? [Math.abs(score - slider.value), Math.abs(score - upper.value)] : [0, 1];
  const input = toLower < toUpper || (toLower === toUpper && score < slider.value) ? slider : upper;
  const drag = (moved) => {
    input.value = scoreAt(moved);
    preview(input);
  };
  drag(event);
  histogram.setPointerCapture(event.pointerId);
  histogram.addEventListener("pointermove", drag);
  histogram.addEventListener("pointerup", () => histogram.removeEventListener("pointermove", drag), { once: true });
});
apply?.addEventListener("click", () => attempt(async () => {
  const body = { false_positive_rate: shown.false_positive_rate };
  if (hasUpper) body.upper_threshold = shown.upper_threshold;
  await call("POST", `${address}/threshold`, body);
  location.reload();
}));
document.getElementById("roll-back")?.addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}:rollBack`);
  say("Rolled back.");
  location.reload();
}));
preview();

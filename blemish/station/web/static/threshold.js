// The threshold of a model: a histogram with a line that can be moved, and what it would have done.
import { attempt, call, say, short, svg } from "./common.js";

const root = document.getElementById("threshold");
const { model } = root.dataset;
const present = Number(root.dataset.threshold);
const bins = JSON.parse(document.getElementById("bins").textContent);
const histogram = document.getElementById("histogram");
const slider = document.getElementById("slider");
const apply = document.getElementById("apply");
const address = `/v1/models/${encodeURIComponent(model)}`;
const [WIDTH, BASE, TOP] = [1000, 250, 20];
const GROUPS = [["calibration", "calibration"], ["not reviewed", "quiet-bar"], ["good", "good"], ["defective", "bad"]];
const low = bins.edges[0];
const high = bins.edges.at(-1);
const x = (score) => 10 + ((score - low) / (high - low)) * (WIDTH - 20);
let shown;
let asked = 0;

function bars() {
  const n = bins.edges.length - 1;
  const highest = Math.max(1, ...GROUPS.flatMap(([name]) => bins[name]));
  const width = (WIDTH - 20) / n / GROUPS.length;
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
    histogram.append(svg("text", { x: x(score), y: BASE + 20, "text-anchor": step === 0 ? "start" : step === 5 ? "end" : "middle" }, short(score)));
  }
  histogram.append(svg("line", { class: "asked", x1: x(present), x2: x(present), y1: TOP, y2: BASE }));
  histogram.append(svg("line", { class: "upper", id: "upper-line", y1: TOP, y2: BASE, x1: 0, x2: 0 }));
  histogram.append(svg("line", { class: "threshold", id: "moved-line", y1: TOP - 12, y2: BASE, x1: 0, x2: 0 }));
}

function line(name, score) {
  const element = document.getElementById(name);
  element.setAttribute("x1", x(score));
  element.setAttribute("x2", x(score));
}

const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;
const text = (name, value) => { document.getElementById(name).textContent = value; };

function show(effect) {
  shown = effect;
  line("moved-line", effect.threshold);
  line("upper-line", effect.upper_threshold ?? effect.threshold);
  text("value", short(effect.threshold));
  text("rate", percent(effect.false_positive_rate));
  text("interval", `${percent(effect.rate_interval[0])} to ${percent(effect.rate_interval[1])}`);
  text("changed", effect.n_now_good + effect.n_now_defective);
  text("n", effect.n);
  text("alarms", effect.n_false_positives);
  text("n-good", effect.n_good);
  text("missed", effect.n_missed);
  text("n-defective", effect.n_defective);
  if (apply) apply.disabled = Math.abs(effect.threshold - present) < 1e-9;
}

async function preview(score) {
  const number = ++asked;
  const effect = await attempt(() => call("GET", `${address}/threshold?threshold=${score}`));
  if (effect && number === asked) show(effect);
}

function drag(event) {
  const box = histogram.getBoundingClientRect();
  const score = low + (((event.clientX - box.left) / box.width) * WIDTH - 10) / (WIDTH - 20) * (high - low);
  slider.value = Math.min(high, Math.max(low, score));
  preview(slider.value);
}

bars();
slider.min = low;
slider.max = high;
slider.step = (high - low) / 400;
slider.value = present;
slider.addEventListener("input", () => preview(slider.value));
histogram.addEventListener("pointerdown", (event) => {
  drag(event);
  histogram.setPointerCapture(event.pointerId);
  histogram.addEventListener("pointermove", drag);
  histogram.addEventListener("pointerup", () => histogram.removeEventListener("pointermove", drag), { once: true });
});
apply?.addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}/threshold`, { false_positive_rate: shown.false_positive_rate });
  location.reload();
}));
document.getElementById("roll-back")?.addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}:rollBack`);
  say("Rolled back.");
  location.reload();
}));
preview(present);

// The line: new parts as they are inspected, their counts, and the chart of their scores.
import { call, html, localTimes, short, svg } from "./common.js";

const line = document.getElementById("line");
const shots = document.getElementById("shots");
const chart = document.getElementById("chart");
const state = JSON.parse(document.getElementById("scores").textContent);
const KINDS = { good: "good", "look again": "look", defective: "bad" };
const MOST_SHOTS = 24;
const MOST_POINTS = 200;
// Of the newest images so many have to drift before it is said.
const DRIFTED = 5;
// Where the chart is wider than its box, as on a phone, it follows the newest part until someone scrolls back.
const box = chart.parentElement;
const SLACK_PX = 40;
let last = Number(line.dataset.last);
let follows = true;

function draw() {
  const [width, height, left, bottom, top] = [1000, 220, 46, 24, 12];
  const scores = state.points.map((point) => point.score);
  const highest = state.upper ?? state.threshold;
  const low = Math.min(state.threshold, ...scores);
  const high = Math.max(highest, ...scores);
  const pad = 0.08 * (high - low || 1);
  const y = (score) => height - bottom - ((score - low + pad) / (high - low + 2 * pad)) * (height - bottom - top);
  const span = Math.max(60, state.points.length);
  const x = (index) => width - 12 - ((state.points.length - 1 - index) * (width - left - 24)) / (span - 1);
  chart.replaceChildren();
  chart.append(svg("line", { class: "threshold", x1: left, x2: width, y1: y(state.threshold), y2: y(state.threshold) }));
  chart.append(svg("text", { x: left - 6, y: y(state.threshold) + 4, "text-anchor": "end" }, short(state.threshold)));
  if (state.upper !== null) {
    chart.append(svg("line", { class: "upper", x1: left, x2: width, y1: y(state.upper), y2: y(state.upper) }));
    if (Math.abs(y(state.upper) - y(state.threshold)) > 14) {
      chart.append(svg("text", { x: left - 6, y: y(state.upper) + 4, "text-anchor": "end" }, short(state.upper)));
    }
  }
  state.points.forEach((point, index) => {
    const kind = KINDS[point.outcome];
    const link = svg("a", { href: `/inspections/${point.id}`, "aria-label": `score ${short(point.score)}, ${point.outcome}` });
    link.append(point.drift
      ? svg("rect", { class: kind, x: x(index) - 5, y: y(point.score) - 5, width: 10, height: 10 })
      : svg("circle", { class: kind, cx: x(index), cy: y(point.score), r: kind === "good" ? 3.5 : 5 }));
    chart.append(link);
  });
  if (follows) box.scrollLeft = box.scrollWidth;
  const drifted = state.points.slice(-20).filter((point) => point.drift);
  const notice = document.getElementById("drift");
  notice.hidden = drifted.length < DRIFTED;
  if (drifted.length) {
    notice.textContent = `${drifted.length} of the newest 20 images are ${drifted.at(-1).drift}: has the light or the camera changed?`;
  }
}

function shot(inspection) {
  const thumbnail = html("img", { src: `/v1/inspections/${inspection.id}/thumbnail`, alt: "", width: 256,
    height: Math.round((256 * inspection.height) / inspection.width) });
  const text = html("span", { className: "shot-text" },
    html("span", { className: `pill ${KINDS[inspection.outcome]}`, textContent: inspection.outcome.toUpperCase() }), " ",
    html("b", {}, html("bdi", { textContent: inspection.part_id || "no part id" })),
    html("span", { className: "quiet", textContent: `score ${short(inspection.score)}, threshold ${short(inspection.threshold)}` }),
    html("span", { className: "quiet" }, html("time", { dateTime: inspection.time })));
  const item = html("li", { className: "shot new" }, html("a", { href: `/inspections/${inspection.id}` }, thumbnail, text));
  item.dataset.number = inspection.number;
  return item;
}

function add(inspection) {
  if (inspection.model !== line.dataset.model || inspection.number <= last) return;
  last = inspection.number;
  const item = shot(inspection);
  localTimes(item);
  shots.prepend(item);
  while (shots.children.length > MOST_SHOTS) shots.lastElementChild.remove();
  document.getElementById("empty").hidden = true;
  for (const name of ["total", inspection.outcome]) {
    const count = document.querySelector(`[data-count="${name}"]`);
    count.textContent = Number(count.textContent) + 1;
  }
  state.threshold = inspection.threshold;
  state.upper = inspection.upper_threshold;
  state.points.push({ id: inspection.id, score: inspection.score, outcome: inspection.outcome, drift: inspection.drift });
  if (state.points.length > MOST_POINTS) state.points.shift();
  draw();
}

/** Fetch what was missed while the connection was gone, or while the browser slept. */
async function catchUp() {
  const query = new URLSearchParams({ model: line.dataset.model, after: last, limit: 200 });
  const page = await call("GET", `/v1/inspections?${query}`).catch(() => ({ inspections: [] }));
  page.inspections.reverse().forEach(add);
}

function connect() {
  const shown = document.getElementById("connection");
  const events = new EventSource("/v1/events");
  events.addEventListener("open", () => {
    shown.textContent = "Live";
    shown.className = "connection live";
    catchUp();
  });
  events.addEventListener("error", () => {
    shown.textContent = "The station does not answer. New parts are shown when it does.";
    shown.className = "connection";
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  });
  events.addEventListener("inspection", (event) => add(JSON.parse(event.data)));
  events.addEventListener("missed", catchUp);
  events.addEventListener("model", () => location.reload());
}

draw();
box.addEventListener("scroll", () => { follows = box.scrollLeft + box.clientWidth >= box.scrollWidth - SLACK_PX; });
connect();
document.addEventListener("visibilitychange", () => { if (!document.hidden) catchUp(); });

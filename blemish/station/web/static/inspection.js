// One part: zoom, heat map, review by one key, and similar defects.
import { attempt, call, html, say } from "./common.js";

const root = document.getElementById("inspection");
const { id, queue, newer, older } = root.dataset;
const address = `/v1/inspections/${id}`;
const stage = document.getElementById("stage");
const sheet = document.getElementById("sheet");
const heat = document.getElementById("heat");
const type = document.getElementById("defect-type");
const view = { scale: 1, x: 0, y: 0 };
const kept = { opacity: "blemish-opacity", outlines: "blemish-outlines" };

// --- the image

function place() {
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  view.x = Math.min(0, Math.max(view.x, width * (1 - view.scale)));
  view.y = Math.min(0, Math.max(view.y, height * (1 - view.scale)));
  sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const scale = Math.min(16, Math.max(1, view.scale * factor));
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  place();
}

function setOpacity(percent) {
  heat.style.opacity = percent / 100;
  localStorage.setItem(kept.opacity, percent);
}

function showOutlines(areShown) {
  document.getElementById("outlines").style.display = areShown ? "" : "none";
  localStorage.setItem(kept.outlines, areShown ? "yes" : "no");
}

stage.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && view.scale === 1 && event.deltaY > 0) return;
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.25 : 0.8, event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  if (view.scale === 1) return;
  stage.setPointerCapture(event.pointerId);
  const start = { x: event.clientX - view.x, y: event.clientY - view.y };
  const move = (moved) => {
    view.x = moved.clientX - start.x;
    view.y = moved.clientY - start.y;
    place();
  };
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", move), { once: true });
});
document.getElementById("zoom-in").addEventListener("click", () => zoom(1.5));
document.getElementById("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
document.getElementById("zoom-reset").addEventListener("click", () => zoom(0));
const opacity = document.getElementById("opacity");
opacity.value = localStorage.getItem(kept.opacity) ?? opacity.value;
opacity.addEventListener("input", () => setOpacity(opacity.value));
const outlines = document.getElementById("outline-shown");
outlines.checked = localStorage.getItem(kept.outlines) !== "no";
outlines.addEventListener("change", () => showOutlines(outlines.checked));
setOpacity(opacity.value);
showOutlines(outlines.checked);

// --- the review

let isSending = false;

async function review(verdict, kind = type?.value.trim()) {
  if (isSending || !type) return;
  isSending = true;
  const body = { verdict, defect_type: verdict === "good" ? "" : kind, comment: document.getElementById("comment").value };
  const said = await attempt(() => call("POST", `${address}/review`, body));
  isSending = false;
  if (!said) return;
  if (queue) location.assign(`/review?last=${id}`);
  else {
    sessionStorage.setItem("blemish-said", `Called ${verdict}.`);
    location.reload();
  }
}

async function undo(which = id) {
  const done = await attempt(() => call("DELETE", `/v1/inspections/${which}/review`));
  if (!done) return;
  if (queue) location.assign(`/inspections/${which}`);
  else location.reload();
}

document.getElementById("say-good")?.addEventListener("click", () => review("good"));
const suggested = document.getElementById("say-suggested");
suggested?.addEventListener("click", () => review("defective", document.getElementById("suggested-type").textContent));
document.getElementById("review")?.addEventListener("submit", (event) => {
  event.preventDefault();
  review("defective");
});
const undoButton = document.getElementById("undo");
undoButton?.addEventListener("click", () => undo());
const undoLast = document.getElementById("undo-last");
undoLast?.addEventListener("click", () => undo(undoLast.dataset.id));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
  const isRange = event.target.type === "range";
  const actions = {
    g: () => review("good"),
    d: () => review("defective"),
    s: () => document.getElementById("suggestion")?.hidden === false && suggested.click(),
    u: () => (undoButton ? undo() : undoLast && undo(undoLast.dataset.id)),
    "+": () => zoom(1.5),
    "-": () => zoom(1 / 1.5),
    ...(isRange || queue ? {} : {
      ArrowLeft: () => newer && location.assign(`/inspections/${newer}`),
      ArrowRight: () => older && location.assign(`/inspections/${older}`),
    }),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

const said = sessionStorage.getItem("blemish-said");
if (said) {
  sessionStorage.removeItem("blemish-said");
  say(said);
}

// --- similar defects

async function showSimilar() {
  const state = document.getElementById("similar-state");
  let shown;
  try {
    shown = await call("GET", `${address}/similar`);
  } catch (error) {
    state.textContent = `Similar defects can't be searched: ${error.message}`;
    return;
  }
  state.textContent = shown.defects.length
    ? (shown.is_novel ? "Nothing quite like it was confirmed before. The nearest:" : "Confirmed before, the nearest first:")
    : "No defect was confirmed yet. Those that you call defective are found here.";
  document.getElementById("similar").replaceChildren(...shown.defects.map((defect) => html("li", { className: "shot" },
    html("a", { href: `/inspections/${defect.id}` },
      html("img", { src: `/v1/inspections/${defect.id}/thumbnail`, alt: "" }),
      html("span", { className: "shot-text" }, html("b", { textContent: defect.defect_type || "no type yet" }),
        html("span", { className: "quiet", textContent: `similarity ${defect.similarity.toFixed(2)}` }))))));
  const suggestion = document.getElementById("suggestion");
  if (suggestion && shown.suggested_type) {
    document.getElementById("suggested-type").textContent = shown.suggested_type;
    suggestion.hidden = false;
  }
}

showSimilar();

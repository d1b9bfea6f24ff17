// Teaching a model: images of good parts, their check, the fit with the time left, and the way into service.
import { attempt, call, html, say, short } from "./common.js";

const { name } = document.getElementById("teach").dataset;
const address = `/v1/teach/${encodeURIComponent(name)}`;
const element = (id) => document.getElementById(id);
let state = JSON.parse(element("state").textContent);

const texts = (list, lines) => element(list).replaceChildren(...lines.map((textContent) => html("li", { textContent })));

function imageItem(id) {
  const remove = html("button", { type: "button", className: "plain", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove image ${id}`);
  const item = html("li", { className: "shot" }, html("img", { src: `${address}/images/${id}`, alt: `Image ${id}`, loading: "lazy" }), remove);
  remove.addEventListener("click", () => attempt(async () => {
    state = await call("DELETE", `${address}/images/${id}`);
    item.remove();
    showImages();
  }));
  return item;
}

function showImages() {
  const n = state.images.length;
  element("n-images").textContent = n === 1 ? "1 image" : `${n} images`;
  element("images").replaceChildren(...state.images.map(imageItem));
  element("fit").disabled = n < 2 || state.fit?.is_running;
  element("check").disabled = n === 0;
}

async function upload(files) {
  const bar = element("upload");
  const refused = [];
  bar.hidden = false;
  bar.max = files.length;
  let sent = 0;
  for (const file of files) {
    try {
      const answer = await call("POST", `${address}/images`, file);
      refused.push(...answer.problems.map((problem) => `${file.name}: ${problem.detail}`));
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
    bar.value = ++sent;
  }
  bar.hidden = true;
  texts("refused", refused);
  state = (await attempt(() => call("GET", address))) ?? state;
  showImages();
  say(`${sent - refused.length} of ${sent} images were added.`, refused.length > 0);
}

function left(seconds) {
  if (seconds === null) return "";
  return seconds < 90 ? `, about ${Math.max(1, Math.round(seconds))} s left of this step` : `, about ${Math.round(seconds / 60)} min left of this step`;
}

function showFit(fit) {
  state.fit = fit;
  if (!fit) return;
  const bar = element("progress");
  bar.hidden = !fit.is_running;
  bar.max = fit.total || 1;
  bar.value = fit.done;
  element("fit").disabled = fit.is_running || state.images.length < 2;
  if (element("learn")) element("learn").disabled = fit.is_running;
  element("stage").textContent = fit.error ? `It could not learn: ${fit.error}`
    : fit.is_running ? `${fit.stage}: ${fit.done} of ${fit.total}${left(fit.seconds_left)}` : "Done.";
  if (fit.result) showResult(fit.result);
}

function showResult(result) {
  element("result").hidden = false;
  element("put").disabled = false;
  if (element("beside")) element("beside").disabled = false;
  element("sentence").textContent = result.sentence;
  texts("notes", [...result.notes, ...result.left_out]);
  const compared = result.comparison;
  element("comparison").hidden = !compared;
  if (compared) {
    for (const side of ["now", "new"]) {
      element(`${side}-alarms`).textContent = `${compared[side][0]} of ${compared.n_good} good`;
      element(`${side}-missed`).textContent = `${compared[side][1]} of ${compared.n_defective} defective`;
      element(`${side}-kept`).textContent = `${compared.kept[side]} of ${compared.n_kept} good`;
    }
    element("worse").hidden = compared.worse.length === 0;
    element("worse").textContent = compared.worse.join(" ");
  }
  element("suspects").hidden = result.suspects.length === 0;
  element("suspect-list").replaceChildren(...result.suspects.map((suspect) => {
    const item = suspect.image ? imageItem(suspect.image) : html("li", { className: "shot" });
    item.append(html("span", { className: "shot-text quiet", textContent: `score ${short(suspect.score)} of ${short(suspect.threshold)}` }));
    return item;
  }));
}

const drop = element("drop");
for (const [kind, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", isOver);
    if (kind === "drop") upload([...event.dataTransfer.files]);
  });
}
element("files").addEventListener("change", (event) => upload([...event.target.files]));
for (const button of document.querySelectorAll(".from-line")) {
  button.addEventListener("click", () => attempt(async () => {
    state = await call("POST", `${address}:takeFromLine`, { model: button.dataset.model, n: 200 });
    say(`${state.taken} images were taken.`);
    showImages();
  }));
}
element("check").addEventListener("click", () => attempt(async () => {
  element("checked").textContent = "Checking …";
  const found = await call("POST", `${address}:check`);
  const sizes = Object.keys(found.sizes).join(", ");
  element("checked").textContent = `${found.images} images of ${found.parts} different parts, ${sizes} pixels, ${found.unreadable} that can't be read.`;
  texts("problems", found.problems.map((problem) => problem.text));
}));
element("fit").addEventListener("click", () => attempt(async () => showFit(await call("POST", `${address}:fit`))));
element("learn")?.addEventListener("click", () => attempt(async () => showFit(await call("POST", `${address}:learn`))));
element("put").addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}:putInService`);
  location.assign(`/?model=${encodeURIComponent(name)}`);
}));

element("beside")?.addEventListener("click", () => attempt(async () => {
  await call("POST", `/v1/models/${encodeURIComponent(name)}/shadow:start`);
  location.assign(`/models/${encodeURIComponent(name)}/shadow`);
}));

const events = new EventSource("/v1/events");
events.addEventListener("teach", (event) => {
  const fit = JSON.parse(event.data);
  if (fit.name === name) showFit(fit);
});
events.addEventListener("open", async () => {
  const present = await call("GET", address).catch(() => state);
  showFit(present.fit);
});
showImages();
showFit(state.fit);

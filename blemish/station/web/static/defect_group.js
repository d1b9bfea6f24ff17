// One group of similar defects: its name, merging, and splitting or moving those that are selected.
import { attempt, call, say } from "./common.js";

const { number } = document.getElementById("group").dataset;
const address = `/v1/defects/${number}`;
const element = (id) => document.getElementById(id);
const boxes = [...document.querySelectorAll("#members input[type=checkbox]")];
const kept = "blemish-done";

const selected = () => boxes.filter((box) => box.checked).map((box) => box.value);

function count() {
  const n = selected().length;
  for (const place of document.querySelectorAll(".n-selected")) place.textContent = n;
  if (element("split")) element("split").disabled = n === 0;
  if (element("move")) element("move").disabled = n === 0;
  for (const box of boxes) box.closest(".shot").classList.toggle("chosen", box.checked);
}

/** Change groups, then show the one that is the result, and say what was done. */
function change(path, body, words) {
  return attempt(async () => {
    const group = await call("POST", path, body);
    sessionStorage.setItem(kept, words(group));
    if (location.pathname === `/defects/${group.number}`) location.reload();
    else location.assign(`/defects/${group.number}`);
  });
}

element("rename")?.addEventListener("submit", (event) => {
  event.preventDefault();
  change(`${address}:rename`, { name: element("name").value }, (group) => `${group.n} defects are called ${group.title} now.`);
});
element("merge")?.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!element("into")) return;
  change(`${address}:merge`, { into: Number(element("into").value) }, (group) => `They are in ${group.title} now, with ${group.n} defects.`);
});
element("split")?.addEventListener("click", () => change(`${address}:split`,
  { ids: selected(), name: element("new-name").value }, (group) => `${group.n} defects were split off.`));
element("move")?.addEventListener("click", () => {
  const ids = selected();
  change(`/v1/defects/${element("target").value}:take`, { ids }, (group) => `${ids.length} defects were moved to ${group.title}.`);
});
element("none")?.addEventListener("click", () => {
  for (const box of boxes) box.checked = false;
  count();
});
element("propose")?.addEventListener("click", () => attempt(async () => {
  const { ids } = await call("GET", `${address}/proposed-split`);
  for (const box of boxes) box.checked = ids.includes(box.value);
  count();
  say(ids.length ? `${ids.length} look different from the others. Check them, then split them off or move them.`
    : "They can't be compared: their images may be gone.");
}));
for (const box of boxes) box.addEventListener("change", count);

async function showAlike() {
  const text = element("alike");
  if (!text) return;
  const found = await call("GET", `${address}/alike`).catch(() => []);
  if (!found.length) return;
  text.textContent = `It looks most like ${found[0].group.title} (similarity ${found[0].similarity.toFixed(2)}).`;
  element("into").value = found[0].group.number;
}

const done = sessionStorage.getItem(kept);
if (done) {
  sessionStorage.removeItem(kept);
  say(done);
}
count();
showAlike();

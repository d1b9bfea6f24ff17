// A new version beside the one in service: its counts as they grow, and the way into service.
import { attempt, call } from "./common.js";

const root = document.getElementById("shadow");
const { model, running } = root.dataset;
const shown = Number(root.dataset.different);
const address = `/v1/models/${encodeURIComponent(model)}/shadow`;
const text = (id, value) => { document.getElementById(id).textContent = value; };

async function refresh() {
  if (document.hidden) return;
  const summary = await call("GET", address).catch(() => null);
  if (!summary) return;
  text("n", summary.n);
  text("n-different", summary.n_different);
  text("n-dropped", summary.candidate.n_dropped);
  text("n-more", summary.n_different - shown);
  document.getElementById("more-differ").hidden = summary.n_different <= shown;
}

document.getElementById("reload").addEventListener("click", () => location.reload());
document.getElementById("put")?.addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}:putInService`);
  location.assign(`/models/${encodeURIComponent(model)}`);
}));
document.getElementById("stop")?.addEventListener("click", () => attempt(async () => {
  await call("POST", `${address}:stop`);
  location.reload();
}));
if (running) setInterval(refresh, 4000);

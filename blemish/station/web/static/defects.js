// Groups of similar defects: those without a type are sorted by their looks when the page is opened.
import { call } from "./common.js";

const root = document.getElementById("defects");
const { model, unsorted, may } = root.dataset;
const notice = document.getElementById("sorting");

async function sort() {
  const before = notice.textContent;
  notice.textContent = `${before} They are sorted now …`;
  try {
    const { n } = await call("POST", `/v1/models/${encodeURIComponent(model)}/defects:sort`);
    if (n) location.reload();
    else notice.textContent = `${before} Their looks could not be computed: their images may be gone.`;
  } catch (error) {
    notice.textContent = `${before} ${error.message}`;
  }
}

if (may && Number(unsorted)) sort();

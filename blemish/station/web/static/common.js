// Requests to the station, messages to its user, and times in the user's own zone.

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

/** Return the JSON answer of the station, or throw an Error that says what is wrong. */
export async function call(method, address, body) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  const isRaw = body instanceof Blob;
  if (body !== undefined && !isRaw) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address, { method, headers, body: body === undefined || isRaw ? body : JSON.stringify(body) });
  } catch {
    throw new Error("The station does not answer. Is it running, and is the network there?");
  }
  if (answer.status === 401 && location.pathname !== "/login") {
    location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
  }
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(document.detail ?? `The station answered ${answer.status}.`);
  return document;
}

/** Show a message for some seconds; a screen reader says it. */
export function say(text, isError = false) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.className = isError ? "shown failed" : "shown";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.className = ""; }, isError ? 12000 : 5000);
}

/** Carry out an action, and say what went wrong. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

/** Write times in the user's own zone. */
export function localTimes(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(element.dateTime);
    if (!Number.isNaN(moment.valueOf())) element.textContent = moment.toLocaleString();
  }
}

/** Return a number with four digits that count, as the station writes it. */
export const short = (value) => Number(value.toPrecision(4)).toString();

/** Return an SVG element with attributes, and text if there is any. */
export function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Return an HTML element with properties and children. */
export function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

localTimes();
document.getElementById("log-out")?.addEventListener("click", () => attempt(async () => {
  await call("POST", "/v1/logout");
  location.assign("/login");
}));

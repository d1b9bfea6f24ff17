// The form to log in.
import { call } from "./common.js";

const form = document.getElementById("login");
const failure = document.getElementById("failure");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = new FormData(form);
  try {
    await call("POST", "/v1/login", { name: values.get("name"), password: values.get("password") });
    location.assign(form.dataset.next);
  } catch (error) {
    failure.textContent = error.message.startsWith("user and password") ? "Name or password is wrong." : error.message;
  }
});

// The form for the password, and the token where the service wants one.

import { Session } from "./api.js";
import { SLOW } from "./status.js";

const byId = (id) => document.getElementById(id);

const TITLES = {
  400: "The service refuses the request",
  401: "This service needs a token",
  403: "The token may not read",
  404: "No readings under this password",
  429: "Too many requests",
  0: "The service can't be reached",
};

function titleOf(failure) {
  if (failure.field === "Last-Event-ID") return "The password of these readings was changed, or they were erased";
  return TITLES[failure.status] ?? "The service can't answer now";
}

function explain(failure, hadToken) {
  // Another vault has the password now.
  if (failure.field === "Last-Event-ID") return "Devices send under this password again: enter it to see the new readings.";
  switch (failure.status) {
    case 401:
      return hadToken
        ? "The service does not know this token. Check it, or ask for a new one."
        : "Enter a token with the scope “read”. Ask the operator of the service for one.";
    case 403:
      return "The token needs the scope “read”. Ask the operator of the service for such a token.";
    case 404:
      return "Check the spelling: upper and lower case matter. Readings appear once a device has sent some under this password.";
    case 429:
      return failure.reason === "live_streams"
        ? "The service has no room for another live page. The page tries again by itself."
        : "Too many wrong passwords were tried, or too many requests were sent. The page tries again by itself.";
    case 0:
      return "The page tries again by itself.";
    default:
      return `${failure.message}. ${failure.status >= 500 ? "The page tries again by itself." : ""}`;
  }
}

/** Asks for the password, and shows why it was not taken. */
export class Entry {
  #timer = 0;

  constructor(onOpen, onCancel) {
    this.form = byId("entry-form");
    this.password = byId("password");
    this.token = byId("token");
    this.message = byId("entry-message");
    this.button = byId("open");
    this.busy = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) {
        this.#idle();
        this.#say();
        onCancel();
        return;
      }
      this.#opening();
      onOpen(new Session(this.password.value, this.token.value.trim()));
    });
    byId("reveal").addEventListener("click", (event) => {
      const shown = this.password.type === "text";
      this.password.type = shown ? "password" : "text";
      event.currentTarget.setAttribute("aria-pressed", String(!shown));
    });
    // A page that the browser restores from its cache shows no password and no token.
    window.addEventListener("pagehide", () => this.forget());
  }

  show() {
    byId("entry").hidden = false;
    this.#idle();
    if (byId("operator").hidden) this.password.focus();
  }

  hide() {
    byId("entry").hidden = true;
    this.#forgetPassword();
    this.#idle();
    this.#say();
  }

  /** Forget the password and the token. */
  forget() {
    this.token.value = "";
    this.#forgetPassword();
  }

  #forgetPassword() {
    this.password.value = "";
    this.password.type = "password";
    byId("reveal").setAttribute("aria-pressed", "false");
  }

  /** Show a refusal. The person has to act. */
  refuse(failure) {
    this.show();
    const needsToken = failure.status === 401 || failure.status === 403;
    if (needsToken) byId("token-field").hidden = false;
    this.#explain(failure.status === 404 ? "wrong" : "refused", failure);
    const field = needsToken ? this.token : this.password;
    field.setAttribute("aria-invalid", "true");
    field.focus();
    if (field === this.password) field.select();
  }

  /** Say that the service takes long to answer. */
  slow() {
    clearInterval(this.#timer);
    this.#say("waiting", SLOW.title, SLOW.text);
  }

  /** Show a failure after which the page tries again at `until`. */
  wait(failure, until) {
    this.#explain("waiting", failure);
    clearInterval(this.#timer);
    const text = this.message.querySelector(".detail");
    const rest = text.textContent;
    const show = () => {
      const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
      text.textContent = seconds ? `${rest} Next try in ${seconds} s.` : rest;
    };
    show();
    this.#timer = setInterval(show, 500);
  }

  #opening() {
    this.busy = true;
    this.form.dataset.state = "opening";
    this.button.textContent = "Opening … cancel";
    this.#say();
    for (const field of [this.password, this.token]) field.removeAttribute("aria-invalid");
  }

  #idle() {
    clearInterval(this.#timer);
    this.busy = false;
    this.form.dataset.state = "idle";
    this.button.textContent = "Open";
  }

  #explain(kind, failure) {
    this.#say(kind, titleOf(failure), explain(failure, this.token.value !== ""));
  }

  #say(kind = "", title = "", text = "") {
    this.message.dataset.kind = kind;
    this.message.hidden = !title;
    const strong = document.createElement("strong");
    strong.textContent = title;
    const detail = document.createElement("span");
    detail.className = "detail";
    detail.textContent = text;
    this.message.replaceChildren(strong, detail);
  }
}

// What the page says about its connection and its data.

const byId = (id) => document.getElementById(id);

/** The state beside the title, for example “Live”. */
export function setStatus(state, text) {
  const element = byId("status");
  const words = byId("status-text");
  if (element.dataset.state !== state) element.dataset.state = state;
  if (words.textContent !== text) words.textContent = text;
}

/** The figure beside the state. Screen readers do not announce it. */
export function setRate(text) {
  const element = byId("rate");
  if (element.textContent !== text) element.textContent = text;
}

/** Opening the readings, or loading a range, may take this long; then the page says `SLOW`. */
export const SLOW_MS = 5000;
export const SLOW = {
  kind: "warning",
  title: "Still waiting for the service.",
  text: "If other tabs show this page, close some: a browser opens at most six connections to a service.",
};
const ORDER = ["connection", "error", "slow", "skipped", "empty", "unread"];
const notices = new Map();

/**
 * Show a notice, or remove it with `null`: `{kind, title, text, action: [label, function]}`. Of
 * several notices, the most important one is shown.
 */
export function setNotice(name, notice) {
  if (notice) notices.set(name, notice);
  else if (!notices.delete(name)) return;
  const shown = ORDER.map((each) => notices.get(each)).find(Boolean);
  const element = byId("notice");
  const focused = element.contains(document.activeElement);
  element.hidden = !shown;
  if (!shown) {
    element.replaceChildren();
    return;
  }
  element.dataset.kind = shown.kind;
  element.dataset.name = ORDER.find((each) => notices.has(each));
  const words = document.createElement("p");
  const title = document.createElement("strong");
  title.textContent = shown.title;
  words.append(title, ` ${shown.text ?? ""}`);
  element.replaceChildren(words);
  if (shown.action) {
    const [label, run] = shown.action;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", run);
    element.append(button);
    if (focused) button.focus(); // a notice is renewed each second while it counts down
  }
}

export function clearNotices() {
  for (const name of [...notices.keys()]) setNotice(name, null);
}

// The dead letters in the operator's view. A writer replays or drops them, as ordered here.

import { formatDate, formatNumber } from "./format.js";

const byId = (id) => document.getElementById(id);
const ACTIONS = {
  replay: { label: "Replay", ordered: "replay ordered", done: "was replayed: its entry is back in the backlog", send: (session, id) => session.send("POST", `api/dead-letters/${id}/replay`) },
  drop: { label: "Drop", ordered: "drop ordered", done: "was dropped", send: (session, id) => session.send("DELETE", `api/dead-letters/${id}`) },
};

/** Shows dead letters, and orders the action that a person chooses. `onDone` is called after each order. */
export class DeadLetters {
  #session = null;
  #letters = [];
  #sent = new Map();
  #dropped = null;
  #shown = "";

  constructor(onDone) {
    this.onDone = onDone;
    byId("operator-letters").addEventListener("click", (event) => {
      const { action, id } = event.target.closest("button")?.dataset ?? {};
      if (action === "replay") this.#order(id, action);
      if (action === "drop") this.#confirm(id);
    });
    byId("drop-no").addEventListener("click", () => byId("drop").close());
    byId("drop-yes").addEventListener("click", () => {
      byId("drop").close();
      this.#order(this.#dropped, "drop");
    });
  }

  write(dead, session) {
    this.#session = session;
    this.#letters = dead?.oldest ?? [];
    byId("operator-dead").hidden = !dead?.count;
    const left = (dead?.count ?? 0) - this.#letters.length;
    const note = left > 0 ? `These are the oldest. In a writer's pod, “iot-sensor dead” also handles the other ${formatNumber(left)}.` : "";
    if (byId("operator-dead-note").textContent !== note) byId("operator-dead-note").textContent = note;
    this.#draw();
  }

  /** Remove the dialog, and the notice about an order. */
  hide() {
    byId("drop").close();
    byId("operator-ordered").hidden = true;
  }

  #draw() {
    const rows = this.#letters.map((letter) => ({ ...letter, ordered: this.#sent.get(letter.id) ?? letter.ordered }));
    // Replacing a row would take the focus away from its button.
    const shown = JSON.stringify(rows);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const focused = document.activeElement?.closest("#operator-letters button");
    byId("operator-letters").replaceChildren(...rows.map(row));
    if (!focused) return;
    const again = document.querySelector(`#operator-letters button[data-id="${focused.dataset.id}"][data-action="${focused.dataset.action}"]`);
    (again ?? byId("operator-letters").closest("[tabindex]")).focus();
  }

  #confirm(id) {
    const letter = this.#letters.find((each) => each.id === id);
    if (!letter) return;
    this.#dropped = id;
    byId("drop-id").textContent = id;
    byId("drop-what").textContent = `Set aside ${formatDate(letter.time)}, shard ${letter.shard}: ${letter.reason}`;
    byId("drop").showModal();
  }

  async #order(id, action) {
    this.#sent.set(id, action);
    this.#draw();
    try {
      const { state } = await (await ACTIONS[action].send(this.#session, id)).json();
      const later = `: ${ACTIONS[action].ordered}. A writer carries out the order as soon as possible.`;
      this.#say(`Dead letter ${id}${state === "ordered" ? later : ` ${ACTIONS[action].done}.`}`, "info");
    } catch (error) {
      this.#say(`${ACTIONS[action].label} of dead letter ${id} failed: ${error.message}.`, "error");
    }
    this.#sent.delete(id);
    this.onDone();
  }

  #say(text, kind) {
    const element = byId("operator-ordered");
    element.hidden = false;
    element.dataset.kind = kind;
    element.textContent = text;
  }
}

function row({ id, time, shard, reason, ordered }) {
  const element = document.createElement("tr");
  for (const [text, className] of [[id, "mono"], [formatDate(time), ""], [shard, "number"], [reason, "reason"]]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    cell.className = className;
    element.append(cell);
  }
  const choice = document.createElement("td");
  choice.className = "choice";
  if (ordered) choice.textContent = `${ACTIONS[ordered].ordered} …`;
  else choice.append(...Object.keys(ACTIONS).map((action) => button(id, action)));
  element.append(choice);
  return element;
}

function button(id, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = action === "drop" ? "Drop …" : ACTIONS[action].label;
  element.setAttribute("aria-label", `${ACTIONS[action].label} dead letter ${id}`);
  element.dataset.action = action;
  element.dataset.id = id;
  return element;
}

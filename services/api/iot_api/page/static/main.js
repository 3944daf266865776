// Wires the page: the form, the stream, the view and the controls.

import { Entry } from "./entry.js";
import { LiveFeed } from "./feed.js";
import { formatDate, formatDuration, formatLocal, formatName, formatNumber } from "./format.js";
import { downloadCsv } from "./history.js";
import { noteEmpty } from "./notices.js";
import { OperatorView } from "./operator.js";
import { MAX_FIELDS } from "./readings.js";
import { clearNotices, setNotice, setRate, setStatus } from "./status.js";
import { ReadingsView } from "./view.js";

const INGEST_MS = 6; // readings may take this long in a frame
const FIRST_SECONDS = 60; // the stream begins with the readings of this time
const LOST_AFTER = 4; // failed attempts after which the page says “Disconnected”
const QUIET_MS = 1500;
const byId = (id) => document.getElementById(id);
const inputOf = (ms) => formatLocal(Math.round(ms / 1000) * 1000);

export const view = new ReadingsView(showControls);
let feed = null;
let session = null;
let opened = false;
let connection = "idle";
let countdown = 0;

const entry = new Entry(open, leave);
const operator = new OperatorView(setStatus);
let place = "readings";

function open(opening) {
  session = opening;
  opened = false;
  feed?.close();
  feed = new LiveFeed(session, FIRST_SECONDS, {
    readings: (rows, at) => view.add(rows, at),
    summary: showSkipped,
    state: onState,
  });
}

/** Forget the password and everything that was read. */
function leave(failure = null) {
  feed?.close();
  feed = null;
  session = null;
  clearInterval(countdown);
  view.close();
  clearNotices();
  setRate("");
  connection = "idle";
  opened = false;
  if (failure?.status !== undefined) entry.refuse(failure);
  else entry.show();
  showPlace();
}

function onState(state, detail) {
  if (state === "slow" && opened) return; // the page already says that the connection is lost
  connection = state;
  clearInterval(countdown);
  if (state === "refused") leave(detail);
  else if (state === "slow") entry.slow();
  else if (state === "open") {
    setNotice("connection", null);
    if (!opened) begin();
  } else if (state === "reconnecting") {
    if (opened) showLost(detail);
    else entry.wait(detail.failure, detail.until);
  }
  showControls();
}

function begin() {
  opened = true;
  view.open(session, () => feed.now(), feed.now() - FIRST_SECONDS * 1000);
  byId("mode-live").checked = true;
  entry.hide();
  showPlace();
  byId("plots").focus({ preventScroll: true });
  requestAnimationFrame(frame);
  setTimeout(showQuiet, QUIET_MS);
}

function frame(time) {
  if (feed === null || !opened) return;
  feed.pump(INGEST_MS);
  view.frame(time);
  requestAnimationFrame(frame);
}

// --- Places: the readings, and the operator's view -----------------------------------------------

function showPlace() {
  const readings = place === "readings";
  byId("show-readings").setAttribute("aria-current", readings ? "page" : "false");
  byId("show-operator").setAttribute("aria-current", readings ? "false" : "page");
  byId("entry").hidden = !readings || opened;
  byId("readings").hidden = !readings || !opened;
  byId("lock").hidden = !opened;
  showControls();
}

function go(to) {
  if (place === to) return;
  place = to;
  setRate("");
  if (place === "operator") operator.show();
  else operator.hide();
  showPlace();
}

// --- Notices ------------------------------------------------------------------------------------

function showLost({ failure, until, failures }) {
  const lost = failures >= LOST_AFTER || !navigator.onLine;
  connection = lost ? "disconnected" : "reconnecting";
  const show = () => {
    const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
    setNotice("connection", {
      kind: lost ? "error" : "warning",
      title: lost ? "Disconnected." : "The connection is lost.",
      text: lost
        ? `${failure.message}. Next try ${seconds ? `in ${seconds} s` : "now"}. Readings sent meanwhile are not lost: they appear afterwards.`
        : "Reconnecting. Readings sent meanwhile appear afterwards.",
      action: lost ? ["Try now", () => feed?.stream.retryNow()] : null,
    });
  };
  show();
  if (lost) countdown = setInterval(show, 1000);
}

function showSkipped(summary) {
  view.skipped(summary);
  const count = Number(summary.skipped).toLocaleString("en");
  setNotice("skipped", {
    kind: "info",
    title: `${count} readings were left out of the live stream.`,
    text: "They are stored, and the plots show them. The table does not.",
    action: ["Hide", () => setNotice("skipped", null)],
  });
}

async function showQuiet() {
  if (!opened || view.recent.count || view.mode === "history") return;
  const asked = session;
  try {
    const newest = await view.showNewest();
    if (session !== asked || view.recent.count || view.mode === "history") return;
    if (newest) noteEmpty("No readings in the last minute.", newest, view.timeInHistory(newest), goTo);
    else setNotice("empty", {
      kind: "info",
      title: "No readings yet.",
      text: "Readings appear here by themselves, as soon as a device sends some under this password.",
    });
  } catch {
    // The stream says by itself if the service is away.
  }
}

function goTo(time) {
  byId("mode-history").checked = true;
  view.enterHistory();
  view.show(time - 600_000, time + 60_000);
}

// --- Controls -----------------------------------------------------------------------------------

const STATUS = {
  idle: ["idle", "Not connected"],
  opening: ["busy", "Connecting"],
  slow: ["busy", "Connecting"],
  open: ["live", "Live"],
  reconnecting: ["busy", "Reconnecting"],
  disconnected: ["lost", "Disconnected"],
};

function showControls() {
  if (opened && view.recent.count && view.mode === "live") setNotice("empty", null);
  if (place !== "readings") return;
  const still = view.range !== null && view.mode === "live";
  const history = view.mode === "history";
  if (connection === "open" && (still || history)) setStatus(history ? "history" : "paused", history ? "History" : "Paused");
  else setStatus(...(STATUS[connection] ?? STATUS.idle));
  byId("readings").dataset.mode = view.mode;
  setRate(opened && !history && view.recent.count ? `${formatNumber(view.rate)}/s` : "");
  byId("live-tools").hidden = history;
  byId("history-tools").hidden = !history;
  byId("pause").setAttribute("aria-pressed", String(still));
  byId("pause-text").textContent = still ? "Resume" : "Pause";
  byId("table-title").textContent = history ? "Newest readings in this range" : "Newest readings";
  if (!opened) return;
  showRange();
  showFields();
  showTagFields();
  byId("by").value = view.choices.by ?? "";
}

function showRange() {
  const { from, to } = view.current();
  const text = view.range && view.mode === "live" ? `${formatDate(from)} – ${formatDate(to)} · ${formatDuration(to - from)}` : "";
  if (byId("range").textContent !== text) byId("range").textContent = text;
  const end = byId("to");
  if (end.dataset.range !== `${from} ${to}`) {
    end.dataset.range = `${from} ${to}`;
    end.setAttribute("aria-invalid", "false");
  }
  if (end.getAttribute("aria-invalid") === "true") return; // the other end may be edited next
  for (const [id, at] of [["from", from], ["to", to]]) {
    const input = byId(id);
    if (document.activeElement !== input) input.value = inputOf(at);
  }
}

function showFields() {
  const shown = new Set(view.shownFields);
  const { numbers, full } = view.fields;
  const own = [...numbers.keys()].filter((index) => !numbers[index].column);
  const columns = [...numbers.keys()].filter((index) => numbers[index].column);
  const listed = view.mode === "live" ? [...own, ...columns] : own;
  byId("fields-summary").textContent = `Plots ${shown.size} of ${listed.length}`;
  const none = shown.size === 0 && (view.recent.count > 0 || view.fields.readings > 0);
  byId("no-plots").hidden = !none;
  const list = byId("fields-items");
  const key = JSON.stringify([full, listed.map((index) => [index, numbers[index].name, shown.has(numbers[index])])]);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const focused = list.contains(document.activeElement) ? document.activeElement.value : null;
  list.replaceChildren(...listed.map((index) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = index;
    box.checked = shown.has(numbers[index]);
    label.append(box, formatName(numbers[index].name));
    return label;
  }));
  if (full) {
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = `Fields after the first ${MAX_FIELDS} (numbers and texts) are not offered.`;
    list.append(note);
  }
  if (focused !== null) list.querySelector(`[value="${focused}"]`)?.focus();
}

function showTagFields() {
  const select = byId("tag-field");
  const { texts } = view.fields;
  const key = JSON.stringify(texts.map((field) => field.name));
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    const options = [["", "One line"], ...texts.map((field, index) => [index, formatName(field.name)])];
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  }
  select.value = view.tagField ? texts.indexOf(view.tagField) : "";
}

function goLive() {
  byId("mode-live").checked = true;
  view.follow();
  showQuiet();
}

function pause() {
  if (view.mode === "history") return;
  if (view.range) goLive();
  else view.show(...Object.values(view.current()));
}

for (const radio of document.querySelectorAll('input[name="mode"]')) {
  radio.addEventListener("change", () => {
    setNotice("empty", null);
    if (radio.value === "history") view.enterHistory();
    else goLive();
  });
}
for (const radio of document.querySelectorAll('input[name="window"]')) {
  radio.addEventListener("change", () => {
    view.choose({ window: Number(radio.value) * 1000 });
    if (view.range) goLive();
  });
}
byId("show-readings").addEventListener("click", () => go("readings"));
byId("show-operator").addEventListener("click", () => go("operator"));
byId("pause").addEventListener("click", pause);
byId("lock").addEventListener("click", () => {
  operator.forget();
  entry.forget();
  go("readings");
  leave();
});
byId("by").addEventListener("change", (event) => {
  view.choose({ by: event.target.value || null });
  showQuiet();
});
byId("tag-field").addEventListener("change", (event) => view.choose({ tagField: view.fields.texts[event.target.value] }));
byId("fields-items").addEventListener("change", (event) => {
  const fields = new Map(view.choices.fields).set(view.fields.numbers[event.target.value], event.target.checked);
  view.choose({ fields });
});
for (const [id, act] of Object.entries({
  earlier: () => view.pan(-0.5),
  later: () => view.pan(0.5),
  closer: () => view.zoom(0.5),
  wider: () => view.zoom(2),
})) byId(id).addEventListener("click", act);

byId("last").addEventListener("change", (event) => {
  const length = Number(event.target.value) * 1000;
  event.target.value = "";
  if (length) view.show(view.now() - length, view.now());
});
for (const id of ["from", "to"]) {
  byId(id).addEventListener("change", () => {
    const shown = view.current();
    // An end that is not edited keeps its time: when daylight saving time ends, one text stands for two times.
    const [from, to] = ["from", "to"].map((end) => {
      const time = Date.parse(byId(end).value);
      return time === Date.parse(inputOf(shown[end])) ? shown[end] : time;
    });
    byId("to").setAttribute("aria-invalid", String(!(from < to)));
    if (from < to) view.show(from, to);
  });
}

byId("download").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  button.dataset.busy = "true";
  try {
    await downloadCsv(session, { ...view.current(), by: view.by });
    setNotice("error", null);
  } catch (error) {
    setNotice("error", { kind: "error", title: "The readings can't be downloaded.", text: error.message });
  } finally {
    button.disabled = false;
    button.dataset.busy = "false";
  }
});

// --- Keys and wheel, while the plots have the focus ---------------------------------------------

const KEYS = {
  " ": pause,
  ArrowLeft: () => view.pan(-0.25),
  ArrowRight: () => view.pan(0.25),
  "+": () => view.zoom(0.5),
  "=": () => view.zoom(0.5),
  "-": () => view.zoom(2),
  Escape: () => view.range && goLive(),
};
byId("plots").addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
byId("plots").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
  event.preventDefault();
  const over = event.target.closest(".canvas")?.querySelector(".u-over")?.getBoundingClientRect();
  if (event.ctrlKey) {
    view.zoom(Math.exp(event.deltaY / 300), over ? Math.min(Math.max((event.clientX - over.left) / over.width, 0), 1) : 0.5);
  } else view.pan((event.deltaX || event.deltaY) / 1000);
}, { passive: false });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && opened && !event.target.closest("input, select, textarea")) {
    event.preventDefault();
    byId("search").focus();
  }
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

entry.show();
showPlace();

// The operator's view: the state of all processes, and the backlog.

import { Session } from "./api.js";
import { formatBytes, formatNumber, formatSeconds } from "./format.js";
import { DeadLetters } from "./letters.js";
import { PlotGrid } from "./plots.js";
import { ThinnedLines } from "./thinning.js";

const EVERY_MS = 2000;
const WINDOW_MS = 300_000;
const OLD_SECONDS = 60; // as in the alert IotBacklogOld
const FULL = 0.7; // as in the alert IotBacklogNearlyFull
const SHARDS_SHOWN = 64;
const byId = (id) => document.getElementById(id);

const PLOTS = [
  ["Readings in /s", (status) => status.rates?.readings_in],
  ["Readings stored /s", (status) => status.rates?.readings_out],
  ["Backlog, bytes", (status) => status.backlog?.bytes],
  ["Oldest entry, seconds", (status) => status.backlog?.oldest_seconds],
].map(([name, value]) => ({ name, value, fromZero: true }));

/** Asks for the status while it is shown. `onState(state, text)` takes the state of the connection. */
export class OperatorView {
  #session = null;
  #timer = 0;
  #request = null;
  #shown = false;
  #lines = new ThinnedLines(EVERY_MS, WINDOW_MS / EVERY_MS + 4);
  #grid = null;
  #letters = new DeadLetters(() => this.#shown && this.#ask());

  constructor(onState) {
    this.onState = onState;
    this.form = byId("operator-form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#session = new Session("", byId("operator-token").value.trim());
      this.#ask();
    });
    window.addEventListener("themechange", () => this.#grid && this.#setPlots());
    window.addEventListener("pagehide", () => (byId("operator-token").value = ""));
  }

  show() {
    this.#shown = true;
    byId("operator").hidden = false;
    this.#session ??= new Session("", "");
    this.#ask();
  }

  hide() {
    this.#shown = false;
    byId("operator").hidden = true;
    clearTimeout(this.#timer);
    this.#request?.abort();
    this.#letters.hide();
  }

  /** Forget the token. */
  forget() {
    this.#session = null;
    this.#letters.write(null, null);
    byId("operator-token").value = "";
    byId("operator-status").hidden = true;
  }

  async #ask() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    const request = (this.#request = new AbortController());
    const session = this.#session;
    try {
      const response = await session.get("api/status", { signal: request.signal });
      const status = await response.json();
      if (!this.#shown || request.signal.aborted) return;
      this.#problem(null);
      this.#write(status, session);
      this.onState("live", "Live");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#fail(error);
      if (error.status === 401 || error.status === 403) return;
    }
    if (this.#shown) this.#timer = setTimeout(() => this.#ask(), EVERY_MS);
  }

  #fail(error) {
    const needsToken = error.status === 401 || error.status === 403;
    this.form.hidden = !needsToken;
    if (needsToken) {
      const token = byId("operator-token");
      byId("operator-status").hidden = true;
      byId("operator-message").textContent = error.status === 403
        ? "This token lacks the scope “admin”."
        : token.value ? "The service does not know this token." : "";
      byId("operator-message").hidden = byId("operator-message").textContent === "";
      token.focus();
      this.onState("idle", "Not connected");
    } else {
      this.#problem(error);
      this.onState("lost", "Disconnected");
    }
  }

  #problem(error) {
    const element = byId("operator-problem");
    element.hidden = error === null;
    if (error) element.textContent = `No new status: ${error.message}. The page tries again by itself.`;
  }

  #setPlots() {
    this.#grid.set(PLOTS, [{ tag: "", label: "", colour: 0, dash: false }]);
  }

  #write(status, session) {
    this.form.hidden = true;
    byId("operator-message").hidden = true;
    byId("operator-status").hidden = false;
    if (this.#grid === null) {
      this.#grid = new PlotGrid(byId("operator-plots"), () => {}, () => {});
      this.#setPlots();
    }
    for (const plot of PLOTS) {
      const number = plot.value(status);
      if (Number.isFinite(number)) this.#lines.add(plot, "", status.time, Math.round(number * 10) / 10);
    }
    this.#grid.draw(this.#lines, status.time - WINDOW_MS, status.time);
    this.#grid.describe();
    writeCards(status);
    writeProcesses(status);
    writeShards(status.shards ?? []);
    this.#letters.write(status.dead_letters, session);
  }
}

function card(title, value, detail = "", kind = "") {
  const element = document.createElement("div");
  element.className = "card figure";
  element.dataset.kind = kind;
  const name = document.createElement("dt");
  name.textContent = title;
  const number = document.createElement("dd");
  number.textContent = value;
  const more = document.createElement("dd");
  more.className = "note";
  more.textContent = detail;
  element.append(name, number, more);
  return element;
}

function writeCards({ stores, rates, backlog, hot_window: hot, keys, schema, version, dead_letters: dead }) {
  const cards = Object.entries(stores ?? {}).map(([name, state]) =>
    card(name.replaceAll("_", " "), state, "", state.startsWith("ok") ? "good" : "bad"));
  if (rates) {
    cards.push(card("in", `${formatNumber(Math.round(rates.readings_in ?? 0))}/s`, optionalBytes(rates.bytes_in)));
    cards.push(card("stored", `${formatNumber(Math.round(rates.readings_out ?? 0))}/s`, optionalBytes(rates.bytes_out)));
    if (rates.puts_rejected) cards.push(card("rejected", `${formatNumber(rates.puts_rejected)} PUTs/s`, "", "bad"));
  }
  if (backlog) {
    const full = backlog.bytes / Math.max(1, backlog.limit_bytes);
    const detail = `${Math.round(full * 100)} % of ${formatBytes(backlog.limit_bytes)}, ${formatNumber(backlog.entries)} entries`;
    cards.push(card("backlog", formatBytes(backlog.bytes), detail, full > FULL ? "bad" : ""));
    const old = backlog.oldest_seconds > OLD_SECONDS;
    cards.push(card("oldest entry", formatSeconds(backlog.oldest_seconds), `${formatNumber(backlog.held_entries)} held`, old || backlog.held_entries ? "bad" : ""));
  }
  if (hot) {
    const whole = hot.covered_seconds !== null && hot.covered_seconds >= hot.seconds;
    cards.push(card("hot window", formatSeconds(hot.covered_seconds), `of ${formatSeconds(hot.seconds)}`, whole ? "" : "warn"));
  }
  if (dead) cards.push(card("dead letters", formatNumber(dead.count), "", dead.count ? "bad" : "good"));
  if (keys) {
    const primary = keys.find((key) => key.primary);
    const lacking = keys.some((key) => key.api === false || key.writers === false);
    const ids = keys.map((key) => key.id).join(", ");
    cards.push(card("master key", primary ? `${primary.id}` : "none", lacking ? `ids ${ids}: not loaded by all processes` : `ids ${ids}`, lacking ? "warn" : ""));
  }
  if (schema) cards.push(card("schema", String(schema.revision).padStart(4, "0"), `version ${version}`));
  byId("operator-cards").replaceChildren(...cards);
}

function optionalBytes(bytes) {
  return bytes === undefined ? "" : `${formatBytes(bytes)}/s`;
}

function fill(id, rows) {
  const body = byId(id);
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    for (const each of cells) {
      const { text, className = "" } = typeof each === "object" ? each : { text: each };
      const cell = document.createElement("td");
      cell.textContent = text;
      cell.className = className;
      row.append(cell);
    }
    return row;
  }));
}

const right = (text, kind = "") => ({ text, className: `number ${kind}` });

function writeProcesses({ writers = [], api_processes: api = [], shards = [] }) {
  const process = (kind, rate) => (each) => {
    const drained = shards.filter((shard) => shard.drained_by === each.name).map((shard) => shard.shard);
    const beat = `${formatSeconds(each.heartbeat_seconds)} ago`;
    return [{ text: each.name, className: "mono" }, kind, right(beat), right(`${formatNumber(Math.round(each[rate] ?? 0))}/s`), drained.join(", ") || "–"];
  };
  const rows = [...writers.map(process("writer", "readings_out")), ...api.map(process("API", "readings_in"))];
  if (!writers.length) rows.unshift([{ text: "no writer runs", className: "bad" }, "writer", "", "", ""]);
  fill("operator-processes", rows);
}

function writeShards(shards) {
  const longest = [...shards].sort((one, other) => other.oldest_seconds - one.oldest_seconds || one.shard - other.shard);
  const shown = longest.slice(0, SHARDS_SHOWN).sort((one, other) => one.shard - other.shard);
  fill("operator-shards", shown.map((each) => [
    right(each.shard),
    right(formatNumber(each.entries)),
    right(formatSeconds(each.oldest_seconds), each.oldest_seconds > OLD_SECONDS ? "bad" : ""),
    { text: each.drained_by ?? "–", className: "mono" },
    right(each.drained_seconds === null ? "–" : `${formatSeconds(each.drained_seconds)} ago`),
    right(each.hot_window_seconds === null ? "–" : formatSeconds(each.hot_window_seconds)),
  ]));
  const left = shards.length - shown.length;
  byId("operator-shards-note").textContent = left > 0 ? `${left} more shards are not shown: none has an older entry.` : "";
}

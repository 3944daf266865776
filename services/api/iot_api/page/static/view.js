// The view of readings: it holds what was read, and draws the window or the range that is shown.

import { Choices } from "./choices.js";
import { readNewest, readSeries, tagName } from "./history.js";
import { noteEmpty, noteFailed, noteSlow, noteUnread } from "./notices.js";
import { PlotGrid } from "./plots.js";
import { decodeReading, Fields, numberOf, RecentReadings, valueOf } from "./readings.js";
import { setNotice } from "./status.js";
import { ReadingsTable } from "./table.js";
import { Tags } from "./tags.js";
import { stepOf, ThinnedLines } from "./thinning.js";

const RECENT = 10_000;
const NEWEST = 60;
const FETCH_DELAY_MS = 180;
const MIN_RANGE_MS = 20;
const LIMIT_CHANGE_MS = 10_000; // if the limit of the clocks' lead changes by more, the live lines are filled again
const byId = (id) => document.getElementById(id);

/** Shows the readings of one session. */
export class ReadingsView {
  recent = new RecentReadings(RECENT);
  fields = new Fields();
  choices = new Choices();
  mode = "live";
  /** The range that is shown, or null while the window follows the time. */
  range = null;
  session = null;
  /** Number of readings that arrive per second. */
  rate = 0;
  #live = null;
  #still = null;
  #drawnAt = 0;
  #tableAt = 0;
  #tableDirty = true;
  #stale = true;
  #builtAt = 0;
  #builtBy = "received";
  #builtLimit = 0;
  #clocks = this.recent.clockLead(true);
  #since = Infinity;
  #newest = [];
  #paused = null; // what the table lists while the live plots show a range
  #rangeBy = null; // the time on the axis of the range: readings that arrive must not change it
  #counted = [0, 0];
  #request = null;
  #timer = 0;
  #shownFields = [];
  #tagField = undefined;

  constructor(onChange) {
    this.onChange = onChange;
    this.grid = new PlotGrid(byId("plots"), (from, to) => this.show(from, to), () => this.#restep());
    this.tags = new Tags(byId, (shown) => (this.#stale ||= shown));
    this.table = new ReadingsTable(byId, () => (this.#tableDirty = true));
    window.addEventListener("themechange", () => (this.#stale = true));
  }

  /** Begin with the readings of a session from `since` on. `now` returns the service's time. */
  open(session, now, since) {
    this.session = session;
    this.now = now;
    this.#since = since;
  }

  close() {
    this.session = null;
    this.recent = new RecentReadings(RECENT);
    this.fields = new Fields();
    this.mode = "live";
    // The next password may have other fields. The window is a person's choice for all.
    this.choices = Object.assign(new Choices(), { window: this.choices.window });
    [this.#live, this.#still, this.#tagField] = [null, null, undefined];
    this.#clocks = this.recent.clockLead(true);
    this.#newest = [];
    this.#forgetRange();
    this.tags.forget();
    this.grid.clear();
    this.table.forget();
    this.#stale = true;
  }

  /** Which time readings are placed by, as `series` names it. */
  get by() {
    return this.choices.by ?? this.#rangeBy ?? (this.fields.devicesAgree ? "interrogator" : "received");
  }

  timeOf(reading) {
    const time = this.timeInHistory(reading);
    return Number.isNaN(time) ? reading.received : time;
  }

  /** Return the time by which the service finds a reading, NaN if it has none. */
  timeInHistory(reading) {
    return this.by === "interrogator" ? reading.device : reading.received;
  }

  /** Return the range that is shown now. */
  current() {
    return this.range ?? this.#followed();
  }

  #clocksNow() {
    return this.recent.clockLead(this.choices.by !== "interrogator");
  }

  #leads() {
    return this.recent.leads((reading) => this.timeOf(reading), this.#clocks.limit);
  }

  /** Return the window that follows the time. */
  #followed() {
    // Clocks of devices may be fast: their newest reading is at the right edge.
    const lead = this.by === "interrogator" ? Math.max(this.#clocks.lead, 0) : 0;
    const to = this.now() + lead;
    return { from: to - this.choices.window, to };
  }

  // --- Readings that arrive ---------------------------------------------------------------------

  add(rows, at) {
    let learned = false;
    for (const row of rows) {
      const reading = decodeReading(row, at);
      this.fields.count(reading);
      if (this.fields.learn(reading)) learned = true;
      this.recent.push(reading);
      if (this.#live && !this.#stale) this.#place(reading, this.#live);
      const lead = reading.device - reading.received;
      if (lead > this.#clocks.lead && lead <= this.#clocks.limit) this.#clocks.lead = lead;
    }
    if (this.by !== this.#builtBy || (learned && this.#wantsOthers())) this.#stale = true;
    if (!this.range) this.#tableDirty = true;
  }

  #place(reading, lines) {
    const tag = this.#tagField ? tagName(valueOf(reading, this.#tagField)) : "";
    if (!this.tags.note(tag)) return;
    const time = this.timeOf(reading);
    // The live lines hold little more than their window: a reading far ahead would take the place of one that is shown.
    if (lines === this.#live && time - reading.received > this.#clocks.limit) return;
    for (const field of this.#shownFields) {
      const value = numberOf(valueOf(reading, field));
      if (Number.isFinite(value)) lines.add(field, tag, time, value);
    }
  }

  /** Read the readings that the stream left out, for the plots. `from` and `to` are times of receipt. */
  skipped({ from, to }) {
    this.#since = Math.max(this.#since, to + 1);
    const { least, most } = this.#leads();
    // The page knows times of receipt only to the second.
    if (this.#live) this.#fill(this.#live, from + least - 1000, to + most + 1000);
  }

  // --- What is drawn ----------------------------------------------------------------------------

  /** Do the work of a frame. */
  frame(time) {
    if (this.#stale && time - this.#builtAt > 200) this.#build(time);
    if (this.#live && !this.range && time - this.#drawnAt >= Math.min(Math.max(this.#live.step, 33), 250)) {
      this.#drawnAt = time;
      const { from, to } = this.current();
      this.grid.draw(this.#live, from, to);
    }
    if (time - this.#tableAt > 250) {
      this.#tableAt = time;
      this.tags.renderIfChanged();
      if (this.#tableDirty) this.#renderTable();
    }
    if (time - this.#counted[1] > 1000) this.#everySecond(time);
  }

  #everySecond(time) {
    const [count, since] = this.#counted;
    const rate = ((this.recent.count - count) * 1000) / (time - since);
    this.#counted = [this.recent.count, time];
    this.rate = Math.round(rate * 10) / 10;
    this.#clocks = this.#clocksNow();
    const moved = Math.abs(this.#clocks.limit - this.#builtLimit) > LIMIT_CHANGE_MS;
    // At most every 10 s: the median of the clocks' leads may change to and fro.
    if ((moved && this.#live && time - this.#builtAt > LIMIT_CHANGE_MS) || this.#wantsOthers()) this.#stale = true;
    this.grid.describe();
    this.onChange();
  }

  /** Return the readings of the table, the newest first, and how many there are with those that are not held. */
  #listed() {
    if (this.mode === "history" || !this.recent.count) return [this.#newest, this.#newest.length];
    return [this.recent.newest(), Math.max(this.recent.count, this.#newest.length)];
  }

  #renderTable() {
    this.#tableDirty = false;
    this.table.render(...(this.#paused ?? this.#listed()));
  }

  #wantedFields() {
    return this.choices.wantedFields(this.fields, this.mode, this.#tagField);
  }

  /** Return whether the plots should show other fields, or lines by another field. */
  #wantsOthers() {
    const [wanted, shown] = [this.#wantedFields(), this.#shownFields];
    const same = wanted.length === shown.length && wanted.every((field, i) => field === shown[i]);
    return !same || this.choices.wantedTagField(this.fields) !== this.#tagField;
  }

  get shownFields() {
    return this.#shownFields;
  }

  get tagField() {
    return this.#tagField;
  }

  /** Choose fields, lines and steps anew, and fill the plots again. */
  #build(time) {
    this.#request?.abort(); // its tags may be those of another field
    this.#request = null; // so that the end of this request does not hide that the next one is loading
    this.#stale = false;
    this.#builtAt = time;
    this.#builtBy = this.by;
    this.#clocks = this.#clocksNow();
    this.#builtLimit = this.#clocks.limit;
    const field = this.choices.wantedTagField(this.fields);
    if (field !== this.#tagField) {
      this.#tagField = field;
      this.tags.clear();
    }
    this.#shownFields = this.#wantedFields();
    for (const reading of [...this.#newest, ...this.recent.newest()].reverse()) {
      this.tags.note(field ? tagName(valueOf(reading, field)) : "");
    }
    this.tags.render();
    this.grid.set(this.#shownFields, this.tags.lines());
    this.table.setColumns(field, this.#shownFields);
    this.#renderTable();
    this.#stale = false;
    this.#fillLive();
    if (this.#still) this.#still.from = NaN; // its lines are drawn until others are loaded, and never count as loaded
    if (this.range) this.show(this.range.from, this.range.to, { again: true });
    this.onChange();
  }

  #restep() {
    if (!this.session || this.#stale) return;
    const step = stepOf(this.choices.window, this.grid.pixels);
    if (step !== this.#live?.step) this.#fillLive();
    if (this.range) this.show(this.range.from, this.range.to);
  }

  #fillLive() {
    this.#live = null;
    if (this.mode === "history") return;
    const { window } = this.choices;
    const step = stepOf(window, this.grid.pixels);
    this.#live = new ThinnedLines(step, Math.ceil((window / step) * 1.2) + 4);
    this.#fillRecent(this.#live);
    const { from } = this.#followed();
    const oldest = this.#oldest();
    if (this.session && this.#shownFields.length && from < oldest - 1000) this.#fill(this.#live, from, oldest);
    this.#drawnAt = 0;
  }

  #fillRecent(lines, from = -Infinity, to = Infinity) {
    for (const reading of [...this.recent.newest()].reverse()) {
      const time = this.timeOf(reading);
      if (time >= from && time <= to) this.#place(reading, lines);
    }
  }

  /** Return the time on the axis after which the page holds every reading. */
  #oldest() {
    const full = this.recent.count > this.recent.size;
    const { oldest, most } = this.#leads();
    return Math.max(this.#since, full ? oldest : -Infinity) + most;
  }

  /** Read the part of a range that the live window shows. */
  async #fill(lines, from, to) {
    const window = this.#followed();
    const range = [Math.max(from, window.from), Math.min(to, window.to + 1000)];
    if (!(range[0] < range[1])) return;
    // The lines are replaced when the tags are those of another field or password.
    const note = (tag) => lines === this.#live && this.tags.note(tag);
    try {
      await readSeries(this.session, lines, this.#seriesOf(...range), note);
    } catch (error) {
      if (error.name !== "AbortError") console.info(`Older readings are not drawn: ${error.message}`);
    }
  }

  #seriesOf(from, to, signal) {
    const [fields, tagField] = [this.#shownFields, this.#tagField];
    return { from, to, by: this.by, fields, tagField, tags: this.tags.size, signal };
  }

  // --- A range of the past ----------------------------------------------------------------------

  /** Follow the time again. */
  follow() {
    this.mode = "live";
    this.#forgetRange();
    for (const name of ["empty", "error", "unread"]) setNotice(name, null);
    byId("plots").dataset.loading = "false";
    this.#stale = true;
    this.onChange();
  }

  #forgetRange() {
    this.range = null;
    this.#rangeBy = null;
    this.#paused = null;
    clearTimeout(this.#timer);
    this.#request?.abort();
  }

  /** Show a range: immediately what the page holds of it, then what the service has. */
  show(from, to, { again = false } = {}) {
    this.#rangeBy ??= this.by;
    const [newest, total] = this.#listed();
    if (this.mode === "live") this.#paused ??= [[...newest], total];
    const span = Math.max(to - from, MIN_RANGE_MS);
    this.range = { from, to: from + span };
    const step = stepOf(span, this.grid.pixels);
    const held = this.mode === "live" && from >= this.#oldest();
    const loaded = !again && this.#still && this.#still.lines.step === step
      && from >= this.#still.from && this.range.to <= this.#still.to;
    this.#timer = clearTimeout(this.#timer);
    if (held || loaded) this.#request?.abort(); // a late answer for another range must not replace what is shown
    byId("plots").dataset.loading = String(!held && !loaded);
    if (held) {
      const lines = new ThinnedLines(step, Math.ceil(span / step) + 4);
      this.#fillRecent(lines, from, this.range.to);
      this.#still = { lines, ...this.range };
    } else if (!loaded || this.mode === "history") { // even if the lines are loaded, the table is that of another range
      this.#timer = setTimeout(() => this.#load(loaded ? null : step), again ? 0 : FETCH_DELAY_MS);
    }
    if (this.#still) this.grid.draw(this.#still.lines, from, this.range.to);
    else if (this.#live) this.grid.draw(this.#live, from, this.range.to);
    this.onChange();
  }

  /** Read what is shown of the range. If `step` is null, its lines are loaded already. */
  async #load(step) {
    this.#timer = undefined;
    this.#request?.abort();
    const request = (this.#request = new AbortController());
    const { range } = this;
    const endWait = noteSlow();
    try {
      await this.#learnRange(range, request.signal);
      if (request.signal.aborted || this.#stale) return;
      if (step !== null) await this.#readLines(range, step, request.signal);
      setNotice("error", null);
      noteUnread(this.#shownFields, this.#tagField);
    } catch (error) {
      if (error.name === "AbortError") return;
      noteFailed(error, () => this.range && this.show(this.range.from, this.range.to, { again: true }));
    } finally {
      endWait();
      if (this.#request === request && !this.#timer) byId("plots").dataset.loading = "false"; // no other load follows
    }
  }

  async #readLines({ from, to }, step, signal) {
    const margin = (to - from) / 2;
    const wide = { from: from - margin, to: to + margin };
    const lines = new ThinnedLines(step, Math.ceil((wide.to - wide.from) / step) + 4);
    await readSeries(this.session, lines, this.#seriesOf(wide.from, wide.to, signal), (tag) => this.tags.note(tag));
    this.#still = { lines, ...wide };
    if (this.range) this.grid.draw(lines, this.range.from, this.range.to);
  }

  /** Read the newest readings of a range: for the table, and to learn their fields and tags. */
  async #learnRange({ from, to }, signal) {
    if (this.mode !== "history") return;
    const query = { from: Math.floor(from), to: Math.ceil(to), by: this.by };
    const rows = await readNewest(this.session, NEWEST, query, signal);
    this.#newest = rows.map((row) => decodeReading(row));
    this.#tableDirty = true;
    // Readings without a device time come first.
    const first = this.by === "received" ? await readNewest(this.session, NEWEST, { ...query, order: "asc" }, signal) : [];
    for (const reading of [...this.#newest, ...first.map((row) => decodeReading(row))]) this.fields.learn(reading);
    if (this.#wantsOthers()) this.#build(performance.now()); // shows the range again
    await this.#noteEmpty(rows.length === 0, signal);
  }

  async #noteEmpty(empty, signal) {
    if (!empty) return setNotice("empty", null);
    const [row] = await readNewest(this.session, 1, {}, signal);
    const newest = row && decodeReading(row);
    noteEmpty("No readings in this range.", newest, newest ? this.timeInHistory(newest) : NaN, (time) => {
      const span = this.range.to - this.range.from;
      this.show(time - span * 0.9, time + span * 0.1);
    });
  }

  /** Fill the table while no reading has arrived. */
  async showNewest() {
    const { session } = this;
    const rows = await readNewest(session, NEWEST);
    if (this.session !== session || this.recent.count) return undefined;
    const readings = rows.map((row) => decodeReading(row)).reverse();
    if (!this.fields.readings) for (const reading of readings) this.fields.count(reading);
    for (const reading of readings) this.fields.learn(reading);
    if (this.mode === "history") return undefined;
    [this.#newest, this.#paused] = [readings, null];
    this.#stale = true;
    return readings[0];
  }

  /** Apply changed choices. */
  choose(changes) {
    Object.assign(this.choices, changes);
    if ("by" in changes) this.#rangeBy = null;
    this.#still = null;
    this.#stale = true;
    this.#builtAt = 0;
  }

  enterHistory() {
    const { from, to } = this.current();
    const wasStill = this.range !== null;
    this.mode = "history";
    [this.#paused, this.#still, this.#newest] = [null, null, []];
    const span = wasStill ? to - from : Math.max(to - from, 900_000);
    this.range = { from: to - span, to };
    this.#build(performance.now());
  }

  /** Move the range by a part of its length. */
  pan(part) {
    const { from, to } = this.current();
    const by = (to - from) * part;
    this.show(from + by, to + by);
  }

  /** Make the range longer or shorter, around a point in it (0 to 1). */
  zoom(factor, around = 0.5) {
    const { from, to } = this.current();
    const centre = from + (to - from) * around;
    const longest = 20 * 365 * 86_400_000;
    const span = Math.min(Math.max((to - from) * factor, MIN_RANGE_MS), longest);
    this.show(centre - span * around, centre + span * (1 - around));
  }
}

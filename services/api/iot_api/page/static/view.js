// The view of readings: it holds what was read, and draws the window or the range that is shown.

import { readNewest, readSeries, tagName } from "./history.js";
import { noteEmpty, noteUnread } from "./notices.js";
import { PlotGrid } from "./plots.js";
import { decodeReading, Fields, numberOf, RecentReadings, valueOf } from "./readings.js";
import { setNotice } from "./status.js";
import { ReadingsTable } from "./table.js";
import { Tags } from "./tags.js";
import { stepOf, ThinnedLines } from "./thinning.js";

const RECENT = 10_000;
const FIELDS_SHOWN = 6;
const NEWEST = 60;
const FETCH_DELAY_MS = 180;
const MIN_RANGE_MS = 20;
const LIMIT_CHANGE_MS = 10_000; // if the limit of the clocks' lead changes by more, the live lines are filled again
const byId = (id) => document.getElementById(id);

/** The choices of a person; `null` lets the page choose. `tagField` may be `undefined`, for one line. */
export const defaultChoices = () => ({ window: 60_000, by: null, tagField: null, fields: new Map() });

/** Shows the readings of one session. */
export class ReadingsView {
  recent = new RecentReadings(RECENT);
  fields = new Fields();
  choices = defaultChoices();
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
  #counted = [0, 0];
  #request = null;
  #timer = 0;
  #shownFields = [];
  #tagField = undefined;

  constructor(onChange) {
    this.onChange = onChange;
    this.grid = new PlotGrid(byId("plots"), (from, to) => this.show(from, to), () => this.#restep());
    this.tags = new Tags({
      element: byId("tags"), heading: byId("tags-count"), items: byId("tags-items"),
      search: byId("tags-search"), note: byId("tags-note"),
      all: byId("tags-all"), none: byId("tags-none"),
    }, (shown) => (this.#stale ||= shown));
    const search = byId("search");
    this.table = new ReadingsTable({
      head: byId("table-head"), body: byId("table-body"), search, note: byId("table-note"),
    });
    search.addEventListener("input", () => (this.#tableDirty = true));
    window.addEventListener("themechange", () => (this.#stale = true));
  }

  /** Begin with the readings of a session from `since` on. `now` returns the service's time. */
  open(session, now, since) {
    this.session = session;
    this.now = now;
    this.#since = since;
  }

  close() {
    this.#request?.abort();
    clearTimeout(this.#timer);
    this.session = null;
    this.recent = new RecentReadings(RECENT);
    this.fields = new Fields();
    this.mode = "live";
    // The next password may have other fields. The window is a person's choice for all.
    this.choices = { ...defaultChoices(), window: this.choices.window };
    this.#live = null;
    this.#still = null;
    this.#tagField = undefined;
    this.#clocks = this.recent.clockLead(true);
    this.#newest = [];
    this.range = null;
    this.tags.clear();
    this.grid.clear();
    this.table.setColumns(undefined, []);
    this.#stale = true;
  }

  /** Which time readings are placed by, as `series` names it. */
  get by() {
    return this.choices.by ?? (this.fields.devicesAgree ? "interrogator" : "received");
  }

  timeOf(reading) {
    const time = this.#timeInHistory(reading);
    return Number.isNaN(time) ? reading.received : time;
  }

  /** Return the time by which the service finds a reading, NaN if it has none. */
  #timeInHistory(reading) {
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
      if (this.fields.learn(reading)) learned = true;
      this.recent.push(reading);
      if (this.#live && !this.#stale) this.#place(reading, this.#live);
      const lead = reading.device - reading.received;
      if (lead > this.#clocks.lead && lead <= this.#clocks.limit) this.#clocks.lead = lead;
    }
    if (this.by !== this.#builtBy || (learned && this.#wantsOthers())) this.#stale = true;
    this.#tableDirty = true;
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
      if (this.#tableDirty && (!this.range || this.mode === "history")) this.#renderTable();
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

  #renderTable() {
    this.#tableDirty = false;
    const history = this.mode === "history";
    const readings = history || !this.recent.count ? this.#newest : this.recent.newest();
    this.table.render(readings, history ? this.#newest.length : Math.max(this.recent.count, this.#newest.length));
  }

  #wantedFields() {
    const chosen = this.choices.fields;
    const interesting = new Set(this.fields.interesting(FIELDS_SHOWN));
    const usable = this.fields.numbers.filter((field) => this.mode === "live" || !field.column);
    // The field that names the lines has one value in each line.
    return usable.filter((field) => chosen.get(field) ?? (interesting.has(field) && field !== this.#tagField));
  }

  #wantedTagField() {
    const { tagField } = this.choices;
    return tagField === null ? this.fields.tagField() : tagField;
  }

  /** Return whether the plots should show other fields, or lines by another field. */
  #wantsOthers() {
    const [wanted, shown] = [this.#wantedFields(), this.#shownFields];
    const same = wanted.length === shown.length && wanted.every((field, i) => field === shown[i]);
    return !same || this.#wantedTagField() !== this.#tagField;
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
    const field = this.#wantedTagField();
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
    const [fields, tagField, tags] = [this.#shownFields, this.#tagField, this.tags.size];
    return { from, to, by: this.by, fields, tagField, tags, signal };
  }

  // --- A range of the past ----------------------------------------------------------------------

  /** Follow the time again. */
  follow() {
    this.mode = "live";
    this.range = null;
    clearTimeout(this.#timer);
    this.#request?.abort();
    for (const name of ["empty", "error", "unread"]) setNotice(name, null);
    byId("plots").dataset.loading = "false";
    this.#stale = true;
    this.onChange();
  }

  /** Show a range: immediately what the page holds of it, then what the service has. */
  show(from, to, { again = false } = {}) {
    const span = Math.max(to - from, MIN_RANGE_MS);
    this.range = { from, to: from + span };
    const step = stepOf(span, this.grid.pixels);
    const held = this.mode === "live" && from >= this.#oldest();
    const loaded = !again && this.#still && this.#still.lines.step === step
      && from >= this.#still.from && this.range.to <= this.#still.to;
    clearTimeout(this.#timer);
    byId("plots").dataset.loading = String(!held && !loaded);
    if (held) {
      const lines = new ThinnedLines(step, Math.ceil(span / step) + 4);
      this.#fillRecent(lines, from, this.range.to);
      this.#still = { lines, ...this.range };
    } else if (!loaded) {
      this.#timer = setTimeout(() => this.#load(step), again ? 0 : FETCH_DELAY_MS);
    }
    if (this.#still) this.grid.draw(this.#still.lines, from, this.range.to);
    else if (this.#live) this.grid.draw(this.#live, from, this.range.to);
    this.onChange();
  }

  async #load(step) {
    this.#request?.abort();
    const request = (this.#request = new AbortController());
    const { from, to } = this.range;
    const margin = (to - from) / 2;
    const wide = { from: from - margin, to: to + margin };
    const lines = new ThinnedLines(step, Math.ceil((wide.to - wide.from) / step) + 4);
    try {
      await this.#learnRange(from, to, request.signal);
      if (request.signal.aborted || this.#stale) return;
      const series = this.#seriesOf(wide.from, wide.to, request.signal);
      await readSeries(this.session, lines, series, (tag) => this.tags.note(tag));
      this.#still = { lines, ...wide };
      setNotice("error", null);
      noteUnread(this.#shownFields, this.#tagField);
      if (this.range) this.grid.draw(lines, this.range.from, this.range.to);
    } catch (error) {
      if (error.name === "AbortError") return;
      setNotice("error", {
        kind: "error",
        title: "The history can't be shown.",
        text: error.message,
        action: ["Try again", () => this.range && this.show(this.range.from, this.range.to, { again: true })],
      });
    } finally {
      if (this.#request === request) byId("plots").dataset.loading = "false";
    }
  }

  /** Read the newest readings of a range: for the table, and to learn their fields and tags. */
  async #learnRange(from, to, signal) {
    if (this.mode !== "history") return;
    const query = { from: Math.floor(from), to: Math.ceil(to), by: this.by };
    const rows = await readNewest(this.session, NEWEST, query, signal);
    this.#newest = rows.map((row) => decodeReading(row));
    this.#tableDirty = true;
    for (const reading of this.#newest) this.fields.learn(reading);
    if (this.#wantsOthers()) this.#build(performance.now()); // shows the range again
    await this.#noteEmpty(rows.length === 0, signal);
  }

  async #noteEmpty(empty, signal) {
    if (!empty) return setNotice("empty", null);
    const [row] = await readNewest(this.session, 1, {}, signal);
    const newest = row && decodeReading(row);
    noteEmpty(newest, newest ? this.#timeInHistory(newest) : NaN, (time) => {
      const span = this.range.to - this.range.from;
      this.show(time - span * 0.9, time + span * 0.1);
    });
  }

  /** Fill the table while no reading has arrived. */
  async showNewest() {
    const { session } = this;
    const rows = await readNewest(session, NEWEST);
    if (this.session !== session || this.recent.count) return undefined;
    this.#newest = rows.map((row) => decodeReading(row)).reverse();
    for (const reading of this.#newest) this.fields.learn(reading);
    this.#stale = true;
    return this.#newest[0];
  }

  /** Apply changed choices. */
  choose(changes) {
    Object.assign(this.choices, changes);
    this.#still = null;
    this.#stale = true;
    this.#builtAt = 0;
  }

  enterHistory() {
    const { from, to } = this.current();
    const wasStill = this.range !== null;
    this.mode = "history";
    this.#still = null;
    this.#newest = [];
    this.#stale = false;
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

// Readings as the page uses them: their times, their fields, their tags.

import { hasSeries } from "./history.js";

const TAG_NAMES = ["epc96", "epc", "tag", "device", "sensor", "name", "id"];
const TEXTS_PER_NUMBER = 10; // a field may name the lines if it has at least this many texts for each number
const DEPTH = 4;
export const MAX_FIELDS = 1000;
const NUMBER = /^-?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d+)?$/;
const DEVICE_CLOCK_MS = 30_000;
const LAST_DEVICE_MS = 8.6e15; // JavaScript's last Date is 8.64e15, and a range has room before it
export const COLUMNS = ["relative_timestamp", "interrogator_timestamp"];

/** Return the number that a JSON value holds, NaN if it holds none. Strings count, as in `series`. */
export function numberOf(value) {
  if (typeof value === "number") return value;
  return typeof value === "string" && NUMBER.test(value) ? Number(value) : NaN;
}

function parseFreeform(text) {
  try {
    return JSON.parse(text);
  } catch {
    // The service accepts NaN and Infinity, which are no JSON.
    try {
      return JSON.parse(text.replace(/([[:,]\s*)(?:NaN|-?Infinity)(?=\s*[,}\]])/g, "$1null"));
    } catch {
      return null;
    }
  }
}

/**
 * Return a reading of the service with its parsed content and its times in Unix milliseconds. `device` is NaN if the
 * reading has no device time, or one that the page can't show.
 */
export function decodeReading(row, arrival = NaN) {
  const second = Date.parse(`${row.absolute_timestamp.replace(" ", "T")}Z`);
  // The time of receipt has whole seconds. A reading that has just arrived is placed more exactly.
  const received = Math.min(Math.max(second, arrival || 0), second + 999);
  const device = row.interrogator_timestamp / 1000;
  return {
    ...row,
    content: parseFreeform(row.freeform),
    received,
    device: device >= 0 && device < LAST_DEVICE_MS ? device : NaN,
  };
}

/** Return the value of a field of a reading: a member of `freeform`, a path or a column. */
export function valueOf(reading, field) {
  let node = reading.content;
  for (const part of field.path) {
    if (node === null || typeof node !== "object") return undefined;
    node = Object.hasOwn(node, part) ? node[part] : undefined; // every object inherits `constructor`
  }
  return field.column ? reading[field.column] : node;
}

/**
 * The fields that readings have, in the order in which they appeared. A field whose values are both numbers and texts
 * is in both lists. Names need not be unique: compare fields, not their names.
 */
export class Fields {
  #known = new Map();
  numbers = [];
  texts = [];
  readings = 0;
  devices = 0;

  constructor() {
    for (const column of COLUMNS) {
      this.numbers.push({ name: column, path: [], column, low: NaN, high: NaN });
    }
  }

  /** Count a reading and its clock. Call this once for each reading: a person may look at the same readings often. */
  count(reading) {
    this.readings += 1;
    if (Math.abs(reading.device - reading.received) < DEVICE_CLOCK_MS) this.devices += 1;
  }

  /** Learn the fields of a reading. Return whether one of the lists has a new field. */
  learn(reading) {
    const before = this.numbers.length + this.texts.length;
    if (reading.content !== null && typeof reading.content === "object") {
      if (!Array.isArray(reading.content)) this.#learn(reading.content, "", []);
    } else {
      this.#note("(whole freeform)", [], reading.content);
    }
    return this.numbers.length + this.texts.length !== before;
  }

  #learn(node, prefix, path) {
    for (const key in node) {
      const value = node[key];
      if (value !== null && typeof value === "object") {
        if (!Array.isArray(value) && path.length < DEPTH) {
          this.#learn(value, `${prefix}${key}.`, [...path, key]);
        }
      } else {
        this.#note(prefix + key, [...path, key], value);
      }
    }
  }

  #note(name, path, value) {
    const key = path.length ? name : null;
    let field = this.#known.get(key);
    if (field === undefined) {
      if (value === null || typeof value === "boolean" || value === undefined || this.full) return;
      const isTag = TAG_NAMES.includes(name.toLowerCase()) && typeof value === "string";
      field = { name, path, isTag, isNumber: false, isText: false, isMeasured: false, spareTexts: 0, low: NaN, high: NaN };
      this.#known.set(key, field);
      const column = this.numbers.find((each) => each.column === name);
      if (column) column.name = `${name} (column)`;
    }
    const number = field.isTag ? NaN : numberOf(value);
    // A text that looks like a number counts as a number only in a field of numbers.
    if (Number.isFinite(number) && !field.isNumber && (typeof value === "number" || !field.isText)) {
      field.isNumber = true;
      this.numbers.push(field);
    } else if (typeof value === "string" && !Number.isFinite(number) && !field.isText) {
      field.isText = true;
      this.texts.push(field);
    }
    if (!field.isNumber || !Number.isFinite(number)) {
      if (typeof value === "string") field.spareTexts += 1;
      return;
    }
    field.spareTexts -= TEXTS_PER_NUMBER;
    if (field.spareTexts < 0) field.isMeasured = true; // for good: the lines must not change to and fro
    if (!(number >= field.low)) field.low = number;
    if (!(number <= field.high)) field.high = number;
  }

  /** Return whether no more fields are added: there are `MAX_FIELDS`. */
  get full() {
    return this.#known.size >= MAX_FIELDS;
  }

  /**
   * Return the field whose values name the lines: a known name, else the first text with a history that never had more
   * than a few numbers. A measurement may begin with texts, such as “n/a”.
   */
  tagField() {
    const named = (name) => this.texts.find((field) => field.name.toLowerCase() === name);
    return TAG_NAMES.map(named).find(Boolean) ?? this.texts.find((field) => !field.isMeasured && hasSeries(field));
  }

  /** Return whether the clocks of the devices agree with the service's. */
  get devicesAgree() {
    return this.readings > 0 && this.devices > this.readings / 2;
  }

  /** Return the fields to plot unless the person chooses: those that vary, at most `limit`. */
  interesting(limit) {
    const own = this.numbers.filter((field) => !field.column);
    const isTime = (field) => field.low > 1e12 && field.high - field.low < field.low / 1000;
    const varying = own.filter((field) => field.high > field.low && !isTime(field));
    const settled = this.readings >= 20 && varying.length > 0;
    return (settled ? varying : own.filter((field) => !isTime(field))).slice(0, limit);
  }
}

/** The newest readings, at most `size`. */
export class RecentReadings {
  #ring;
  #next = 0;
  count = 0;

  constructor(size) {
    this.size = size;
    this.#ring = [];
  }

  push(reading) {
    this.#ring[this.#next % this.size] = reading;
    this.#next += 1;
    this.count += 1;
  }

  get length() {
    return this.#ring.length;
  }

  /** Yield the readings, the newest first. */
  *newest() {
    for (let i = 1; i <= this.#ring.length; i += 1) yield this.#ring[(this.#next - i) % this.size];
  }

  /**
   * Return the least and the greatest lead of a time on the axis over its time of receipt, and the oldest time of
   * receipt. Leads of more than `limit` do not count for the greatest.
   */
  leads(timeOf, limit) {
    let [least, most, oldest] = [0, 0, Infinity];
    for (const reading of this.newest()) {
      const lead = timeOf(reading) - reading.received;
      least = Math.min(least, lead);
      if (lead <= limit) most = Math.max(most, lead);
      oldest = Math.min(oldest, reading.received);
    }
    return { least, most, oldest };
  }

  /**
   * Return how far the devices' clocks are ahead of the service's, and the greatest lead that counts. A greater lead
   * would move the live window to times at which no other device has readings. If the clocks do not `agree`, the
   * median lead is added to this limit, if it is positive.
   */
  clockLead(agree) {
    const leads = Float64Array.from(this.newest(), (reading) => reading.device - reading.received);
    const sorted = leads.filter((lead) => !Number.isNaN(lead)).sort();
    const limit = (agree ? 0 : Math.max(sorted[sorted.length >> 1] ?? 0, 0)) + DEVICE_CLOCK_MS;
    return { lead: sorted.findLast((lead) => lead <= limit) ?? 0, limit };
  }
}

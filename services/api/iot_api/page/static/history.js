// Reads of stored readings: thinned by the service for plots, and whole for files.

import { stepOf } from "./thinning.js";

const MAX_FIELDS = 20; // of a request
const MAX_NAME = 256; // characters of the name of a field
const MAX_VALUES = 100_000; // of an answer: they take 40 MB of the 128 MiB that an API process has for requests
const MANY_WINDOWS = 200; // the first request may ask for this many, even with many tags: few tags have values in every window
const MIN_WINDOWS = 4;

/** Return whether the service has a series of a field: it refuses some names, and the whole `freeform`. */
export function hasSeries({ name, path, column }) {
  return !column && path.length > 0 && name !== "" && name !== "time" && name.length <= MAX_NAME && !name.includes(",");
}

/** Return the fields whose history can be shown: a request can't group by a field that it also reads. */
export function withHistory(fields, tagField) {
  return fields.filter((field) => hasSeries(field) && field !== tagField);
}

/**
 * Add the least and the greatest values of each window of a range to `thinned`. The windows are longer than
 * the slots of `thinned` if the answer could have too many values. `tags` is the number of known tags, shown or not.
 */
export async function readSeries(session, thinned, { from, to, by, fields, tagField, tags, signal }, onTag) {
  const asked = withHistory(fields, tagField);
  const group = tagField && hasSeries(tagField) ? tagField.name : null;
  const lines = Math.min(asked.length, MAX_FIELDS) * (group === null ? 1 : tags);
  const step = Math.max(thinned.step, stepOf(to - from, Math.max(MAX_VALUES / lines, MANY_WINDOWS)));
  const query = { from: Math.floor(from), to: Math.ceil(to), by, step };
  if (group !== null) query.group = group;
  for (let first = 0; first < asked.length; first += MAX_FIELDS) {
    const some = asked.slice(first, first + MAX_FIELDS);
    const rows = await readWindows(session, query, some.map((field) => field.name), signal);
    thinned.spacing = Math.max(thinned.spacing, query.step / thinned.step);
    for (const row of rows) {
      const tag = group === null ? "" : tagName(row[group]);
      if (!onTag(tag)) continue;
      for (const field of some) {
        if (row[field.name] !== null) thinned.add(field, tag, row.time, row[field.name]);
      }
    }
  }
}

/** Read the least and the greatest values of windows. If the service refuses so many, make `query.step` longer. */
async function readWindows(session, query, fields, signal) {
  try {
    const answers = [];
    for (const agg of ["min", "max"]) { // both at once could need more memory than a process has
      const asked = { ...query, fields: fields.join(","), agg };
      const response = await session.post("api/iot/series", { query: asked, signal });
      answers.push((await response.json()).data);
    }
    return answers.flat();
  } catch (error) {
    const tooMany = ["step", "group"].includes(error.field);
    if (!tooMany || query.step * MIN_WINDOWS > query.to - query.from) throw error;
    query.step *= 4;
    return readWindows(session, query, fields, signal);
  }
}

/** Return the name of a tag as the page shows it. */
export function tagName(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Return the last readings of a range, or of all, in the order of their device times; with `order: "asc"`, the first. */
export async function readNewest(session, count, query = {}, signal = undefined) {
  const path = Object.keys(query).length ? "api/iot" : `api/iot/last/${count}`;
  const all = path === "api/iot" ? { order: "desc", limit: count, ...query } : {};
  const response = await session.post(path, { query: all, signal });
  return (await response.json()).data;
}

/** Download all readings of a range as CSV. */
export async function downloadCsv(session, { from, to, by }) {
  const query = { from: Math.floor(from), to: Math.ceil(to), by };
  const response = await session.post("api/iot", { query, headers: { Accept: "text/csv" } });
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = `readings-${stamp(from)}-${stamp(to)}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function stamp(ms) {
  return new Date(ms).toISOString().slice(0, 19).replace(/:/g, "");
}

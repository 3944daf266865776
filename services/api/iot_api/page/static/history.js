// Reads of stored readings: thinned by the service for plots, and whole for files.

const MAX_FIELDS = 20; // of a request
const MAX_NAME = 256; // characters of the name of a field
const MAX_VALUES = 300_000; // the service answers at most 500,000

/** Return how many windows a range may have: one a pixel, and fewer for many lines. */
export function windowsFor(pixels, fields, tags) {
  const lines = Math.max(1, Math.min(fields, MAX_FIELDS)) * Math.max(1, tags);
  return Math.max(30, Math.min(pixels, Math.floor(MAX_VALUES / lines)));
}

/** Return whether the service has a series of a field: it refuses some names, and the whole `freeform`. */
export function hasSeries({ name, path, column }) {
  return !column && path.length > 0 && name !== "" && name !== "time" && name.length <= MAX_NAME && !name.includes(",");
}

/** Add the least and the greatest values of each window of a range to `thinned`. */
export async function readSeries(session, thinned, { from, to, by, fields, tagField, signal }, onTag) {
  const names = fields.filter(hasSeries).map((field) => field.name);
  const query = { from: Math.floor(from), to: Math.ceil(to), by, step: thinned.step };
  const group = tagField && hasSeries(tagField) ? tagField.name : null;
  if (group !== null) query.group = group;
  for (let first = 0; first < names.length; first += MAX_FIELDS) {
    const some = names.slice(first, first + MAX_FIELDS);
    const answers = await Promise.all(["min", "max"].map(async (agg) => {
      const asked = { ...query, fields: some.join(","), agg };
      const response = await session.post("api/iot/series", { query: asked, signal });
      return (await response.json()).data;
    }));
    for (const row of answers.flat()) {
      const tag = group === null ? "" : tagName(row[group]);
      if (!onTag(tag)) continue;
      for (const name of some) {
        if (row[name] !== null) thinned.add(name, tag, row.time, row[name]);
      }
    }
  }
}

/** Return the name of a tag as the page shows it. */
export function tagName(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Return the newest readings of a range, or of all. */
export async function readNewest(session, count, query = {}, signal = undefined) {
  const path = Object.keys(query).length ? "api/iot" : `api/iot/last/${count}`;
  const all = path === "api/iot" ? { ...query, order: "desc", limit: count } : {};
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

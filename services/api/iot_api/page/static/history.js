// Reads of stored readings: thinned by the service for plots, and whole for files.

const MAX_FIELDS = 20;
const MAX_VALUES = 300_000; // the service answers at most 500,000

/** Return how many windows a range may have: one a pixel, and fewer for many lines. */
export function windowsFor(pixels, fields, tags) {
  const lines = Math.max(1, Math.min(fields, MAX_FIELDS)) * Math.max(1, tags);
  return Math.max(30, Math.min(pixels, Math.floor(MAX_VALUES / lines)));
}

/** Add the least and the greatest values of each window of a range to `thinned`. */
export async function readSeries(session, thinned, { from, to, by, fields, tagField, signal }, onTag) {
  const names = fields.filter((field) => !field.column && !field.name.includes(",") && field.path.length);
  if (!names.length) return 0;
  const query = {
    from: Math.floor(from),
    to: Math.ceil(to),
    by,
    step: thinned.step,
    fields: names.slice(0, MAX_FIELDS).map((field) => field.name).join(","),
  };
  if (tagField) query.group = tagField.name;
  const answers = await Promise.all(["min", "max"].map(async (agg) => {
    const response = await session.post("api/iot/series", { query: { ...query, agg }, signal });
    return (await response.json()).data;
  }));
  for (const rows of answers) {
    for (const row of rows) {
      const tag = tagField ? tagName(row[tagField.name]) : "";
      if (!onTag(tag)) continue;
      for (const { name } of names) {
        if (row[name] !== null) thinned.add(name, tag, row.time, row[name]);
      }
    }
  }
  return answers[0].length;
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

// How numbers, times and names are written.

const pad = (value, digits = 2) => String(value).padStart(digits, "0");

/** Return a number with at most six significant digits and a true minus sign. */
export function formatNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const text = Number.isInteger(value) && Math.abs(value) < 1e15
    ? value.toLocaleString("en")
    : Math.abs(value) >= 1e-4 && Math.abs(value) < 1e9
      ? String(Number(value.toPrecision(6)))
      : value.toExponential(3);
  return text.replace(/^-/, "−");
}

/** Return the local time of day; with milliseconds if `precise`. */
export function formatClock(ms, precise = false) {
  const at = new Date(ms);
  const text = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return precise ? `${text}.${pad(at.getMilliseconds(), 3)}` : text;
}

/** Return the name of a field for people: an empty name can't be seen. */
export function formatName(name) {
  return name || "“”";
}

/** Return local date and time, as an input of the type datetime-local takes them. */
export function formatLocal(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${formatClock(ms)}`;
}

/** Return local date and time for people; “–” for a time after the last Date of JavaScript, in the year 275760. */
export function formatDate(ms) {
  return Number.isNaN(new Date(ms).getTime()) ? "–" : formatLocal(ms).replace("T", " ");
}

/** Return a length of time in its largest fitting unit: `90 s`, `5 min`, `2 h`, `3 d`. */
export function formatDuration(ms) {
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const [name, unit] = units.find(([, length]) => ms >= 2 * length || ms === length) ?? ["ms", 1];
  return `${Number((ms / unit).toPrecision(3))} ${name}`;
}

/** Return a common prefix that the page can leave out of long names; "" if there is none. */
export function commonPrefix(names) {
  if (names.length < 2 || Math.max(...names.map((name) => name.length)) <= 14) return "";
  let prefix = names[0];
  for (const name of names) {
    while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
  }
  prefix = prefix.slice(0, Math.max(0, Math.min(...names.map((name) => name.length)) - 4));
  return prefix.length >= 6 ? prefix : "";
}

/** Return a number of bytes in its unit. */
export function formatBytes(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  for (; bytes >= 1024 && place < units.length - 1; place += 1) bytes /= 1024;
  return `${Number(bytes.toPrecision(3))} ${units[place]}`;
}

/** Return seconds as people say them; “–” for none. */
export function formatSeconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 10 ? `${Number(seconds.toFixed(1))} s` : formatDuration(Math.round(seconds) * 1000);
}

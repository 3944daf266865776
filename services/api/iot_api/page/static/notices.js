// Notices about a range of the past.

import { formatDate } from "./format.js";
import { hasSeries, withHistory } from "./history.js";
import { setNotice, SLOW, SLOW_MS } from "./status.js";

const LONG_NAME = 40; // characters of the name of a field

/** Say which of the chosen fields the plots can't show. */
export function noteUnread(shownFields, tagField) {
  const read = withHistory(shownFields, tagField);
  const unread = new Set(shownFields.filter((field) => !field.column && !read.includes(field)));
  if (tagField && !hasSeries(tagField)) unread.add(tagField);
  const short = ({ name }) => (name.length > LONG_NAME ? `${name.slice(0, LONG_NAME)}…` : name);
  setNotice("unread", unread.size === 0 ? null : {
    kind: "info",
    title: `No history of ${[...unread].map((field) => `“${short(field)}”`).join(", ")}.`,
    text: "The service returns no history if freeform is not a JSON object, or if the name of the field is empty, is “time”, has a comma, or is longer than 256 characters. The field chosen under Lines by is not plotted. The table and the CSV file have the values.",
  });
}

/**
 * Say in `title` that a range has no readings, and where some are. `newest` is the reading with the newest device time,
 * `at` its time on the axis (NaN if it has none); `goTo` shows the range around a time.
 */
export function noteEmpty(title, newest, at, goTo) {
  setNotice("empty", {
    kind: "info",
    title,
    text: !newest
      ? "There are no readings yet."
      : Number.isNaN(at)
        ? "The newest reading has no device time that the page can show: choose Time: Received."
        : `The newest reading by device time is from ${formatDate(at)}.`,
    action: !Number.isNaN(at) && ["Go there", () => goTo(at)],
  });
}

/** Say why a range can't be shown. */
export function noteFailed(error, retry) {
  setNotice("error", {
    kind: "error",
    title: "The history can't be shown.",
    text: error.message,
    action: ["Try again", retry],
  });
}

/** Say that a load takes long, once it does. Return a function to call at the end of the load. */
export function noteSlow() {
  const timer = setTimeout(() => setNotice("slow", SLOW), SLOW_MS);
  return () => {
    clearTimeout(timer);
    setNotice("slow", null);
  };
}

// Notices about a range of the past.

import { formatDate } from "./format.js";
import { hasSeries, withHistory } from "./history.js";
import { setNotice } from "./status.js";

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
 * Say that a range has no readings. `newest` is the newest reading of all, `at` its time on the axis (NaN if it has
 * none); `goTo` shows the range around a time.
 */
export function noteEmpty(newest, at, goTo) {
  setNotice("empty", {
    kind: "info",
    title: "No readings in this range.",
    text: !newest
      ? "There are no readings yet."
      : Number.isNaN(at)
        ? "The newest reading has no device time: choose Time: Received."
        : `The newest reading is from ${formatDate(at)}.`,
    action: !Number.isNaN(at) && ["Go there", () => goTo(at)],
  });
}

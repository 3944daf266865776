// The table of the newest readings.

import { formatDate, formatName, formatNumber } from "./format.js";
import { tagName } from "./history.js";
import { numberOf, valueOf } from "./readings.js";

const ROWS = 60;
const MAX_COLUMNS = 6;

/** Shows the newest readings that match the search. It reuses its rows. */
export class ReadingsTable {
  #columns = [];
  #rows = [];
  #key = "";

  constructor(byId, onSearch) {
    this.head = byId("table-head");
    this.body = byId("table-body");
    this.note = byId("table-note");
    this.search = byId("search");
    this.search.addEventListener("input", onSearch);
  }

  /** Forget the readings and the search. */
  forget() {
    this.search.value = "";
    this.#key = ""; // the readings go even if the columns stay
    this.setColumns(undefined, []);
  }

  /** Show these fields as columns, after the times and the tag. */
  setColumns(tagField, fields) {
    const own = fields.filter((field) => !field.column).slice(0, MAX_COLUMNS);
    const key = JSON.stringify([tagField?.name, ...own.map((field) => field.name)]);
    if (key === this.#key) return;
    this.#key = key;
    this.#columns = [
      { title: "Received", text: receivedOf },
      { title: "Device time", className: "wide", text: (row) => (row.device >= 0 ? formatDate(row.device) : "–") },
      ...(tagField ? [{ title: tagField.name, className: "mono", text: (row) => tagName(valueOf(row, tagField) ?? "–") }] : []),
      ...own.map((field) => ({ title: field.name, className: "number", text: (row) => cellOf(valueOf(row, field)) })),
      { title: "freeform", className: "raw wide", text: (row) => row.freeform },
    ];
    this.head.replaceChildren(...this.#columns.map(({ title, className }) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = formatName(title);
      cell.title = cell.textContent;
      cell.className = className ?? "";
      return cell;
    }));
    this.#rows = [];
    this.body.replaceChildren();
  }

  /** Write the newest matching readings. `readings` yields the newest first. */
  render(readings, total) {
    const pattern = patternOf(this.search.value);
    const found = [];
    let searched = 0;
    for (const reading of readings) {
      searched += 1;
      if (!pattern || pattern.every((each) => each.test(reading.freeform) || each.test(receivedOf(reading)))) {
        found.push(reading);
        if (found.length === ROWS) break;
      }
    }
    this.#write(found);
    const text = !total
      ? "No readings yet."
      : found.length === 0
        ? `None of the newest ${searched.toLocaleString("en")} readings matches.`
        : pattern
          ? `The newest ${found.length} that match.`
          : `The newest ${found.length}${total > found.length ? ` of ${total.toLocaleString("en")}` : ""}, in local time.`;
    if (this.note.textContent !== text) this.note.textContent = text;
  }

  #write(found) {
    while (this.#rows.length < found.length) this.#rows.push(this.#row());
    while (this.#rows.length > found.length) this.#rows.pop().element.remove();
    found.forEach((reading, index) => {
      const row = this.#rows[index];
      if (row.reading === reading) return;
      row.reading = reading;
      this.#columns.forEach((column, place) => {
        const text = column.text(reading);
        if (row.texts[place].data !== text) row.texts[place].data = text;
      });
    });
  }

  #row() {
    const element = document.createElement("tr");
    const texts = this.#columns.map(({ className }) => {
      const cell = document.createElement("td");
      cell.className = className ?? "";
      const text = document.createTextNode("");
      cell.append(text);
      element.append(cell);
      return text;
    });
    this.body.append(element);
    return { element, texts, reading: null };
  }
}

/** Return the time of receipt in local time, as the plots have it. */
function receivedOf(reading) {
  return formatDate(reading.received);
}

function cellOf(value) {
  const number = numberOf(value);
  return Number.isFinite(number) ? formatNumber(number) : tagName(value ?? "–");
}

function patternOf(text) {
  const words = text.split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  return words.map((word) => new RegExp(word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i"));
}

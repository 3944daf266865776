// The tags: which lines there are, their colours, and the list in which a person chooses them.

import { commonPrefix } from "./format.js";

const COLOURS = 10;
const SHOWN_FIRST = 8;
const MAX_LABEL = 16; // characters, for which the list has room
const MAX_SHOWN = 40;
const MAX_TAGS = 1000;
const LISTED = 150;

/** All tags of the field that names them. Without such a field there is one tag, "". */
export class Tags {
  #tags = new Map();
  #version = 0;
  #prefix = "";

  constructor(byId, onChange) {
    const [heading, element] = [byId("tags-count"), byId("tags")];
    const [items, search, note, all, none] = ["items", "search", "note", "all", "none"].map((name) => byId(`tags-${name}`));
    const list = (this.list = { element, heading, items, search, note, all, none });
    this.onChange = onChange;
    this.chosen = false;
    list.search.addEventListener("input", () => this.render());
    list.all.addEventListener("click", () => this.#show(this.#matching().slice(0, MAX_SHOWN)));
    list.none.addEventListener("click", () => this.#show([]));
    list.items.addEventListener("change", (event) => {
      const tag = this.#tags.get(event.target.dataset.tag);
      if (tag) this.#toggle(tag, event.target.checked);
    });
    list.items.addEventListener("click", (event) => {
      const only = event.target.closest("[data-only]");
      if (only) this.#show([this.#tags.get(only.dataset.only)]);
    });
  }

  clear() {
    this.#tags.clear();
    this.chosen = false;
    this.#version += 1;
    this.render();
  }

  /** Forget the tags and the search. */
  forget() {
    this.list.search.value = "";
    this.clear();
  }

  get size() {
    return this.#tags.size;
  }

  /** Note a tag. Return whether its line is shown. */
  note(name) {
    let tag = this.#tags.get(name);
    if (tag === undefined) {
      const number = this.#tags.size;
      if (number >= MAX_TAGS) return false;
      const shown = !this.chosen && number < SHOWN_FIRST;
      tag = { name, shown, colour: number % COLOURS, dash: number % (2 * COLOURS) >= COLOURS };
      this.#tags.set(name, tag);
      this.#version += 1;
      this.onChange(shown);
    }
    return tag.shown;
  }

  /** Return the lines that are shown, as `PlotGrid.set` takes them. */
  lines() {
    const shown = [...this.#tags.values()].filter((tag) => tag.shown);
    return shown.map(({ name, colour, dash }) => ({ tag: name, label: this.label(name), colour, dash }));
  }

  /** Return a name without the common prefix of all names. Leave out the middle of a long one: names often differ at the end. */
  label(name) {
    const text = this.#prefix ? `…${name.slice(this.#prefix.length)}` : name;
    return text.length > MAX_LABEL ? `${text.slice(0, MAX_LABEL / 2 - 1)}…${text.slice(-MAX_LABEL / 2)}` : text;
  }

  #matching() {
    const words = this.list.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return [...this.#tags.values()]
      .filter((tag) => words.every((word) => tag.name.toLowerCase().includes(word)))
      .sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  }

  #toggle(tag, shown) {
    tag.shown = shown && this.lines().length < MAX_SHOWN;
    this.#changed();
  }

  #show(tags) {
    for (const tag of this.#tags.values()) tag.shown = tags.includes(tag);
    this.#changed();
  }

  #changed() {
    this.chosen = true;
    this.#version += 1;
    this.render();
    this.onChange(true);
  }

  #rendered = -1;

  /** Write the list if it has changed. */
  renderIfChanged() {
    if (this.#rendered !== this.#version) this.render();
  }

  render() {
    this.#rendered = this.#version;
    const { element, heading, items, search, note } = this.list;
    const named = [...this.#tags.keys()].filter(Boolean);
    this.#prefix = commonPrefix(named);
    element.hidden = named.length === 0;
    element.classList.toggle("many", named.length > 12);
    const shown = this.lines().length;
    heading.textContent = shown === this.#tags.size ? `${shown} shown` : `${shown} of ${this.#tags.size} shown`;
    search.parentElement.hidden = named.length <= 12;
    const matching = this.#matching();
    items.replaceChildren(...matching.slice(0, LISTED).map((tag) => this.#item(tag)));
    const left = matching.length - LISTED;
    const texts = [];
    if (left > 0) texts.push(`${left} more: search for them.`);
    if (shown >= MAX_SHOWN) texts.push(`At most ${MAX_SHOWN} lines are shown.`);
    if (this.#tags.size >= MAX_TAGS) texts.push(`Only the first ${MAX_TAGS} tags are listed.`);
    note.textContent = texts.join(" ");
  }

  #item(tag) {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = tag.shown;
    box.dataset.tag = tag.name;
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.dataset.line = tag.colour;
    swatch.classList.toggle("dash", tag.dash);
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = this.label(tag.name) || "readings without a tag";
    name.title = tag.name;
    label.append(box, swatch, name);
    const only = document.createElement("button");
    only.type = "button";
    only.className = "only";
    only.dataset.only = tag.name;
    only.textContent = "only";
    only.setAttribute("aria-label", `Show only ${tag.name || "readings without a tag"}`);
    item.append(label, only);
    return item;
  }
}

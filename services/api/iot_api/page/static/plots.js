// The plots: one per field, with one line per tag. uPlot draws them.

import { formatClock, formatDate, formatName, formatNumber } from "./format.js";

const HEIGHTS = { few: 250, many: 190 }; // up to three plots are higher
const FRAME_MS = 12; // drawing may take this long in a frame; the other plots follow in the next one
const TITLE_END = 12; // characters of a long name that are always shown
const DAY_MS = 86_400_000;

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function paddedRange(_, low, high) {
  if (low === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

function rangeFromZero(_, low, high) {
  return [0, high > 0 ? high * 1.15 : 1];
}

/** Return the labels of marks on a time axis, for uPlot. `increment` is the distance of two marks. */
export function timeLabels(_, splits, __, ___, increment) {
  return splits.map((ms) => {
    const date = formatDate(ms);
    const [day] = date.split(" ");
    if (increment > 300 * DAY_MS) return day.slice(0, -6);
    if (increment >= 28 * DAY_MS) return day.slice(0, -3);
    if (increment >= DAY_MS || (increment >= 60_000 && date.endsWith(" 00:00:00"))) {
      return day.endsWith("-01-01") ? day : day.slice(-5);
    }
    if (increment >= 60_000) return date.slice(-8, -3);
    return formatClock(ms, increment < 1000);
  });
}

class Plot {
  #drawn = [];
  #sparse = [];
  #focus = -1;
  #uplot = null;

  constructor(grid, field) {
    this.grid = grid;
    this.field = field;
    this.visible = true;
    this.element = document.createElement("figure");
    this.element.className = "plot";
    this.element.dataset.field = field.name;
    const caption = document.createElement("figcaption");
    this.title = document.createElement("h3");
    this.readout = document.createElement("span");
    this.readout.className = "readout";
    caption.append(this.title, this.readout);
    this.canvas = document.createElement("div");
    this.canvas.className = "canvas";
    this.canvas.setAttribute("role", "img");
    this.element.append(caption, this.canvas);
    // Only the plot under the pointer chooses a line; the others follow.
    this.canvas.addEventListener("mouseenter", () => this.#choosesLine(true));
    this.canvas.addEventListener("mouseleave", () => this.#choosesLine(false));
  }

  #choosesLine(yes) {
    if (this.#uplot === null) return;
    this.#uplot.cursor.focus.prox = yes ? 30 : -1;
    if (!yes) this.#uplot.setSeries(null, { focus: true });
  }

  /** Make the plot anew: for another name, other lines or other colours. */
  build(lines) {
    this.#writeTitle();
    this.canvas.setAttribute("aria-label", `${this.title.title} over time`);
    this.#uplot?.destroy();
    this.lines = lines;
    this.#drawn = [];
    this.#focus = lines.length === 1 ? 1 : -1;
    this.#uplot = new uPlot(this.#options(lines), null, this.canvas);
  }

  /** Write the name of the field. If it is too long, its middle is left out: names often differ at the end. */
  #writeTitle() {
    const name = formatName(this.field.name);
    if (this.title.title === name) return;
    this.title.title = name;
    const letters = [...name];
    const parts = letters.length > 2 * TITLE_END ? [letters.slice(0, -TITLE_END), letters.slice(-TITLE_END)] : [letters];
    this.title.replaceChildren(...parts.map((part) => {
      const element = document.createElement("span");
      element.textContent = part.join("");
      return element;
    }));
  }

  #options(lines) {
    const muted = colourOf("--muted");
    const line = colourOf("--grid");
    const axis = {
      stroke: muted,
      font: `12px ${getComputedStyle(document.body).fontFamily}`,
      grid: { stroke: line, width: 1 },
      ticks: { show: false },
    };
    return {
      width: Math.max(this.canvas.clientWidth, 120),
      height: this.grid.height,
      ms: 1,
      padding: [8, 28, 0, 0],
      legend: { show: false },
      focus: { alpha: 0.2 },
      cursor: {
        y: false,
        sync: { key: "readings", setSeries: true },
        drag: { x: true, y: false, setScale: false },
        focus: { prox: -1 },
        points: { size: 7 },
      },
      scales: { x: { time: true, auto: false }, y: { range: this.field.fromZero ? rangeFromZero : paddedRange } },
      axes: [
        { ...axis, values: timeLabels, space: 80, size: 30, gap: 6 },
        { ...axis, values: (_, splits) => splits.map(formatNumber), size: 62, gap: 6, space: 34 },
      ],
      series: [{}, ...lines.map((each) => this.#series(each))],
      hooks: {
        setSelect: [(u) => this.#select(u)],
        setCursor: [() => this.#read()],
        setSeries: [(_, index, options) => this.#setFocus(index, options)],
      },
    };
  }

  #series(line) {
    const stroke = colourOf(`--line-${line.colour}`);
    return {
      stroke,
      width: 1.6,
      dash: line.dash ? [6, 4] : undefined,
      points: { show: (_, index) => this.#sparse[index - 1] === true, size: 5, fill: stroke, width: 0 },
    };
  }

  #setFocus(index, options) {
    if (options?.focus === undefined) return;
    this.#focus = options.focus && index !== null ? index : this.lines.length === 1 ? 1 : -1;
    this.#read();
  }

  #select(u) {
    const { left, width } = u.select;
    if (width < 4) return;
    const from = u.posToVal(left, "x");
    const to = u.posToVal(left + width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.grid.onZoom(from, to);
  }

  /** Show the value under the cursor, or else the range of what is drawn. */
  #read() {
    const u = this.#uplot;
    if (u === null) return;
    const index = u.cursor.idx;
    let text = "";
    let colour = "";
    if (index !== null && index !== undefined && this.#focus > 0 && u.data[this.#focus]) {
      const near = nearest(u.data[this.#focus], index);
      if (near >= 0) {
        const { label, colour: number } = this.lines[this.#focus - 1];
        const value = formatNumber(u.data[this.#focus][near]);
        const at = u.data[0][near];
        const time = u.scales.x.max - u.scales.x.min > DAY_MS ? formatDate(at) : formatClock(at, true);
        text = `${time}  ${label ? `${label}  ` : ""}${value}`;
        colour = String(number);
      }
    } else {
      const values = this.#extremes;
      text = values ? [...new Set(values.map(formatNumber))].join(" … ") : "";
    }
    if (this.readout.textContent !== text) this.readout.textContent = text;
    if (this.readout.dataset.line !== colour) this.readout.dataset.line = colour;
  }

  #extremes = null;

  draw(thinned, from, to) {
    const u = this.#uplot;
    const tags = this.lines.map((line) => line.tag);
    this.#sparse = thinned.columns(this.field, tags, from, to, this.#drawn);
    this.#extremes = extremesOf(this.#drawn);
    u.batch(() => {
      u.setData(this.#drawn, false);
      u.setScale("x", { min: from, max: to });
    });
    this.#read();
    const range = this.#extremes ? this.#extremes.map(formatNumber).join(" to ") : "no values";
    this.label = `${formatName(this.field.name)} over time, ${tags.length} line${tags.length === 1 ? "" : "s"}: ${range}`;
  }

  /** Write the name of the field, which may change, and tell screen readers what is drawn. Called each second. */
  describe() {
    this.#writeTitle();
    if (this.label) this.canvas.setAttribute("aria-label", this.label);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.#uplot !== null && width > 0 && width !== this.#uplot.width) {
      this.#uplot.setSize({ width, height: this.grid.height });
      return true;
    }
    return false;
  }

  remove() {
    this.#uplot?.destroy();
    this.#uplot = null;
    this.element.remove();
  }
}

function nearest(values, index) {
  for (let distance = 0; distance < 60; distance += 1) {
    if (values[index - distance] != null) return index - distance;
    if (values[index + distance] != null) return index + distance;
  }
  return -1;
}

function extremesOf(columns) {
  let low = Infinity;
  let high = -Infinity;
  for (let line = 1; line < columns.length; line += 1) {
    for (const value of columns[line]) {
      if (value == null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/** All plots. It draws the visible ones, in as many frames as they need. */
export class PlotGrid {
  #plots = new Map();
  #waiting = [];
  #frame = 0;
  #task = null;

  constructor(container, onZoom, onResize) {
    this.container = container;
    this.onZoom = onZoom;
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const plot = [...this.#plots.values()].find((each) => each.element === entry.target);
        if (!plot) continue;
        plot.visible = entry.isIntersecting;
        if (plot.visible && this.#task) this.#enqueue([plot]);
      }
    }, { rootMargin: "200px" });
    new ResizeObserver(() => {
      let changed = false;
      for (const plot of this.#plots.values()) changed = plot.resize() || changed;
      if (changed) onResize();
    }).observe(container);
  }

  /** The number of pixels of a plot's time axis. */
  get pixels() {
    const [plot] = this.#plots.values();
    const width = plot?.canvas.clientWidth || this.container.clientWidth || 600;
    return Math.max(60, Math.floor(width - 72));
  }

  get height() {
    return this.#plots.size > 3 ? HEIGHTS.many : HEIGHTS.few;
  }

  /** Show these fields with these lines: `{tag, label, colour, dash}`. */
  set(fields, lines) {
    for (const [field, plot] of this.#plots) {
      if (!fields.includes(field)) {
        this.seen.unobserve(plot.element);
        plot.remove();
        this.#plots.delete(field);
      }
    }
    for (const field of fields) {
      if (!this.#plots.has(field)) this.#plots.set(field, new Plot(this, field));
      this.container.append(this.#plots.get(field).element);
    }
    for (const plot of this.#plots.values()) {
      plot.build(lines);
      this.seen.observe(plot.element);
    }
    this.#waiting = [];
    if (this.#task) this.#enqueue(this.#plots.values());
  }

  /** Draw a range of lines. A range that is not drawn yet is skipped. */
  draw(thinned, from, to) {
    this.#task = { thinned, from, to };
    if (this.#waiting.length === 0) this.#enqueue(this.#plots.values());
  }

  describe() {
    for (const plot of this.#plots.values()) plot.describe();
  }

  clear() {
    this.set([], []);
    this.#task = null;
  }

  #enqueue(plots) {
    for (const plot of plots) if (plot.visible && !this.#waiting.includes(plot)) this.#waiting.push(plot);
    if (this.#frame === 0 && this.#waiting.length) {
      this.#frame = requestAnimationFrame(() => this.#drawSome());
    }
  }

  #drawSome() {
    this.#frame = 0;
    const begin = performance.now();
    const { thinned, from, to } = this.#task ?? {};
    while (thinned && this.#waiting.length) {
      this.#waiting.shift().draw(thinned, from, to);
      if (performance.now() - begin > FRAME_MS) break;
    }
    if (this.#waiting.length) this.#frame = requestAnimationFrame(() => this.#drawSome());
  }
}

// Thins out lines: the least and the greatest value of each pixel, whatever the number of readings.

const SPARSE = 12; // slots for each value

class Line {
  constructor(size) {
    this.slot = new Float64Array(size).fill(-1);
    this.low = new Float64Array(size);
    this.high = new Float64Array(size);
  }

  add(slot, value) {
    const place = slot % this.slot.length;
    if (this.slot[place] === slot) {
      if (value < this.low[place]) this.low[place] = value;
      if (value > this.high[place]) this.high[place] = value;
    } else if (this.slot[place] < slot) {
      this.slot[place] = slot;
      this.low[place] = value;
      this.high[place] = value;
    }
  }
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000];

/** Return a step in milliseconds that divides a range into at most `count` windows. */
export function stepOf(range, count) {
  const needed = range / count;
  const step = STEPS.find((each) => each >= needed);
  return step ?? Math.ceil(needed / 60_000) * 60_000;
}

/** Lines of fields and tags, in slots of `step` milliseconds. It holds `size` slots of each line. */
export class ThinnedLines {
  #lines = new Map();
  /** Slots between two values of a line: more than one if the service sent longer windows. */
  spacing = 1;

  constructor(step, size) {
    this.step = step;
    this.size = size;
  }

  add(field, tag, time, value) {
    let tags = this.#lines.get(field);
    if (tags === undefined) this.#lines.set(field, (tags = new Map()));
    let line = tags.get(tag);
    if (line === undefined) tags.set(tag, (line = new Line(this.size)));
    line.add(Math.floor(time / this.step), value);
  }

  /**
   * Write the columns of a plot: two x values a slot, and for each tag its two values. A slot
   * without values is `undefined`, which uPlot draws through, or null in a long gap.
   * Return, for each tag, whether its values are so far apart that points should be drawn.
   */
  columns(field, tags, from, to, into) {
    const first = Math.floor(from / this.step);
    const last = Math.min(Math.floor(to / this.step), first + this.size - 1);
    const length = 2 * (last - first + 1);
    into.length = tags.length + 1;
    const xs = (into[0] ??= []);
    xs.length = length;
    for (let slot = first, i = 0; slot <= last; slot += 1) {
      xs[i++] = (slot + 0.25) * this.step;
      xs[i++] = (slot + 0.75) * this.step;
    }
    const lines = this.#lines.get(field);
    return tags.map((tag, index) => {
      const ys = (into[index + 1] ??= []);
      ys.length = length;
      ys.fill(undefined);
      return fillLine(lines?.get(tag), first, last, ys, 6 * this.spacing);
    });
  }
}

function fillLine(line, first, last, ys, shortestGap) {
  if (line === undefined) return false;
  const { slot: slots, low, high } = line;
  const size = slots.length;
  let filled = 0;
  let begin = -1;
  let end = -1;
  for (let slot = first; slot <= last; slot += 1) {
    if (slots[slot % size] !== slot) continue;
    filled += 1;
    if (begin < 0) begin = slot;
    end = slot;
  }
  if (!filled) return false;
  const gap = Math.max(shortestGap, (6 * (end - begin + 1)) / filled);
  let previous = begin;
  let value = NaN;
  for (let slot = begin; slot <= end; slot += 1) {
    const place = slot % size;
    if (slots[place] !== slot) continue;
    const i = 2 * (slot - first);
    if (slot - previous > gap) ys.fill(null, 2 * (previous - first) + 2, i);
    const rising = !(Math.abs(value - high[place]) < Math.abs(value - low[place]));
    ys[i] = rising ? low[place] : high[place];
    if (low[place] !== high[place]) ys[i + 1] = rising ? high[place] : low[place];
    value = ys[i + 1] ?? ys[i];
    previous = slot;
  }
  return filled < 3 || filled * SPARSE < end - begin;
}

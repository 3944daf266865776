// Hands over the live stream in pieces that fit into frames. Keeps only as many readings as the page can show.

import { LiveStream } from "./live.js";

const MAX_WAITING = 20_000; // readings; then the page stops reading the stream, and the service leaves some out
const PIECE = 50;

/** The readings of a stream, on their way to the view. */
export class LiveFeed {
  #events = [];
  #waiting = 0;
  #resume = null;
  #offset = 0;

  /** `on.readings(rows, now)`, `on.summary(summary)`, `on.state(state, detail)`. */
  constructor(session, last, on) {
    this.on = on;
    this.stream = new LiveStream(session, last, {
      state: (state, detail) => on.state(state, detail),
      event: (type, data) => this.#take(type, data),
    });
  }

  close() {
    this.stream.close();
    this.#events = [];
    this.#resume?.();
  }

  /** The service's time in Unix milliseconds. */
  now() {
    return Date.now() + this.#offset;
  }

  #take(type, data) {
    if (Number.isFinite(data.time)) this.#offset = data.time - Date.now();
    if (type === "summary") this.on.summary(data);
    if (type !== "readings") return undefined;
    this.#events.push({ rows: data.data, next: 0, at: this.now() });
    this.#waiting += data.data.length;
    if (document.hidden) this.pump(Infinity); // a hidden page gets no frames
    if (this.#waiting < MAX_WAITING) return undefined;
    return new Promise((resolve) => (this.#resume = resolve));
  }

  /** Hand over readings for at most `budget` milliseconds. */
  pump(budget) {
    const begin = performance.now();
    while (this.#events.length) {
      const event = this.#events[0];
      const rows = event.rows.slice(event.next, event.next + PIECE);
      event.next += PIECE;
      if (event.next >= event.rows.length) this.#events.shift();
      this.#waiting -= rows.length;
      this.on.readings(rows, event.at);
      if (performance.now() - begin > budget) break;
    }
    if (this.#waiting < MAX_WAITING / 2) {
      this.#resume?.();
      this.#resume = null;
    }
  }
}

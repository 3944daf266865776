// The stream of new readings: server-sent events over fetch, since an EventSource sends no password.

import { ServiceError } from "./api.js";
import { SLOW_MS } from "./status.js";

const SILENCE_MS = 45_000; // the page reconnects after this silence, or after three heartbeats if they take longer
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 5_000;
const FINAL = new Set([400, 401, 403, 404]);

/** Parses the text of server-sent events (https://html.spec.whatwg.org/#event-stream-interpretation). */
export class EventParser {
  #rest = "";
  #event = { type: "", data: [], id: undefined, retry: undefined };

  /** Return the events that are complete after this text. */
  add(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    const events = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        const { data, ...event } = this.#event;
        if (data.length || event.retry !== undefined) events.push({ ...event, data: data.join("\n") });
        this.#event = { type: "", data: [], id: undefined, retry: undefined };
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") this.#event.data.push(value);
      else if (name === "event") this.#event.type = value;
      else if (name === "id") this.#event.id = value;
      else if (name === "retry") this.#event.retry = Number(value);
    }
    return events;
  }
}

/**
 * Keeps a stream open until `close`. A new connection continues after the last event that the page
 * has taken.
 *
 * `on.event(type, data)` takes an event and may return a promise: until it is fulfilled, the page
 * reads nothing more, and the service sends a summary instead.
 * `on.state(state, detail)`: "opening", "slow" (to answer), "open", "reconnecting" or "refused".
 */
export class LiveStream {
  #abort = new AbortController();
  #wake = () => {};
  #lastId;
  #retryMs = FIRST_RETRY_MS;
  #failures = 0;
  #silenceMs;

  constructor(session, last, on) {
    this.session = session;
    this.last = last;
    this.on = on;
    this.#run();
  }

  close() {
    this.#abort.abort();
    this.#wake();
  }

  /** Connect now rather than after the wait. */
  retryNow() {
    this.#wake();
  }

  async #run() {
    const closed = this.#abort.signal;
    this.on.state("opening");
    while (!closed.aborted) {
      let failure;
      try {
        await this.#connect();
        failure = new ServiceError(0, "The connection ended");
      } catch (error) {
        failure = error;
      }
      if (closed.aborted) return;
      if (FINAL.has(failure.status)) {
        this.on.state("refused", failure);
        return;
      }
      const wait = this.#waitOf(failure);
      this.on.state("reconnecting", { failure, until: Date.now() + wait, failures: this.#failures });
      await this.#sleep(wait);
    }
  }

  #waitOf(failure) {
    const growing = Math.min(this.#retryMs * 2 ** Math.min(this.#failures, 8), LONGEST_RETRY_MS);
    this.#failures += 1;
    // Random, so that pages that lost the same pod do not all reconnect at the same time.
    return Math.max(growing * (0.75 + Math.random() / 2), (failure.retryAfter ?? 0) * 1000);
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async #connect() {
    const connection = new AbortController();
    const stop = () => connection.abort();
    this.#abort.signal.addEventListener("abort", stop);
    this.#silenceMs = SILENCE_MS;
    let timer = setTimeout(stop, this.#silenceMs);
    const slow = setTimeout(() => this.on.state("slow"), SLOW_MS);
    try {
      const response = await this.session.post("api/iot/live", {
        headers: this.#lastId === undefined ? {} : { "Last-Event-ID": this.#lastId },
        body: this.#lastId === undefined ? { last: this.last } : {},
        signal: connection.signal,
      });
      clearTimeout(slow);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        for (const event of parser.add(value)) await this.#take(event);
        timer = setTimeout(stop, this.#silenceMs);
      }
    } finally {
      clearTimeout(slow);
      clearTimeout(timer);
      this.#abort.signal.removeEventListener("abort", stop);
      connection.abort();
    }
  }

  async #take(event) {
    if (event.retry !== undefined) this.#retryMs = event.retry;
    if (event.type) {
      const data = JSON.parse(event.data);
      await this.on.event(event.type, data);
      if (event.type === "open") {
        this.#failures = 0;
        this.#silenceMs = Math.max(SILENCE_MS, 3000 * data.heartbeat);
        this.on.state("open");
      }
    }
    if (event.id !== undefined) this.#lastId = event.id;
  }
}

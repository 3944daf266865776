// Requests to the service. Paths are relative, so that the page works below a prefix.

/** An error that the service answered, or a failure to reach the service (`status` 0). */
export class ServiceError extends Error {
  constructor(status, message, { field = "", reason = "", retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.field = field;
    this.reason = reason;
    this.retryAfter = retryAfter;
  }
}

/** The password and the token of a person, for each request. They are kept in memory only. */
export class Session {
  #password;
  #token;

  constructor(password, token) {
    this.#password = password;
    this.#token = token;
  }

  /** POST the password to a path. Return a response with a status of 200 to 299, else throw `ServiceError`. */
  async post(path, { query = {}, headers = {}, body = {}, signal } = {}) {
    const data = { data: { db_password: this.#password, ...body } };
    const init = { method: "POST", body: JSON.stringify(data), signal };
    return this.#send(path, query, { "Content-Type": "application/json", ...headers }, init);
  }

  /** GET a path without the password. */
  async get(path, { query = {}, signal } = {}) {
    return this.#send(path, query, {}, { signal });
  }

  /** Send a request without the password and without a body. */
  async send(method, path) {
    return this.#send(path, {}, {}, { method });
  }

  async #send(path, query, headers, init) {
    const text = new URLSearchParams(query).toString();
    const url = text ? `${path}?${text}` : path;
    // Tokens are printable ASCII. The browser refuses to send some other characters, such as typographic quotes.
    if (/[^\x21-\x7e]/.test(this.#token)) throw new ServiceError(401, "The service does not know this token");
    const all = this.#token ? { ...headers, Authorization: `Bearer ${this.#token}` } : headers;
    let response;
    try {
      response = await fetch(url, { ...init, headers: all, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError(0, "The service can't be reached");
    }
    if (response.ok) return response;
    throw await errorOf(response);
  }
}

async function errorOf(response) {
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // A proxy may answer with a web page, which is no JSON.
  }
  return new ServiceError(response.status, answer.error || `The service answered ${response.status}`, {
    field: answer.field,
    reason: answer.reason,
    retryAfter: Number(response.headers.get("Retry-After")) || 0,
  });
}

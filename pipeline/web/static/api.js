// Requests to the server. Every failure is an Error with a `kind` for programs and a message for users.

/** Why a request failed. */
export class Problem extends Error {
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

async function answered(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("network", "Check that it still runs and that this machine can reach it.");
  }
  if (response.ok) return response;
  let told = {};
  try { told = await response.json(); } catch { /* an answer of something in between */ }
  const problem = new Problem(told.kind ?? "http", told.message ?? `The server answered ${response.status}.`, response.status);
  if (response.status === 401 && !path.endsWith("/session")) document.dispatchEvent(new CustomEvent("locked"));
  throw problem;
}

/** GET an address and parse its JSON; leaves out empty parameters. */
export async function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) if (each !== "" && each !== null && each !== undefined) query.append(name, each);
  }
  const asked = query.size ? `${path}?${query}` : path;
  return (await answered(asked, { signal })).json();
}

/** Send JSON and parse the JSON of the response. */
export async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await answered(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) })).json();
}

/** The events that the server streams while it answers a question. */
export async function* ask(question, signal) {
  const response = await answered("api/ask", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question), signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("network", "The answer broke off: ask again.");
    }
    rest += part.value ?? "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const event = JSON.parse(line);
      if (event.event === "failed") throw new Problem(event.kind, event.message);
      ended ||= event.event === "done";
      yield event;
    }
    if (part.done) break;
  }
  if (!ended) throw new Problem("network", "The answer broke off: ask again.");
}

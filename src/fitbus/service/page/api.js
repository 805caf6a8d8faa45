// Requests to the service, all relative to where the page is: it may be mounted anywhere.

import { dialog, dialogButtons, make, say } from "./dom.js";

/** An answer that isn't what was asked for; `status` is 0 where there was none at all. */
export class Refusal extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

const LIMIT_MS = 45000; // a control is answered within 30 s

async function send(path, method, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(LIMIT_MS),
    });
  } catch {
    throw new Refusal(0, "the service can't be reached; it is tried again");
  }
  const text = await response.text().catch(() => "");
  let found = {};
  try {
    found = text ? JSON.parse(text) : {};
  } catch {
    found = { error: `the answer can't be read (HTTP ${response.status})` };
  }
  if (!response.ok) throw new Refusal(response.status, found.error ?? `HTTP ${response.status}`);
  return found;
}

let asking = null;
let known = null; // what the session may do, as far as this page knows
let declined = false; // polls don't ask again for a token that nobody gave

/**
 * Asks the service for something, and for a token where one is needed.
 *
 * `quiet` requests, which nobody pressed a button for, ask for the token once.
 */
export async function ask(path, { method = "GET", body, quiet = method === "GET" } = {}) {
  if (method !== "GET" && !(await maySteer())) {
    throw new Refusal(403, "a token is needed to steer: sign in");
  }
  try {
    return await send(path, method, body);
  } catch (refusal) {
    if (refusal.status !== 401 && refusal.status !== 403) throw refusal;
    const found = await session();
    const better = found.tokens && found.access !== "control";
    if (!better || (quiet && declined)) throw refusal;
    if (!(await signIn(refusal.message))) {
      declined = declined || quiet;
      throw refusal;
    }
    return send(path, method, body);
  }
}

/** Asks for a token where it is known that one is needed to steer; tells whether it may be tried. */
export async function maySteer() {
  if (known === null) await session();
  return !known?.tokens || known.access === "control" || Boolean(await signIn());
}

/** What the browser's session may do. */
export async function session() {
  known = await send("session", "GET");
  return known;
}

/** Forgets the token. */
export async function signOut() {
  await send("session", "DELETE");
  known = null;
  declined = true;
  document.dispatchEvent(new Event("session"));
}

/** Asks for a token until it is right, or nobody wants to; tells whether it was. */
export function signIn(why = "") {
  asking ??= dialog("Sign in", (close) => {
    const token = make("input", {
      id: "token", type: "password", autocomplete: "current-password", required: true,
      autofocus: true, "aria-describedby": "token-hint",
    });
    const error = make("p", { class: "error", role: "alert" });
    const form = make(
      "form",
      {},
      make("p", { id: "token-hint" }, why || "The token was logged when the service started."),
      make("label", { for: "token" }, "Token"),
      token,
      error,
      dialogButtons("Sign in", close),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const found = await send("session", "POST", { token: token.value });
        known = { tokens: true, session: true, ...found };
        declined = false;
        close(true);
        document.dispatchEvent(new Event("session"));
      } catch (refusal) {
        say(error, refusal.message);
        token.select();
      }
    });
    return form;
  }).finally(() => {
    asking = null;
  });
  return asking;
}

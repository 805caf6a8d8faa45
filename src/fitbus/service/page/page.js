// The page: which run is shown, whether the service is there, and who is signed in.

import { session, signIn, signOut } from "./api.js";
import { say } from "./dom.js";
import { RunList } from "./list.js";
import { RunView } from "./run.js";

const WORDS = {
  live: "live",
  connecting: "connecting…",
  lost: "connection lost; trying again…",
  hidden: "",
  ended: "ended",
};

const link = document.getElementById("link");
let view = null;
let stream = "";
let trouble = "";

function tell() {
  const state = trouble ? "lost" : stream;
  link.dataset.state = state;
  say(link, trouble || WORDS[stream] || "");
}

const list = new RunList((problem) => {
  const changed = problem !== trouble;
  trouble = problem;
  if (changed) tell();
});

function route() {
  const id = new URLSearchParams(location.hash.slice(1)).get("run") ?? "";
  if (location.hash === "#main") return; // the link that skips the list
  view?.close();
  view = null;
  stream = "";
  const place = document.getElementById("run");
  place.hidden = !id;
  document.getElementById("nothing").hidden = Boolean(id);
  document.body.dataset.view = id ? "run" : "list";
  document.title = "fitbus";
  list.choose(id);
  if (id) {
    view = new RunView(id, place, (state) => {
      stream = state;
      tell();
    });
    window.scrollTo(0, 0);
  }
  tell();
}

const button = document.getElementById("session");

async function showSession() {
  try {
    const found = await session();
    button.hidden = !found.tokens;
    const signedIn = found.session && found.access !== "none";
    button.dataset.signedIn = String(signedIn);
    say(button, signedIn ? "Sign out" : "Sign in");
  } catch {
    // The next change of the session tells.
  }
}

button.addEventListener("click", async () => {
  if (button.dataset.signedIn === "true") await signOut().catch(() => {});
  else await signIn();
  showSession();
});
document.addEventListener("session", showSession);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash says which run is shown
  document.getElementById("main").focus();
});
window.addEventListener("hashchange", route);
route();
showSession();

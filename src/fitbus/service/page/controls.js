// The buttons that steer a run, and what became of what they sent.

import { ask } from "./api.js";
import { dialog, dialogButtons, make, number, say } from "./dom.js";
import { control as inWords } from "./words.js";

const KEPT = 20;
const FINAL = ["completed", "stopped", "cancelled", "failed"];

export class Controls {
  constructor(run) {
    this.run = run;
    this.waiting = new Map(); // by the id of a control that is still to act
    this.heard = new Map(); // outcomes by id: one may be told before its control's answer is here
    const button = (text, press, kind = "") =>
      make("button", { type: "button", class: kind, onclick: press }, text);
    this.pause = button("Pause", () => this.send({ type: "Pause" }));
    this.resume = button("Resume", () => this.send({ type: "Resume" }));
    this.evaluate = button("Evaluate", () => this.send({ type: "Evaluate" }));
    this.save = button("Save", () => this.send({ type: "SaveCheckpoint" }));
    this.stop = button("Stop…", () => this.askToStop(), "danger");
    this.rate = make("input", {
      id: "rate", inputmode: "decimal", autocomplete: "off", size: 9, required: true,
      pattern: "\\s*[0-9]*\\.?[0-9]+([eE][\\-+]?[0-9]+)?\\s*", title: "A number such as 0.01 or 1e-3",
    });
    this.set = make("button", { type: "submit" }, "Set");
    const form = make(
      "form", { class: "rate" }, make("label", { for: "rate" }, "Learning rate"), this.rate, this.set,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send({ type: "SetLearningRate", value: Number(this.rate.value) });
    });
    this.acks = make("ol", { class: "acks" });
    this.root = make(
      "section",
      { class: "controls", "aria-label": "Steering" },
      make(
        "div", { class: "toolbar" },
        this.pause, this.resume, this.evaluate, this.save, this.stop, form,
      ),
      make("div", { class: "sent", role: "log", tabindex: 0, "aria-label": "What was sent" }, this.acks),
    );
  }

  /** Lets the buttons be pressed that make sense. */
  update(status, rate) {
    const over = FINAL.includes(status);
    const queued = status === "queued" || status === "starting";
    const paused = status === "paused";
    this.root.hidden = over && !this.acks.childElementCount;
    const off = {
      pause: over || queued || paused, resume: over || !paused, evaluate: over || queued,
      save: over || queued, stop: over || status === "finishing", set: over || queued,
    };
    for (const [name, is] of Object.entries(off)) {
      if (this[name].disabled !== is) this[name].disabled = is;
    }
    if (rate !== null && rate !== undefined) this.rate.placeholder = number(rate);
  }

  async askToStop() {
    const validate = make("input", { type: "checkbox", id: "validate", checked: true });
    const answer = await dialog("Stop this run?", (close) => {
      const form = make(
        "form", {},
        make("p", {}, "It ends after the current step. What it has learnt is kept."),
        make("label", { class: "check" }, validate, "Validate once more"),
        dialogButtons("Stop it", close, "danger"),
      );
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        close(true);
      });
      return form;
    });
    if (answer) {
      this.send({ type: "StopTraining", reason: "asked on the page", validate: validate.checked });
    }
  }

  /** Sends a control, and tells what becomes of it. */
  async send(control) {
    const said = make("span", { class: "outcome" }, "waits for the next step…");
    const line = make("li", { class: "waits" }, make("strong", {}, inWords(control)), " ", said);
    this.acks.prepend(line);
    while (this.acks.childElementCount > KEPT) this.acks.lastElementChild.remove();
    const settle = (kind, text) => {
      line.className = kind;
      say(said, text);
    };
    try {
      const path = `runs/${encodeURIComponent(this.run)}/controls`;
      const answer = await ask(path, { method: "POST", body: control });
      if (answer.status === "applied") settle("applied", applied(answer.step, answer.result));
      else {
        say(said, "waits: training hasn't come to a step yet…");
        this.waiting.set(answer.id, settle);
        const outcome = this.heard.get(answer.id);
        if (outcome) this.hear(outcome);
      }
    } catch (refusal) {
      const unsure = refusal.status === 0 ? "nobody answered; see the events for whether it acted" : "";
      settle("rejected", unsure || `rejected: ${refusal.message}`);
    }
  }

  /** Looks whether an event tells of a control that was sent from here. */
  hear(event) {
    if (event.type !== "ControlApplied" && event.type !== "ControlRejected") return;
    this.heard.set(event.id, event);
    if (this.heard.size > KEPT) this.heard.delete(this.heard.keys().next().value);
    const settle = this.waiting.get(event.id);
    if (!settle) return;
    if (event.type === "ControlApplied") settle("applied", applied(event.step, event.result));
    else settle("rejected", `rejected: ${event.why}`);
    this.waiting.delete(event.id);
  }
}

function applied(step, result) {
  let more = "";
  if (typeof result === "string") more = `: ${result}`;
  else if (result && typeof result === "object") {
    more = `: ${Object.entries(result).map(([name, value]) => `${name} ${number(value)}`).join(" · ")}`;
  }
  return `applied at step ${number(step)}${more}`;
}

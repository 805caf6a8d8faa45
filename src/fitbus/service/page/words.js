// What events say, in words.

import { number } from "./dom.js";

const ENVELOPE = new Set(["type", "run", "seq", "time", "step", "epoch"]);
const LONGEST = 240;

function logs(values) {
  return Object.entries(values ?? {}).map(([name, value]) => `${name} ${number(value)}`).join(" · ");
}

/** A control in words: `SetLearningRate 0.01`. */
export function control({ type, ...fields }) {
  const said = Object.values(fields)
    .filter((value) => ["number", "string"].includes(typeof value) && value !== "")
    .map((value) => (typeof value === "number" ? number(value) : value));
  return [type, ...said].join(" ");
}

const WORDS = {
  TrainBegin: (e) => `${e.epochs} epochs of ${e.steps_per_epoch ?? "an unknown number of"} steps`,
  TrainEnd: (e) => [e.reason, e.detail, logs(e.logs)].filter(Boolean).join(" · "),
  EpochBegin: (e) => `epoch ${e.epoch}`,
  EpochEnd: (e) => `epoch ${e.epoch} · ${logs(e.logs)}`,
  BatchBegin: (e) => `batch ${e.batch}`,
  BatchEnd: (e) => `batch ${e.batch} · ${logs(e.batch_logs)}`,
  TestBegin: () => "",
  TestEnd: (e) => logs(e.logs),
  TestBatchBegin: (e) => `batch ${e.batch}`,
  TestBatchEnd: (e) => `batch ${e.batch} · ${logs(e.batch_logs)}`,
  ControlApplied: (e) => `${control(e.control)}, from ${e.source || "nobody"}`,
  ControlRejected: (e) => `${control(e.control)}, from ${e.source || "nobody"}: ${e.why}`,
  RunPaused: (e) => `by ${e.source || "nobody"}`,
  RunResumed: (e) => `by ${e.source || "nobody"}`,
  CheckpointSaved: (e) => [e.path, e.tag].filter(Boolean).join(" · "),
  HandlerFailed: (e) => `${e.subscriber}: ${e.error}`,
  Lagged: (e) => `${e.count} events were lost: ${e.first_seq} to ${e.last_seq}`,
};

/** An event's own fields in words, in one line. */
export function words(event) {
  const own = Object.hasOwn(WORDS, event.type) ? WORDS[event.type] : other;
  const said = own(event);
  return said.length > LONGEST ? `${said.slice(0, LONGEST)}…` : said;
}

function other(event) {
  const own = Object.entries(event).filter(([name]) => !ENVELOPE.has(name));
  return own.map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(" · ");
}

/** Whether it is of a batch: these come by the thousand. */
export function isOfBatch(event) {
  return /^(Test|Predict)?Batch(Begin|End)$/.test(event.type);
}

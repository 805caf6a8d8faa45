// What is known of a run, folded from its events. Knows nothing of the page.

import { Level, Series } from "./series.js";

const EVENTS = 300;
const EPOCHS = 200;
const MARKS = 200;
const NAMES = 48; // of curves: those beyond are in the events only
const RATE_S = 5;
const RATE_NAMES = ["learning_rate", "lr"];

export class Model {
  constructor() {
    this.charts = new Map(); // name → {batch, train, val}
    this.more = new Set(); // names that aren't drawn
    this.rate = new Level();
    this.events = []; // the newest last
    this.epochs = []; // {epoch, step, logs}
    this.marks = []; // {step, text}: where controls acted
    this.counts = { events: 0, lost: 0 };
    this.step = this.epoch = 0;
    this.batch = -1;
    this.perEpoch = null;
    this.steps = null; // learnt from the first epoch where nobody says it
    this.initial = 0;
    this.total = null;
    this.began = this.ended = this.time = null;
    this.reason = this.detail = "";
    this.pausedAt = null;
    this.paused = 0; // seconds
    this.from = null; // {fraction, time}: what the time left is told from
    this.pace = []; // {time, step} of the last seconds
    this.validating = false;
  }

  /** What the service knows besides: `GET /runs/{id}`. */
  learn(shown) {
    this.total ??= shown.epochs ?? null;
    this.perEpoch ??= shown.steps_per_epoch ?? null;
    const rate = shown.hyperparameters?.learning_rate;
    const at = shown.hyperparameters_step;
    const known = this.rate.steps.at(-1) ?? -1; // what was told since is newer than what was read
    if (rate !== undefined && at >= Math.max(0, known)) this.rate.add(at, rate);
  }

  fold(event) {
    if (event.type === "Lagged") {
      this.counts.lost += event.count;
      this.note(event);
      return;
    }
    this.counts.events += 1;
    this.time = event.time;
    if (event.step < this.step) this.goBack(event.step);
    this.step = event.step;
    this.epoch = Math.max(0, event.epoch);
    const handler = this[`on${event.type}`];
    if (handler) handler.call(this, event);
    this.note(event);
  }

  onTrainBegin(event) {
    this.began = event.time;
    this.ended = null;
    this.total = event.epochs;
    this.perEpoch = event.steps_per_epoch;
    this.initial = event.initial_epoch;
  }

  onEpochBegin() {
    this.batch = -1;
    this.validating = false;
  }

  onBatchEnd(event) {
    this.batch = event.batch;
    this.validating = false;
    for (const [name, value] of Object.entries(event.batch_logs)) this.draw(name, "batch", value);
    this.reached();
    this.pace.push({ time: event.time, step: event.step });
    while (this.pace.length > 2 && event.time - this.pace[0].time > RATE_S) this.pace.shift();
  }

  onTestBegin() {
    this.validating = true;
  }

  onTestEnd() {
    this.validating = false;
  }

  onEpochEnd(event) {
    this.perEpoch ??= this.batch + 1 || null;
    for (const [name, value] of Object.entries(event.logs)) {
      if (name.startsWith("val_")) this.draw(name.slice(4), "val", value);
      else if (RATE_NAMES.includes(name)) this.rate.add(event.step, value);
      else this.draw(name, "train", value);
    }
    this.epochs = this.epochs.filter((each) => each.epoch < event.epoch);
    this.epochs.push({ epoch: event.epoch, step: event.step, logs: event.logs });
    if (this.epochs.length > EPOCHS) this.epochs.shift();
    this.batch = -1;
    this.epoch = event.epoch + 1;
    this.reached();
  }

  onControlApplied(event) {
    const { control } = event;
    if (control.type === "SetLearningRate") this.rate.add(event.step, control.value);
    this.marks.push({ step: event.step, text: control.type });
    if (this.marks.length > MARKS) this.marks.shift();
  }

  onRunPaused(event) {
    this.pausedAt = event.time;
  }

  onRunResumed(event) {
    if (this.pausedAt !== null) this.paused += event.time - this.pausedAt;
    this.pausedAt = null;
    this.pace = [];
  }

  onTrainEnd(event) {
    this.ended = event.time;
    this.reason = event.reason;
    this.detail = event.detail;
    this.validating = false;
  }

  draw(name, kind, value) {
    let chart = this.charts.get(name);
    if (!chart) {
      if (this.charts.size >= NAMES) {
        this.more.add(name);
        return;
      }
      chart = { batch: new Series(), train: new Series(), val: new Series() };
      this.charts.set(name, chart);
    }
    chart[kind].add(this.step, value);
  }

  note(event) {
    this.events.push(event);
    if (this.events.length > EVENTS) {
      // What is rare stays longest.
      const batch = this.events.findIndex((each) => each.batch !== undefined);
      this.events.splice(Math.max(0, batch), 1);
    }
  }

  goBack(step) {
    this.from = null;
    this.pace = [];
    this.rate.cut(step);
    this.marks = this.marks.filter((mark) => mark.step <= step);
    this.epochs = this.epochs.filter((each) => each.step <= step);
  }

  reached() {
    const { fraction } = this;
    if (fraction !== null) this.from ??= { fraction, time: this.time - this.paused };
  }

  /** How much of the training is done, from 0 to 1; null where nobody knows. */
  get fraction() {
    if (this.reason === "completed") return 1;
    if (!this.total) return null;
    const within = this.perEpoch ? Math.min(1, (this.batch + 1) / this.perEpoch) : 0;
    const all = this.total - this.initial;
    return all > 0 ? Math.min(1, Math.max(0, (this.epoch - this.initial + within) / all)) : null;
  }

  /** Seconds that are left, at the pace until now; null where nobody knows. */
  get left() {
    const { fraction } = this;
    if (this.ended !== null || fraction === null || this.from === null) return null;
    const done = fraction - this.from.fraction;
    const took = this.time - this.paused - this.from.time;
    return done > 0 && took > 0 ? ((1 - fraction) * took) / done : null;
  }

  /** Steps in a second, lately. */
  get stepsPerS() {
    if (this.ended !== null || this.pausedAt !== null || this.pace.length < 2) return null;
    const [first, last] = [this.pace[0], this.pace[this.pace.length - 1]];
    return last.time > first.time ? (last.step - first.step) / (last.time - first.time) : null;
  }
}

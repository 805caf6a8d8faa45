// One run: where it stands, its curves, its events, and what its subscribers cost.

import { ask } from "./api.js";
import { Charts } from "./charts.js";
import { Controls } from "./controls.js";
import { duration, make, number, say } from "./dom.js";
import { Model } from "./model.js";
import { Stream } from "./stream.js";
import { eventRow, fill, share } from "./tables.js";
import { isOfBatch } from "./words.js";

const POLL_MS = 2000;
const SOON_MS = 500;
const DRAW_MS = 200;
const ROWS = 100;
const SILENT_MS = 10000; // with steps going on, events would have come
const CURVE_POINTS = 1500;
const FINEST_S = 0.1;
const FINAL = ["completed", "stopped", "cancelled", "failed"];

export class RunView {
  /** @param stands told "live", "lost" and so on */
  constructor(id, place, stands) {
    Object.assign(this, { id, place, stands });
    this.closed = false;
    this.shown = null;
    this.unknown = "";
    this.timers = { poll: 0, draw: 0 };
    this.build();
    this.start();
    this.seen = () => {
      if (document.hidden) return;
      this.poll();
      this.draw();
    };
    this.signedIn = () => this.poll();
    document.addEventListener("visibilitychange", this.seen);
    document.addEventListener("session", this.signedIn);
    this.poll();
  }

  /** Begins from nothing: a run that isn't known yet, or another one under the same name. */
  start() {
    this.stream?.close();
    this.stream = null;
    this.charts?.remove();
    this.model = new Model();
    this.charts = new Charts(this.model, this.curves);
    this.rows = 0;
    this.eventList.replaceChildren();
    this.charts.log = this.logScale.checked;
  }

  build() {
    this.name = make("h2", {});
    this.status = make("span", { class: "status" });
    this.detail = make("p", { class: "hint detail" });
    this.problem = make("p", { class: "problem", role: "status" });
    this.bar = make("progress", { max: 1, "aria-label": "Progress" });
    this.where = make("p", { class: "where" });
    this.tiles = {};
    const tiles = make("dl", { class: "tiles" });
    for (const name of ["Step", "Steps/s", "Loss", "Learning rate", "Elapsed", "Time left"]) {
      this.tiles[name] = make("dd", {}, "–");
      tiles.append(make("div", {}, make("dt", {}, name), this.tiles[name]));
    }
    this.controls = new Controls(this.id);
    this.curves = make("div", { class: "charts" });
    this.more = make("p", { class: "hint" });
    this.logScale = make("input", {
      type: "checkbox",
      onchange: () => {
        this.charts.log = this.logScale.checked;
        this.charts.update();
      },
    });
    this.batches = make("input", { type: "checkbox", onchange: () => this.listEvents() });
    this.eventList = make("ol", { class: "events" });
    this.lost = make("p", { class: "hint" });
    this.costs = make("tbody");
    this.epochs = { head: make("tr"), body: make("tbody") };
    const scroll = (label, ...children) =>
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);
    this.place.replaceChildren(
      make("a", { class: "back", href: "#" }, "← All runs"),
      make("div", { class: "title" }, this.name, this.status),
      this.detail,
      this.problem,
      this.bar,
      this.where,
      tiles,
      this.controls.root,
      make(
        "section", { "aria-labelledby": "curves-title" },
        make(
          "div", { class: "bar" },
          make("h3", { id: "curves-title" }, "Curves"),
          make("label", { class: "check" }, this.logScale, "Log scale"),
        ),
        this.curves,
        this.more,
      ),
      make(
        "div", { class: "pair" },
        make(
          "section", {},
          make("h3", {}, "What subscribers cost"),
          scroll("What subscribers cost", this.costTable()),
        ),
        make(
          "section", {},
          make("h3", {}, "Epochs"),
          scroll(
            "Epochs, the newest first",
            make("table", { id: "epochs" }, make("thead", {}, this.epochs.head), this.epochs.body),
          ),
        ),
      ),
      make(
        "section", {},
        make(
          "div", { class: "bar" },
          make("h3", {}, "Events"),
          make("label", { class: "check" }, this.batches, "Batches too"),
        ),
        this.lost,
        scroll("Events, the newest first", this.eventList),
      ),
    );
  }

  costTable() {
    const titles = ["Subscriber", "Held", "Handler", "Delivered", "Dropped", "Queued", "Errors"];
    const heads = titles.map((title) => make("th", { scope: "col" }, title));
    return make("table", {}, make("thead", {}, make("tr", {}, ...heads)), this.costs);
  }

  /** Asks how it stands; over and over. */
  async poll() {
    clearTimeout(this.timers.poll);
    if (this.closed) return;
    try {
      const shown = await ask(`runs/${encodeURIComponent(this.id)}`);
      if (this.closed) return;
      // The same name, and another run: the service was restarted, or it was started again.
      const other = this.shown && shown.created !== this.shown.created;
      if (other && !(shown.step >= this.shown.step)) this.start();
      this.shown = shown;
      this.unknown = "";
      this.model.learn(shown);
      this.listen(other);
    } catch (refusal) {
      if (this.closed) return;
      this.unknown = refusal.status === 404
        ? "The service doesn't know this run: it was restarted, or the run is too long ago."
        : refusal.message;
      if (refusal.status === 0) this.stands("lost");
    }
    this.change();
    clearTimeout(this.timers.poll);
    const soon = this.shown?.hyperparameters_step === -1; // being read
    const wait = soon ? SOON_MS : POLL_MS;
    if (!this.over && !document.hidden) this.timers.poll = setTimeout(() => this.poll(), wait);
  }

  listen(anew) {
    const { shown } = this;
    const begun = !["queued", "starting"].includes(shown.status) && shown.step !== undefined;
    if (!begun) {
      this.stands(FINAL.includes(shown.status) ? "ended" : "connecting");
      return;
    }
    if (!this.stream) {
      // As many points as a chart shows, however long it has been going on.
      const everyS = Math.max(FINEST_S, (shown.seconds ?? 0) / CURVE_POINTS).toFixed(2);
      this.stream = new Stream(this.id, everyS, (event) => this.hear(event), this.stands);
      return;
    }
    const behind = shown.step > this.model.step && this.stream.silentMs > SILENT_MS;
    if (anew || behind) this.stream.open();
  }

  hear(event) {
    this.model.fold(event);
    this.controls.hear(event);
    if (["RunPaused", "RunResumed", "TrainEnd", "ControlApplied"].includes(event.type)) {
      clearTimeout(this.timers.poll);
      this.timers.poll = setTimeout(() => this.poll(), 100);
    }
    this.change();
  }

  get over() {
    return this.shown !== null && FINAL.includes(this.shown.status) && (this.stream?.ended ?? true);
  }

  /** Draws soon: many events, one drawing. */
  change() {
    if (!this.timers.draw && !document.hidden) {
      this.timers.draw = setTimeout(() => this.draw(), DRAW_MS);
    }
  }

  draw() {
    clearTimeout(this.timers.draw);
    this.timers.draw = 0;
    if (this.closed) return;
    const { model, shown } = this;
    const status = shown?.status ?? "unknown";
    say(this.name, shown?.factory || this.id);
    say(this.status, status);
    this.status.dataset.status = status;
    const parameters = Object.entries(shown?.parameters ?? {});
    const about = parameters.map(([name, value]) => `${name} ${JSON.stringify(value)}`);
    const since = shown ? `since ${new Date(shown.created * 1000).toLocaleString("en-GB")}` : "";
    say(this.detail, [shown?.factory ? this.id : "", since, ...about].filter(Boolean).join(" · "));
    const failed = shown?.error ? `It failed: ${shown.error}. The service's log says more.` : "";
    say(this.problem, this.unknown || failed);
    this.drawProgress(status);
    const rate = model.rate.last;
    this.controls.update(status, rate);
    this.charts.update();
    say(this.more, model.more.size ? `${model.more.size} more values aren't drawn; the events have them.` : "");
    this.listEvents();
    this.listCosts();
    this.listEpochs();
    const percent = model.fraction === null ? "" : `${Math.floor(model.fraction * 100)} % · `;
    document.title = `${percent}${shown?.factory || this.id} · fitbus`;
  }

  drawProgress(status) {
    const { model, shown } = this;
    const { fraction } = model;
    if (fraction === null) this.bar.removeAttribute("value");
    else this.bar.value = fraction;
    this.bar.hidden = fraction === null && FINAL.includes(status);
    const parts = [];
    if (model.ended !== null) {
      const after = model.began === null ? "" : ` after ${duration(model.ended - model.began)}`;
      parts.push(`${model.reason}${after}${model.detail ? `: ${model.detail}` : ""}`);
    } else if (status === "queued") parts.push("waits for its turn");
    else if (status === "starting") parts.push("its trainer is being made");
    else if (model.validating) parts.push("validating");
    if (model.total && model.ended === null) {
      parts.push(`epoch ${Math.min(model.epoch + 1, model.total)} of ${model.total}`);
      if (model.batch >= 0) {
        parts.push(`batch ${number(model.batch + 1)}${model.perEpoch ? ` of ${number(model.perEpoch)}` : ""}`);
      }
    }
    if (fraction !== null) parts.push(`${Math.floor(fraction * 100)} %`);
    say(this.where, parts.join(" · "));
    const loss = model.charts.get("loss");
    const told = model.began === null ? 0 : (model.ended ?? model.time) - model.began;
    const now = shown?.seconds === undefined ? null : Math.max(shown.seconds, told);
    say(this.tiles.Step, number(Math.max(model.step, 0)));
    say(this.tiles["Steps/s"], number(model.stepsPerS && Number(model.stepsPerS.toPrecision(3))));
    say(this.tiles.Loss, number(loss ? (loss.batch.last ?? loss.train.last) : null));
    say(this.tiles["Learning rate"], number(model.rate.last));
    say(this.tiles.Elapsed, duration(now));
    say(this.tiles["Time left"], duration(model.left));
  }

  listEvents() {
    const all = this.batches.checked;
    const shown = [];
    for (let at = this.model.events.length - 1; at >= 0 && shown.length < ROWS; at -= 1) {
      const event = this.model.events[at];
      if (all || !isOfBatch(event)) shown.push(event);
    }
    // Rows that are there stay: only what is new is made.
    const kept = new Map([...this.eventList.children].map((row) => [row.event, row]));
    const rows = shown.map((event) => kept.get(event) ?? eventRow(event));
    const current = this.eventList.children;
    if (rows.length !== current.length || rows.some((row, at) => row !== current[at])) {
      this.eventList.replaceChildren(...rows);
    }
    const { lost } = this.model.counts;
    say(this.lost, lost ? `${number(lost)} earlier events aren't kept any more.` : "");
  }

  listCosts() {
    const found = this.shown?.subscribers ?? [];
    fill(this.costs, found, (each) => [
      each.name, share(each.held_share, each.held_s), share(each.handler_share, each.seconds),
      number(each.delivered), number(each.dropped), number(each.queued), number(each.errors),
    ]);
  }

  listEpochs() {
    const newest = this.model.epochs.slice(-ROWS).reverse();
    const names = [...new Set(newest.flatMap((each) => Object.keys(each.logs)))].sort();
    const titles = ["Epoch", "Step", ...names];
    if (this.epochs.head.dataset.titles !== titles.join()) {
      this.epochs.head.dataset.titles = titles.join();
      this.epochs.head.replaceChildren(...titles.map((title) => make("th", { scope: "col" }, title)));
    }
    fill(this.epochs.body, newest, (each) => [
      String(each.epoch), number(each.step), ...names.map((name) => number(each.logs[name])),
    ]);
  }

  /** Lets go of it. */
  close() {
    this.closed = true;
    clearTimeout(this.timers.poll);
    clearTimeout(this.timers.draw);
    document.removeEventListener("visibilitychange", this.seen);
    document.removeEventListener("session", this.signedIn);
    this.stream?.close();
    this.charts.remove();
    this.place.replaceChildren();
  }
}

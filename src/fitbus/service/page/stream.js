// A run's events as they come, each once and without a gap, whatever happens to the connection.

const SHORTEST_MS = 500;
const LONGEST_MS = 15000;
const HIDDEN_MS = 60000; // a page that nobody sees gives its connection back: a browser has six
const ASLEEP_MS = 15000;
const TICK_MS = 5000;

export class Stream {
  /**
   * @param run the run's id
   * @param everyS at most one event of each type in so many seconds of the run
   * @param told called with each event
   * @param stands called with "live", "connecting", "lost", "hidden" or "ended"
   */
  constructor(run, everyS, told, stands) {
    Object.assign(this, { run, everyS, told, stands });
    this.lastId = "";
    this.lastSeq = -1;
    this.source = null;
    this.ended = this.closed = false;
    this.wait = SHORTEST_MS;
    this.heard = this.ticked = performance.now();
    this.tickedAt = Date.now();
    this.timers = { again: 0, hidden: 0, tick: setInterval(() => this.tick(), TICK_MS) };
    this.seen = () => this.visibility();
    this.online = () => this.open();
    document.addEventListener("visibilitychange", this.seen);
    window.addEventListener("online", this.online);
    this.shown = (event) => {
      if (event.persisted) this.open(); // the browser kept the page, and went back to it
    };
    window.addEventListener("pageshow", this.shown);
    this.open();
  }

  /** Connects, or connects anew: from the event after the last one that came. */
  open() {
    if (this.closed || this.ended) return;
    this.drop();
    const query = new URLSearchParams({ every_s: String(this.everyS) });
    if (this.lastId) query.set("last_event_id", this.lastId);
    this.stands(this.lastId ? "lost" : "connecting");
    const source = new EventSource(`runs/${encodeURIComponent(this.run)}/events?${query}`);
    this.source = source;
    this.heard = performance.now();
    source.onopen = () => {
      this.wait = SHORTEST_MS;
      this.heard = performance.now();
      this.stands("live");
    };
    source.onmessage = (message) => this.take(message);
    source.addEventListener("end", () => {
      this.ended = true;
      this.drop();
      this.stands("ended");
    });
    source.onerror = () => {
      if (source !== this.source) return;
      this.stands("lost");
      // Refused for good, or cut: the browser would give up, or wait as long as it likes.
      this.drop();
      this.timers.again = setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(LONGEST_MS, this.wait * 2);
    };
  }

  /** Gives up. */
  close() {
    this.closed = true;
    this.drop();
    clearInterval(this.timers.tick);
    clearTimeout(this.timers.hidden);
    document.removeEventListener("visibilitychange", this.seen);
    window.removeEventListener("online", this.online);
    window.removeEventListener("pageshow", this.shown);
  }

  /** For how long nothing came. */
  get silentMs() {
    return performance.now() - this.heard;
  }

  get isOpen() {
    return this.source !== null;
  }

  take(message) {
    this.heard = performance.now();
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      return; // cut in the middle: what comes after it comes again
    }
    if (event.type !== "Lagged") {
      if (event.seq <= this.lastSeq) return; // it was here before
      this.lastSeq = event.seq;
      this.lastId = message.lastEventId;
    }
    this.told(event);
  }

  drop() {
    clearTimeout(this.timers.again);
    this.source?.close();
    this.source = null;
  }

  visibility() {
    clearTimeout(this.timers.hidden);
    if (!document.hidden) {
      if (!this.isOpen) this.open();
    } else {
      this.timers.hidden = setTimeout(() => {
        this.drop();
        if (!this.ended) this.stands("hidden");
      }, HIDDEN_MS);
    }
  }

  tick() {
    // A laptop that slept: the connection may be gone without anybody having told.
    const slept = Date.now() - this.tickedAt > ASLEEP_MS;
    this.tickedAt = Date.now();
    if (slept && !document.hidden) this.open();
  }
}

// Numbers over steps, in bounded memory.

const MOST = 3000;

export class Series {
  constructor() {
    this.steps = [];
    this.values = [];
    this.last = null; // as it came: "NaN" is told, though not drawn
    this.stride = 1; // each so many-th value is kept for good, and the latest until the next comes
    this.loose = 0; // how many came since the last one that is kept
  }

  /** Takes a value in. A step that comes again, after going back, replaces what came from it. */
  add(step, value) {
    this.last = value;
    if (this.loose) this.pop();
    this.cut(step - 1);
    this.steps.push(step);
    this.values.push(typeof value === "number" && Number.isFinite(value) ? value : null);
    this.loose = (this.loose + 1) % this.stride;
    if (this.steps.length > MOST) this.thin();
  }

  /** Forgets what comes after a step. */
  cut(step) {
    while (this.steps.length && this.steps[this.steps.length - 1] > step) this.pop();
  }

  pop() {
    this.steps.pop();
    this.values.pop();
  }

  /** Forgets every second value, and keeps half as many of those that come. */
  thin() {
    const even = (_, index) => index % 2 === 0;
    this.steps = this.steps.filter(even);
    this.values = this.values.filter(even);
    this.stride *= 2;
  }
}

/** Values that stay until they change, such as a learning rate. */
export class Level extends Series {
  add(step, value) {
    const before = this.values[this.values.length - 1];
    const same = Math.abs(before - value) <= 1e-6 * Math.abs(value); // kept as float32
    if (this.steps.length && same && step >= this.steps[this.steps.length - 1]) return;
    super.add(step, value);
  }

  /** The steps and values, up to a step. */
  until(step) {
    const end = this.steps[this.steps.length - 1];
    if (end === undefined || step <= end) return [this.steps, this.values];
    return [[...this.steps, step], [...this.values, this.values[this.values.length - 1]]];
  }
}

// Numbers over steps, in bounded memory.

const MOST = 3000;

export class Series {
  constructor() {
    this.steps = [];
    this.values = [];
    this.last = null; // as it came: "NaN" is told, though not drawn
  }

  /** Takes a value in. A step that comes again, after going back, replaces what came from it. */
  add(step, value) {
    this.last = value;
    const { steps, values } = this;
    while (steps.length && steps[steps.length - 1] >= step) {
      steps.pop();
      values.pop();
    }
    steps.push(step);
    values.push(typeof value === "number" && Number.isFinite(value) ? value : null);
    if (steps.length > MOST) this.thin();
  }

  /** Forgets every second one of the older half, so that what is new is drawn best. */
  thin() {
    const keep = (_, index) => index >= MOST / 2 || index % 2 === 0;
    this.steps = this.steps.filter(keep);
    this.values = this.values.filter(keep);
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

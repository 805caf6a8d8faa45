// Curves, drawn by uPlot.

import { make, number, say } from "./dom.js";

const HEIGHT = 190;
const { uPlot } = window;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const KINDS = {
  batch: { label: "batch", colour: "--curve-batch", width: 1 },
  train: { label: "epoch", colour: "--curve-train", width: 2 },
  val: { label: "val", colour: "--curve-val", width: 2 },
  level: { label: "", colour: "--curve-train", width: 2 },
};

function joined(tables) {
  const shown = tables.filter(([steps]) => steps.length);
  return shown.length > 1 ? uPlot.join(shown) : shown[0];
}

/** Of a log scale's lines those at powers of ten. */
function decades(_, splits) {
  return splits.map((split) => (Math.abs(Math.log10(split) % 1) < 1e-9 ? split : null));
}

/** One chart; redrawn with `update`. */
class Chart {
  constructor(name, place, marks) {
    Object.assign(this, { name, marks });
    this.caption = make("span", { class: "values" });
    this.plot = null;
    this.key = "";
    this.zoomed = false;
    this.drawing = make("div", { class: "drawing", role: "img", "aria-label": name });
    this.root = make(
      "figure",
      { class: "chart" },
      make("figcaption", {}, make("strong", {}, name), this.caption),
      this.drawing,
    );
    place.append(this.root);
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.drawing);
  }

  /** Draws `{kind: [steps, values]}`. */
  update(curves, latest, log) {
    const kinds = Object.keys(curves).filter((kind) => curves[kind][0].length);
    const width = this.drawing.clientWidth;
    this.latest = latest;
    this.describe();
    if (!kinds.length || !width) return;
    const tables = kinds.map((kind) => {
      const [steps, values] = curves[kind];
      return [steps, log ? values.map((value) => (value > 0 ? value : null)) : values];
    });
    const data = joined(tables);
    this.drawing.dataset.points = data[0].length;
    const key = `${kinds.join()} ${log}`;
    if (this.plot && key === this.key) {
      this.plot.setData(data, !this.zoomed);
      if (this.zoomed) this.plot.redraw();
      return;
    }
    this.forget();
    this.key = key;
    this.kinds = kinds;
    this.plot = new uPlot(this.options(kinds, width, log), data, this.drawing);
  }

  options(kinds, width, log) {
    const line = colour("--line");
    const axis = {
      stroke: colour("--muted"), font: "11px system-ui, sans-serif",
      grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 },
    };
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: {
        sync: { key: "steps", scales: ["x", null] },
        points: { size: 6 }, y: false, drag: { x: true, y: false },
      },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 28, values: (_, splits) => splits.map((split) => number(split)) },
        {
          ...axis, size: 58,
          grid: log ? { ...axis.grid, filter: decades } : axis.grid,
          values: (_, splits) => splits.map((split) => (split === null ? "" : number(split))),
        },
      ],
      series: [
        {},
        ...kinds.map((kind) => ({
          label: KINDS[kind].label,
          stroke: colour(KINDS[kind].colour),
          width: KINDS[kind].width,
          spanGaps: true,
          points: { show: kind === "train" || kind === "val" ? undefined : false, size: 4 },
          paths: kind === "level" ? uPlot.paths.stepped({ align: 1 }) : undefined,
        })),
      ],
      hooks: {
        setCursor: [() => this.describe()],
        setSelect: [(plot) => { this.zoomed = this.zoomed || plot.select.width > 0; }],
        drawClear: [(plot) => this.drawMarks(plot)],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => { this.zoomed = false; })],
      },
    };
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const { min, max } = plot.scales.x;
    ctx.save();
    ctx.strokeStyle = colour("--mark");
    ctx.setLineDash([3, 3]);
    ctx.lineWidth = devicePixelRatio;
    for (const { step } of this.marks()) {
      if (step < min || step > max) continue;
      const x = Math.round(plot.valToPos(step, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** Tells the values: under the cursor, or the latest. */
  describe() {
    const index = this.plot?.cursor.idx;
    const hovers = index !== null && index !== undefined && this.plot.cursor.left >= 0;
    const parts = [];
    if (hovers) {
      const { data } = this.plot;
      parts.push(["", `step ${number(data[0][index])}`]);
      this.kinds.forEach((kind, at) => {
        let found = index; // the nearest value at or before it
        while (found >= 0 && data[at + 1][found] == null) found -= 1;
        if (found >= 0) parts.push([kind, number(data[at + 1][found])]);
      });
    } else {
      for (const [kind, value] of Object.entries(this.latest ?? {})) {
        if (value !== null && value !== undefined) parts.push([kind, number(value)]);
      }
    }
    const words = parts.map(([kind, text]) => `${KINDS[kind]?.label ?? ""} ${text}`.trim());
    const said = words.join(", ");
    if (said === this.said) return;
    this.said = said;
    this.caption.replaceChildren(
      ...parts.map(([kind], at) => make("span", { class: `value ${kind}` }, words[at])),
    );
    if (!hovers) this.drawing.setAttribute("aria-label", `${this.name}: ${said || "no value"}`);
  }

  resize() {
    const width = this.drawing.clientWidth;
    if (this.plot && width && width !== this.plot.width) {
      this.plot.setSize({ width, height: HEIGHT });
    }
  }

  forget() {
    this.plot?.destroy();
    this.plot = null;
    this.zoomed = false;
  }

  remove() {
    this.sizes.disconnect();
    this.forget();
    this.root.remove();
  }
}

/** The charts of a run. */
export class Charts {
  constructor(model, place) {
    Object.assign(this, { model, place });
    this.charts = new Map();
    this.log = false;
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => {
      for (const chart of this.charts.values()) chart.forget();
      this.update();
    };
    this.dark.addEventListener("change", this.recolour);
  }

  update() {
    const { model } = this;
    for (const [name, curves] of model.charts) {
      const kinds = Object.entries(curves);
      this.chart(name).update(
        Object.fromEntries(kinds.map(([kind, { steps, values }]) => [kind, [steps, values]])),
        Object.fromEntries(kinds.map(([kind, { last }]) => [kind, last])),
        this.log,
      );
    }
    if (model.rate.steps.length) {
      const level = model.rate.until(model.step);
      this.chart("learning rate").update({ level }, { level: level[1].at(-1) }, this.log);
    }
  }

  chart(name) {
    let chart = this.charts.get(name);
    if (!chart) {
      chart = new Chart(name, this.place, () => this.model.marks);
      this.charts.set(name, chart);
    }
    return chart;
  }

  remove() {
    this.dark.removeEventListener("change", this.recolour);
    for (const chart of this.charts.values()) chart.remove();
  }
}

// The list of runs, and the form that starts one.

import { ask, maySteer } from "./api.js";
import { dialog, dialogButtons, make, number, say } from "./dom.js";

const POLL_MS = 2000;

export class RunList {
  constructor(stands) {
    this.stands = stands;
    this.chosen = "";
    this.timer = 0;
    this.items = new Map();
    this.list = document.getElementById("runs");
    this.none = document.getElementById("no-runs");
    this.start = document.getElementById("new");
    this.start.addEventListener("click", () => this.startOne());
    document.addEventListener("visibilitychange", () => this.poll());
    document.addEventListener("session", () => this.poll());
    this.poll();
  }

  choose(id) {
    this.chosen = id;
    for (const [each, item] of this.items) mark(item, each === id);
  }

  async poll() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    try {
      const { runs, factories } = await ask("runs");
      this.show(runs);
      this.start.hidden = !factories.length;
      this.stands("");
    } catch (refusal) {
      this.stands(refusal.message);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), POLL_MS);
  }

  show(runs) {
    this.none.hidden = runs.length > 0;
    const known = new Set(runs.map((run) => run.id));
    for (const [id, item] of this.items) {
      if (!known.has(id)) {
        item.root.remove();
        this.items.delete(id);
      }
    }
    runs.forEach((run, at) => {
      let item = this.items.get(run.id);
      if (!item) {
        item = entry(run.id);
        mark(item, run.id === this.chosen);
        this.items.set(run.id, item);
      }
      if (this.list.children[at] !== item.root) this.list.insertBefore(item.root, this.list.children[at]);
      say(item.name, run.factory || run.id);
      say(item.status, run.status);
      item.status.dataset.status = run.status;
      const step = run.step === undefined ? "" : ` · step ${number(run.step)}`;
      const when = new Date(run.created * 1000).toLocaleString("en-GB", {
        day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
      });
      say(item.more, `${when}${step}`);
    });
  }

  async startOne() {
    let forms;
    try {
      if (!(await maySteer())) return;
      forms = await factoriesOf();
    } catch (refusal) {
      this.stands(refusal.message);
      return;
    }
    const id = await dialog("Start a run", (close) => startForm(forms, close));
    if (!id) return;
    location.hash = `run=${encodeURIComponent(id)}`;
    this.poll();
  }
}

function entry(id) {
  const name = make("strong", {});
  const status = make("span", { class: "status" });
  const more = make("span", { class: "hint" });
  const link = make("a", { href: `#run=${encodeURIComponent(id)}` }, name, status, more);
  return { root: make("li", {}, link), link, name, status, more };
}

function mark(item, is) {
  if (is) item.link.setAttribute("aria-current", "page");
  else item.link.removeAttribute("aria-current");
}

/** What can be started: `{name, schema}`, from the service's own description. */
async function factoriesOf() {
  const description = await ask("openapi.json");
  const schemas = description.components?.schemas ?? {};
  const resolve = (schema) => {
    const name = schema?.$ref?.split("/").pop();
    return name && Object.hasOwn(schemas, name) ? schemas[name] : (schema ?? {});
  };
  const { schema } = description.paths["/runs"].post.requestBody.content["application/json"];
  return (schema.oneOf ?? []).map((one) => ({
    name: one.properties.factory.const,
    schema: resolve(one.properties.parameters),
    resolve,
  }));
}

function startForm(forms, close) {
  const choice = make(
    "select", { id: "factory" }, ...forms.map(({ name }) => make("option", { value: name }, name)),
  );
  const place = make("div", { class: "fields" });
  const error = make("p", { class: "error", role: "alert" });
  let fields = [];
  const show = () => {
    const form = forms.find(({ name }) => name === choice.value);
    const required = new Set(form.schema.required ?? []);
    fields = Object.entries(form.schema.properties ?? {}).map(([name, schema]) =>
      field(name, form.resolve(schema), schema.default, required.has(name)));
    place.replaceChildren(...fields.map(({ root }) => root));
  };
  choice.addEventListener("change", show);
  show();
  const form = make(
    "form", {},
    make("label", { for: "factory" }, "Training"), choice, place, error, dialogButtons("Start", close),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const parameters = {};
    try {
      for (const { name, read } of fields) {
        const value = read();
        if (value !== undefined) parameters[name] = value;
      }
      const body = { factory: choice.value, parameters };
      close((await ask("runs", { method: "POST", body })).id);
    } catch (refusal) {
      say(error, refusal.message);
    }
  });
  return form;
}

/** An input for a parameter; `read` gives its value, or undefined for the default. */
function field(name, schema, fallback, required) {
  const id = `parameter-${name}`;
  const kind = schema.enum ? "enum" : schema.type;
  const hint = limits(schema, kind);
  const common = { id, "aria-describedby": hint ? `${id}-hint` : undefined };
  let input;
  let read;
  if (kind === "boolean") {
    input = make("input", { ...common, type: "checkbox", checked: fallback === true });
    read = () => input.checked;
  } else if (kind === "enum") {
    const options = schema.enum.map((value, at) =>
      make("option", { value: at, selected: value === fallback }, String(value)));
    input = make("select", common, ...options);
    read = () => schema.enum[Number(input.value)];
  } else {
    const isNumber = kind === "integer" || kind === "number";
    const isText = kind === "string";
    const given = fallback === undefined ? "" : isText ? fallback : JSON.stringify(fallback);
    input = make("input", {
      ...common, value: given, required: required && !isText, autocomplete: "off",
      inputmode: kind === "integer" ? "numeric" : isNumber ? "decimal" : undefined,
    });
    read = () => {
      if (isText) return input.value;
      if (!input.value.trim()) return undefined;
      try {
        return JSON.parse(input.value);
      } catch {
        if (isNumber && Number.isFinite(Number(input.value))) return Number(input.value);
        throw new Error(`${name}: give ${isNumber ? "a number" : "JSON"}`);
      }
    };
  }
  return {
    name,
    read,
    root: make(
      "div", { class: "field" },
      make("label", { for: id }, name), input,
      hint ? make("span", { class: "hint", id: `${id}-hint` }, hint) : null,
    ),
  };
}

function limits(schema, kind) {
  const found = [];
  if (kind === "integer") found.push("whole number");
  else if (kind === undefined || kind === "array" || kind === "object") found.push("as JSON");
  if (schema.minimum !== undefined) found.push(`at least ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) found.push(`above ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) found.push(`at most ${schema.maximum}`);
  if (schema.exclusiveMaximum !== undefined) found.push(`below ${schema.exclusiveMaximum}`);
  return [found.join(", "), schema.description].filter(Boolean).join(". ");
}

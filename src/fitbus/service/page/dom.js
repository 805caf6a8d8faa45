// Elements, made by hand: text is always text, so nothing that a run says becomes markup.

/** Makes an element: `make("p", {class: "hint"}, "text", another)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text only where it differs, so that screen readers and the layout are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A number as people read it: four digits. */
export function number(value) {
  if (typeof value === "string") return value; // "NaN", "Infinity"
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day of Unix seconds. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** A modal dialog; resolves to what `close(value)` is given, or null where it is dismissed. */
export function dialog(title, build) {
  const shown = document.getElementById("dialog");
  if (shown.open) return Promise.resolve(null);
  return new Promise((resolve) => {
    let result = null;
    const close = (value) => {
      result = value;
      shown.close();
    };
    shown.replaceChildren(make("h2", { id: "dialog-title" }, title), build(close));
    shown.addEventListener("close", () => resolve(result), { once: true });
    shown.showModal();
  });
}

/** The row of buttons that ends a dialog's form. */
export function dialogButtons(confirm, close, kind = "primary") {
  return make(
    "div",
    { class: "buttons" },
    make("button", { type: "button", onclick: () => close(null) }, "Cancel"),
    make("button", { type: "submit", class: kind }, confirm),
  );
}

// Rows of lists and tables.

import { clock, duration, make, number, say } from "./dom.js";
import { words } from "./words.js";

/** A share and its seconds. */
export function share(part, seconds) {
  if (part === undefined) return "–";
  return `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} % · ${duration(seconds)}`;
}

/** An event in the list. */
export function eventRow(event) {
  const row = make(
    "li",
    { "data-type": event.type, "data-seq": event.seq },
    make("time", {}, event.time === undefined ? "" : clock(event.time)),
    make("span", { class: "step" }, event.type === "Lagged" ? "" : number(event.step)),
    make("strong", {}, event.type),
    make("span", { class: "words" }, words(event)),
  );
  row.event = event;
  return row;
}

/** Fills a table's body, changing only the texts that differ. */
export function fill(body, items, cells) {
  while (body.rows.length > items.length) body.lastElementChild.remove();
  items.forEach((item, at) => {
    const texts = cells(item);
    const row = body.rows[at] ?? body.insertRow();
    while (row.cells.length > texts.length) row.lastElementChild.remove();
    texts.forEach((text, column) => {
      let cell = row.cells[column];
      if (!cell) {
        cell = column ? make("td") : make("th", { scope: "row" });
        row.append(cell);
      }
      say(cell, text);
    });
  });
}

// The plates of a proposal, as tables: colour is the effect direction or the expected score.
import { h, number } from "./dom.js";

const KINDS = / (knockout|crispri|crispra)/g;
const COLOURS = 7;

export function plates(figure) {
  const directions = [...new Set(figure.wells.map((w) => w.direction).filter(Boolean))].sort();
  const scores = figure.wells.map((w) => w.score).filter((v) => v !== null);
  const most = Math.max(...scores.map(Math.abs), 1e-9);
  const choice = h("select", { id: "colour", onchange: () => paint() },
    h("option", { value: "direction" }, "effect direction"), h("option", { value: "score" }, "expected score"));
  const painted = [];
  const maps = [...new Set(figure.wells.map((w) => w.plate))].map((number_) => plate(number_));

  function plate(plateNumber) {
    const [rows, columns] = figure.shape;
    const at = new Map(figure.wells.filter((w) => w.plate === plateNumber).map((w) => [`${w.row}-${w.column}`, w]));
    const letters = [...Array(rows).keys()].map((r) => String.fromCharCode(65 + r));
    return h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Plate ${plateNumber}` },
      h("table", { class: columns > 12 ? "plate small" : "plate" },
        h("caption", {}, `Plate ${plateNumber}`),
        h("thead", {}, h("tr", {}, h("td", {}), [...Array(columns).keys()].map((c) => h("th", { scope: "col" }, String(c + 1))))),
        h("tbody", {}, letters.map((letter, r) => h("tr", {}, h("th", { scope: "row" }, letter),
          [...Array(columns).keys()].map((c) => well(at.get(`${r}-${c}`))))))));
  }

  function well(w) {
    if (!w) return h("td", { class: "empty" }, h("span", { class: "unseen" }, "empty"));
    const text = [`${w.well} ${w.label}`, `replicate ${w.replicate}`,
      w.score === null ? null : `expected score ${number(w.score)}`, w.direction].filter(Boolean).join(", ");
    const cell = h("td", { title: text }, h("span", { "aria-hidden": "true" }, w.label.replaceAll(KINDS, "").replaceAll(" + ", " ")),
      h("span", { class: "unseen" }, text));
    painted.push([cell, w]);
    return cell;
  }

  const key = h("p", { class: "legend" });
  function paint() {
    for (const [cell, w] of painted) {
      if (w.label === figure.control) cell.className = "control";
      else if (choice.value === "direction") {
        const i = directions.indexOf(w.direction);
        cell.className = i < 0 || i >= COLOURS ? "other" : `d${i}`;
      } else {
        // Five steps of each sign.
        const step = Math.min(4, Math.floor((Math.abs(w.score ?? 0) / most) * 5));
        cell.className = `${w.score < 0 ? "down" : "up"}${step}`;
      }
    }
    const square = (kind, text) => h("span", { class: "key" }, h("span", { class: `square ${kind}` }), text);
    key.replaceChildren(...(choice.value === "direction"
      ? directions.map((name, i) => square(i < COLOURS ? `d${i}` : "other", name))
      : [square("up4", `${number(most)} ${figure.unit}`), square("up0", "0"), scores.some((v) => v < 0) && square("down4", number(-most))].filter(Boolean)),
    square("control", "control"), square("empty", "empty"));
  }
  paint();
  return h("section", {},
    h("p", {}, figure.subtitle),
    h("div", { class: "row" }, h("label", { for: "colour" }, "Colour"), choice),
    maps, key, h("p", { class: "note" }, figure.footnote));
}

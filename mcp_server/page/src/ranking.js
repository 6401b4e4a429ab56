// The ranking of a screen: a row for each candidate with its score and both of its errors.
import { h, s, button, fixed, fixedRange, number } from "./dom.js";
import { axisHead, scale } from "./plot.js";

const PAGE = 40;
const HEIGHT = 22;
const widthNow = () => (window.innerWidth < 640 ? 150 : window.innerWidth < 1100 ? 220 : 320);

export function ranking(figure, open) {
  const rows = figure.rows.map((row, i) => ({ ...row, rank: i + 1 }));
  const limit = figure.sham_limit;
  const ends = rows.flatMap((r) => [r.score, ...(r.mc_interval ?? []), ...(r.interval ?? []),
    r.prediction_error === null ? null : r.score - r.prediction_error,
    r.prediction_error === null ? null : r.score + r.prediction_error]);
  const width = widthNow();
  const x = scale([...ends, limit, limit === null ? null : -limit], 6, width - 6, { zero: true });
  const body = h("tbody", {});
  const count = h("p", { class: "note", role: "status" });
  let shown = PAGE;
  const input = h("input", { type: "search", id: "candidate", autocomplete: "off",
    oninput: () => { shown = PAGE; fill(); } });
  const more = button("Show more", () => { shown += PAGE; fill(); });

  function fill() {
    const text = input.value.trim().toUpperCase();
    const matching = rows.filter((r) => r.label.toUpperCase().includes(text));
    body.replaceChildren(...matching.slice(0, shown).map((r) => line(r, x, figure, open)));
    count.textContent = `${Math.min(shown, matching.length)} of ${matching.length} candidates`;
    more.hidden = matching.length <= shown;
  }
  fill();
  const head = ["rank", "perturbation", axisHead(x, "score, drawn"), "score", "95 % interval", "± held-out error", "lfsr", "held-out Pearson", "support"];
  return h("section", {},
    h("div", { class: "row", role: "search" }, h("label", { for: "candidate" }, "Candidate"), input),
    h("p", { class: "note" }, figure.xlabel),
    h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Ranking" },
      h("table", { class: "ranking" },
        h("caption", { class: "unseen" }, figure.xlabel),
        h("thead", {}, h("tr", {}, head.map((cell, i) => h("th", { scope: "col", class: i > 3 ? "wide" : null }, cell)))),
        body)),
    count, more,
    h("p", { class: "legend" },
      h("span", { class: "key" }, key("value hit"), figure.called_by ?? "unlike null labels (FDR ≤ 5 %)"),
      h("span", { class: "key" }, key("value"), figure.called_by ? "sign not supported" : "not told from null labels"),
      rows.some((r) => r.mc_interval) && h("span", { class: "key" }, bar("inner"), "95 % Monte Carlo interval"),
      rows.some((r) => r.interval) && h("span", { class: "key" }, bar("outer"), "95 % posterior interval"),
      rows.some((r) => r.prediction_error !== null) && h("span", { class: "key" }, bar("error-band"), "± held-out prediction error"),
      limit !== null && h("span", { class: "key" }, bar("null-band"), "95 % range of null labels")),
    h("p", { class: "note" }, figure.footnote));
}

const sample = (child) => s("svg", { width: 20, height: 12, "aria-hidden": "true" }, child);
const key = (kind) => sample(s("circle", { cx: 10, cy: 6, r: 4, class: kind }));
const bar = (kind) => sample(kind.endsWith("band")
  ? s("rect", { x: 1, y: 2, width: 18, height: 8, class: kind })
  : s("line", { x1: 1, x2: 19, y1: 6, y2: 6, class: kind }));

function line(row, x, figure, open) {
  const mid = HEIGHT / 2, e = row.prediction_error, limit = figure.sham_limit;
  const drawn = s("svg", { width: x.range()[1] + 6, height: HEIGHT, "aria-hidden": "true", class: "bar" },
    limit !== null && s("rect", { x: x(-limit), width: x(limit) - x(-limit), y: 0, height: HEIGHT, class: "null-band" }),
    x.ticks(x.range()[1] > 200 ? 5 : 3).map((v) => s("line", { x1: x(v), x2: x(v), y1: 0, y2: HEIGHT, class: "grid" })),
    s("line", { x1: x(0), x2: x(0), y1: 0, y2: HEIGHT, class: "axis" }),
    e !== null && s("rect", { x: x(row.score - e), width: x(row.score + e) - x(row.score - e), y: mid - 5, height: 10, class: "error-band" }),
    row.interval && s("line", { x1: x(row.interval[0]), x2: x(row.interval[1]), y1: mid, y2: mid, class: "outer" }),
    row.mc_interval && s("line", { x1: x(row.mc_interval[0]), x2: x(row.mc_interval[1]), y1: mid, y2: mid, class: "inner" }),
    s("circle", { cx: x(row.score), cy: mid, r: 4, class: row.hit ? "value hit" : "value" }));
  const pair = row.interval ?? row.mc_interval;
  const cells = [fixed(row.score), fixedRange(pair), fixed(e),
    number(row.lfsr), fixed(row.held_out), row.support];
  return h("tr", {},
    h("td", {}, String(row.rank)),
    h("th", { scope: "row" }, row.experiment_id ? button(row.label, () => open(row.experiment_id), { class: "link" }) : row.label),
    h("td", {}, drawn),
    cells.map((text, i) => h("td", { class: i ? "wide" : null }, text)));
}

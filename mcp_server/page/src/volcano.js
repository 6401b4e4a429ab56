// The effect of an experiment: a volcano with a gene search, and one gene with its intervals.
import { h, s, entry, failure, number, range, table } from "./dom.js";
import { MARGIN, axes, axisHead, dots, intervalBar, pickable, responsive, scale, triangles } from "./plot.js";

const LABELLED = 12;

export function volcano(bridge, figure) {
  const tip = h("div", { class: "tip unseen" });
  const panel = h("div", { class: "panel", "aria-live": "polite" },
    h("p", { class: "note" }, "Choose a gene for its intervals: search, click, or arrow keys and Enter."));
  const at = new Map(figure.genes.map((gene, i) => [gene.toUpperCase(), i]));
  let show = null;

  const draw = (svg, size, holder) => {
    const x = scale(figure.x, MARGIN.left, size.width - MARGIN.right, { zero: true });
    const y = scale([...figure.y, figure.threshold], size.height - MARGIN.bottom - 8, MARGIN.top, { zero: true });
    const points = figure.genes.map((_, i) =>
      figure.x[i] === null || figure.y[i] === null ? null : [x(figure.x[i]), y(figure.y[i])]);
    const side = (sign) => points.filter((p, i) => p && Math.sign(figure.called[i]) === sign);
    svg.append(axes(x, y, size, figure));
    svg.append(s("line", { x1: x(0), x2: x(0), y1: MARGIN.top, y2: size.height - MARGIN.bottom - 8, class: "axis" }));
    if (figure.threshold !== null) {
      svg.append(s("line", { x1: MARGIN.left, x2: size.width - MARGIN.right, y1: y(figure.threshold),
        y2: y(figure.threshold), class: "threshold" }));
    }
    svg.append(
      s("path", { d: dots(side(0), 2.2), class: "plain" }),
      s("path", { d: triangles(side(-1), 4, -1), class: "lower" }),
      s("path", { d: triangles(side(1), 4), class: "higher" }));
    figure.target.forEach((gene) => {
      const point = points[at.get(gene.toUpperCase())];
      if (point) svg.append(s("circle", { cx: point[0], cy: point[1], r: 8, class: "target" }));
    });
    svg.append(names(figure.labels.slice(0, LABELLED).map((g) => [g, points[at.get(g.toUpperCase())]]), size));
    show = pickable(svg, holder, {
      points, tip, name: (i) => figure.genes[i], detail: (i) => details(figure, i), choose,
    });
  };

  async function choose(i) {
    const gene = figure.genes[i];
    panel.replaceChildren(h("h3", {}, gene), h("p", {}, "…"));
    try {
      const result = await bridge.call("get_experiment", { id: figure.id, genes: [gene] });
      panel.replaceChildren(...geneParts(gene, result.genes[0]));
    } catch (error) {
      panel.replaceChildren(h("h3", {}, gene), failure(error));
    }
  }

  const list = h("datalist", { id: "genes" }, figure.genes.map((gene) => h("option", { value: gene })));
  const search = entry("Gene", "Show", (text) => {
    const i = at.get(text.toUpperCase());
    if (i === undefined) {
      const message = `${text} is not among the ${figure.genes.length} genes of this figure.`;
      panel.replaceChildren(h("p", {}, message));
      return;
    }
    if (figure.x[i] !== null && figure.y[i] !== null) show?.(i, { say: true });
    choose(i);
  }, { list: "genes" });

  const count = (sign) => figure.called.filter((c) => Math.sign(c) === sign).length;
  return h("section", {},
    h("div", { class: "row", role: "search" }, search, list),
    h("div", { class: "split" }, h("div", {}, responsive(`Volcano of ${figure.genes.length} genes; arrow keys go through them, largest change first`, draw),
    h("p", { class: "legend" },
      h("span", { class: "key higher" }, "▲ higher (", String(count(1)), ")"),
      h("span", { class: "key lower" }, "▼ lower (", String(count(-1)), ")"),
      h("span", { class: "key plain" }, figure.threshold === null ? "● gene (" : "● sign not supported (", String(count(0)), ")"),
      figure.target.length > 0 && h("span", { class: "key" }, "◯ the target's own gene")),
    h("p", { class: "note" }, figure.footnote)), panel));
}

const details = (f, i) => [
  `log2 fold change ${number(f.x[i])}`,
  f.lfsr[i] === null ? f.sham_q[i] === null ? "" : `FDR against null labels ${number(f.sham_q[i])}` : `lfsr ${number(f.lfsr[i])}`,
  `change ${number(f.change[i])} ln(1 + CP10K)`,
].filter(Boolean);

// Names beside their points where they fit: a name that would lie over another one is left out.
function names(labelled, size) {
  const taken = [];
  return s("g", { class: "names" }, labelled.map(([gene, point]) => {
    if (!point) return null;
    const width = gene.length * 7, left = point[0] + 6 + width > size.width;
    const box = [left ? point[0] - 6 - width : point[0] + 6, point[1] - 9, width, 12];
    const over = taken.some((b) => box[0] < b[0] + b[2] && b[0] < box[0] + box[2] && box[1] < b[1] + b[3] && b[1] < box[1] + box[3]);
    if (over) return null;
    taken.push(box);
    return s("text", { x: left ? point[0] - 6 : point[0] + 6, y: point[1] + 3, "text-anchor": left ? "end" : "start" }, gene);
  }));
}

function geneParts(gene, row) {
  if (!row) return [h("h3", {}, gene), h("p", {}, "Not measured in this context.")];
  // Both intervals are of the change, so that they share an axis: ln(1 + counts per 10,000).
  const simulated = row.change_mc_interval ?? null;
  const x = scale([row.change, ...(row.interval ?? []), ...(simulated ?? [])], 6, window.innerWidth < 640 ? 130 : 214, { zero: true });
  const line = (what, interval, inner) => (interval ?? inner) && [what,
    intervalBar(x, { value: row.change, interval, inner }), range(interval ?? inner)];
  return [
    h("h3", {}, gene),
    h("p", {}, `Change ${number(row.change)} ln(1 + CP10K); log2 fold change ${number(row.log2_fold_change)}`,
      row.mc_interval ? ` (95 % Monte Carlo interval ${range(row.mc_interval)})` : "", "."),
    table(`Intervals of the change of ${gene}`, ["95 % interval", axisHead(x, "drawn"), "ln(1 + CP10K)"], [
      line("in a new experiment", row.interval ?? null, null),
      line("Monte Carlo", null, simulated),
    ].filter(Boolean)),
    h("p", { class: "note" }, [
      row.lfsr !== undefined && row.lfsr !== null && `lfsr ${number(row.lfsr)}`,
      row.certainty, row.prediction_error && `held-out error ${number(row.prediction_error)} (rms)`,
    ].filter(Boolean).join(" · ")),
  ];
}

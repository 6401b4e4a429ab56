// Two experiments against each other: a gene's change in both, and the interval of the difference.
import { h, s, entry, failure, fixed, fixedRange, number, range, table } from "./dom.js";
import { MARGIN, axes, axisHead, dots, intervalBar, pickable, responsive, scale, triangles } from "./plot.js";

const ROWS = 20;

export function comparison(figure) {
  const tip = h("div", { class: "tip unseen" });
  const at = new Map(figure.gene.map((gene, i) => [gene.toUpperCase(), i]));
  const panel = h("div", { class: "panel", "aria-live": "polite" });
  let show = null;
  const draw = (svg, size, holder) => {
    const both = [...figure.x, ...figure.y];
    const x = scale(both, MARGIN.left, size.width - MARGIN.right, { zero: true });
    const y = scale(both, size.height - MARGIN.bottom - 8, MARGIN.top, { zero: true });
    const points = figure.gene.map((_, i) => figure.x[i] === null || figure.y[i] === null ? null : [x(figure.x[i]), y(figure.y[i])]);
    const side = (sign) => points.filter((p, i) => p && figure.called[i] === sign);
    const [low, high] = x.domain();
    svg.append(axes(x, y, size, figure),
      s("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "threshold" }),
      s("line", { x1: x(0), x2: x(0), y1: y(low), y2: y(high), class: "axis" }),
      s("line", { x1: x(low), x2: x(high), y1: y(0), y2: y(0), class: "axis" }));
    // The interval of a difference, drawn along the second experiment's axis.
    for (const [i, point] of points.entries()) {
      const pair = figure.interval[i];
      if (point && pair && figure.called[i]) {
        svg.append(s("line", { x1: point[0], x2: point[0], y1: y(figure.x[i] + pair[0]), y2: y(figure.x[i] + pair[1]), class: "whisker" }));
      }
    }
    svg.append(s("path", { d: dots(side(0), 2.2), class: "plain" }),
      s("path", { d: triangles(side(-1), 4, -1), class: "lower" }),
      s("path", { d: triangles(side(1), 4), class: "higher" }));
    show = pickable(svg, holder, { points, tip, name: (i) => figure.gene[i], detail: (i) => [
      `${figure.sides[0].perturbation} ${number(figure.x[i])}`, `${figure.sides[1].perturbation} ${number(figure.y[i])}`,
      `difference ${number(figure.difference[i])} (${range(figure.interval[i])})`],
    choose: (i) => panel.replaceChildren(h("h3", {}, figure.gene[i]), rows(figure, [i])) });
  };
  const list = h("datalist", { id: "genes" }, figure.gene.map((gene) => h("option", { value: gene })));
  const search = entry("Gene", "Show", (text) => {
    const i = at.get(text.toUpperCase());
    if (i === undefined) panel.replaceChildren(failure(new Error(`${text} is not among these genes`)));
    else { show?.(i, { say: true }); panel.replaceChildren(h("h3", {}, figure.gene[i]), rows(figure, [i])); }
  }, { list: "genes" });
  const [, second] = figure.sides;
  const facts = [
    second.pearson !== null && `Pearson ${number(second.pearson)}`,
    second.n_both !== null && `${second.same_sign} of ${second.n_both} genes certain in both have one sign`,
    second.unpaired ? `cells not paired: ${second.unpaired}` : "cells paired",
  ].filter(Boolean);
  return h("section", {},
    h("p", {}, figure.subtitle, ". ", facts.join("; "), "."),
    h("div", { class: "row", role: "search" }, search, list),
    h("div", { class: "split" }, h("div", {}, responsive(`Change of ${figure.gene.length} genes in both experiments; arrow keys go through them, most certain difference first`, draw, { ratio: 0.85 }),
    h("p", { class: "legend" },
      h("span", { class: "key higher" }, `▲ higher in the second (${figure.called.filter((c) => c > 0).length})`),
      h("span", { class: "key lower" }, `▼ lower in the second (${figure.called.filter((c) => c < 0).length})`),
      h("span", { class: "key plain" }, "● difference not supported"),
      h("span", { class: "key" }, "┃ 95 % interval of the difference"), h("span", { class: "key" }, "╌ equal changes")),
    h("p", { class: "note" }, figure.footnote)),
    h("div", {}, panel, h("h3", {}, "Most certain differences"),
      rows(figure, figure.gene.map((_, i) => i).slice(0, ROWS)))));
}

function rows(figure, chosen) {
  const pairs = chosen.map((i) => figure.interval[i] ?? figure.mc_interval[i]).filter(Boolean).flat();
  const x = scale([...pairs, ...chosen.map((i) => figure.difference[i])], 6, 124, { zero: true });
  return table("Genes that differ", ["gene", "difference", axisHead(x, "difference, drawn"), "95 % interval", "lfsr"],
    chosen.map((i) => [figure.gene[i], fixed(figure.difference[i]),
      intervalBar(x, { value: figure.difference[i], interval: figure.interval[i], inner: figure.interval[i] ? null : figure.mc_interval[i] }),
      fixedRange(figure.interval[i] ?? figure.mc_interval[i]), number(figure.lfsr[i])]), { wide: [3, 4] });
}

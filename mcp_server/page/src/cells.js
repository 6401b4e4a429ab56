// Cells of both arms on two components, with the mean of each arm and its interval.
import { h, s, number } from "./dom.js";
import { MARGIN, axes, dots, responsive, scale, triangles } from "./plot.js";

export function cells(figure) {
  const { control, perturbed } = figure.arms;
  const draw = (svg, size) => {
    const x = scale([...control.x, ...perturbed.x], MARGIN.left, size.width - MARGIN.right);
    const y = scale([...control.y, ...perturbed.y], size.height - MARGIN.bottom - 8, MARGIN.top);
    const points = (arm) => arm.x.map((v, i) => [x(v), y(arm.y[i])]);
    const mean = (arm) => {
      const [mx, my] = arm.mean, [dx, dy] = arm.half;
      return s("g", { class: "mean" },
        s("line", { x1: x(mx - dx), x2: x(mx + dx), y1: y(my), y2: y(my) }),
        s("line", { x1: x(mx), x2: x(mx), y1: y(my - dy), y2: y(my + dy) }));
    };
    const [from, to] = [control.mean, perturbed.mean].map(([a, b]) => [x(a), y(b)]);
    svg.append(axes(x, y, size, figure),
      s("path", { d: dots(points(control), 2.6), class: "lower faint" }),
      s("path", { d: triangles(points(perturbed), 3.2), class: "higher faint" }),
      s("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1], class: "arrow" }),
      mean(control), mean(perturbed));
  };
  return h("section", {},
    responsive(`Cells of both arms: ${control.x.length} control, ${perturbed.x.length} perturbed`, draw, { ratio: 0.85 }),
    h("p", { class: "legend" },
      h("span", { class: "key lower" }, `● control, ${control.x.length} cells`),
      h("span", { class: "key higher" }, `▲ perturbed, ${perturbed.x.length} cells`),
      h("span", { class: "key" }, "✛ mean of an arm, 95 % Monte Carlo interval")),
    h("p", {}, "Means: ", ...[["control", control], ["perturbed", perturbed]].map(([name, arm], i) =>
      `${i ? "; " : ""}${name} ${arm.mean.map((v, j) => `${number(v)} ± ${number(arm.half[j])}`).join(", ")}`), "."),
    h("p", { class: "note" }, figure.footnote));
}

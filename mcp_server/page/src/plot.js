// Parts of plots: a frame with axes, and scatters with one point chosen by pointer or keyboard.
import { scaleLinear } from "d3-scale";
import { h, s, announce } from "./dom.js";

export const MARGIN = { top: 12, right: 16, bottom: 44, left: 74 };

// A scale over values, with some room at both ends; `zero`: 0 is in it.
export function scale(values, from, to, { zero = false, margin = 0.05 } = {}) {
  let low = Infinity, high = -Infinity;
  for (const v of values) if (v !== null && v !== undefined) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (low > high) [low, high] = [0, 1];
  if (zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  const rest = (high - low || 1) * margin;
  return scaleLinear([low - (zero && low === 0 ? 0 : rest), high + rest], [from, to]);
}

const tick = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

export function axes(x, y, size, { xlabel, ylabel }) {
  const [left, right] = x.range(), [bottom, top] = y.range();
  const nx = Math.max(2, Math.floor((right - left) / 90)), ny = Math.max(2, Math.floor((bottom - top) / 60));
  return s("g", { class: "axes" },
    x.ticks(nx).map((v) => [
      s("line", { x1: x(v), x2: x(v), y1: top, y2: bottom, class: "grid" }),
      s("text", { x: x(v), y: bottom + 16, "text-anchor": "middle" }, tick(v))]),
    y.ticks(ny).map((v) => [
      s("line", { x1: left, x2: right, y1: y(v), y2: y(v), class: "grid" }),
      s("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, tick(v))]),
    s("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }),
    s("line", { x1: left, x2: left, y1: top, y2: bottom, class: "axis" }),
    wrapped(xlabel, size.width / 2, size.height - 6, size.width - 16),
    turned(ylabel, (top + bottom) / 2, bottom - top));
}

// Pixels of a character at the size of labels, at most.
const CHARACTER = 6.8;
const fitted = (text, width) => {
  const most = Math.max(8, Math.floor(width / CHARACTER));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
};

// A label on one line, or on two where it is longer than the axis.
function lines(text, width) {
  const most = Math.max(12, Math.floor(width / CHARACTER));
  if (text.length <= most) return [text];
  const cut = text.lastIndexOf(" ", most);
  return cut < 1 ? [fitted(text, width)] : [text.slice(0, cut), fitted(text.slice(cut + 1), width)];
}

function wrapped(text, x, y, width) {
  const parts = lines(text, width);
  return s("text", { x, y: y - 13 * (parts.length - 1), "text-anchor": "middle", class: "label" },
    parts.map((part, i) => s("tspan", { x, dy: i ? 13 : 0 }, part)));
}

function turned(text, y, width) {
  const parts = lines(text, width);
  return s("text", { transform: `translate(${parts.length > 1 ? 10 : 14} ${y}) rotate(-90)`,
    "text-anchor": "middle", class: "label" }, parts.map((part, i) => s("tspan", { x: 0, dy: i ? 13 : 0 }, part)));
}

// Small circles of many points as one path: a panel can have 18,000 genes.
export const dots = (points, r) =>
  points.map(([x, y]) => `M${(x - r).toFixed(1)} ${y.toFixed(1)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`).join("");
export const triangles = (points, r, up = 1) =>
  points.map(([x, y]) => `M${(x - r).toFixed(1)} ${(y + up * r * 0.8).toFixed(1)}h${2 * r}l${-r} ${-up * r * 1.7}z`).join("");

// A plot that is drawn again when its width changes.
export function responsive(label, draw, { ratio = 0.72, most = 560 } = {}) {
  const holder = h("div", { class: "plot", role: "group", "aria-label": label });
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width === last || width < 40) return;
    last = width;
    const size = { width, height: Math.min(most, Math.max(300, Math.round(width * ratio))) };
    const svg = s("svg", { width: size.width, height: size.height, "aria-hidden": "true" });
    holder.replaceChildren(svg);
    draw(svg, size, holder);
  }).observe(holder);
  return holder;
}

// Points with a name each: the pointer shows the nearest, arrow keys go through them in their order,
// Enter or a click chooses one.
export function pickable(svg, holder, { points, name, detail, choose, tip }) {
  const ring = s("circle", { r: 7, class: "ring", visibility: "hidden" });
  svg.append(ring);
  const known = points.map((p, i) => (p ? i : -1)).filter((i) => i >= 0);
  let at = -1;
  const show = (i, { say = false } = {}) => {
    at = i;
    const [x, y] = points[i];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.setAttribute("visibility", "visible");
    tip.replaceChildren(h("b", {}, name(i)), ...detail(i).map((line) => h("span", {}, line)));
    tip.classList.remove("unseen");
    const box = holder.getBoundingClientRect();
    const left = Math.min(Math.max(0, x + 12), Math.max(0, box.width - tip.offsetWidth - 4));
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${Math.max(0, y - tip.offsetHeight - 12)}px`);
    if (say) announce(`${name(i)}: ${detail(i).join(", ")}`);
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = -1, least = 900;
    for (const i of known) {
      const d = (points[i][0] - px) ** 2 + (points[i][1] - py) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  };
  svg.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    if (i >= 0) show(i);
  });
  svg.addEventListener("click", (event) => {
    const i = nearest(event);
    if (i >= 0) { show(i); choose(i); }
  });
  holder.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const place = known.indexOf(at);
      show(known[(place + step + known.length) % known.length], { say: true });
    } else if (event.key === "Enter" && at >= 0) choose(at);
    else if (event.key === "Escape") { tip.classList.add("unseen"); ring.setAttribute("visibility", "hidden"); }
    else return;
    event.preventDefault();
  };
  holder.setAttribute("tabindex", "0");
  holder.append(tip);
  return show;
}

// The axis of a column of intervals, for the head of a table.
export function axisHead(x, label, { width = x.range()[1] + 6, height = 20 } = {}) {
  return h("span", {}, h("span", { class: "unseen" }, label),
    s("svg", { width, height, "aria-hidden": "true", class: "axes" },
      x.ticks(width > 200 ? 5 : 3).map((v) => s("text", { x: x(v), y: 14, "text-anchor": "middle" }, tick(v)))));
}

// One value with its interval on an axis of its kind, for tables.
export function intervalBar(x, { value, interval, inner, width = x.range()[1] + 6, height = 18 }) {
  const mid = height / 2;
  return s("svg", { width, height, "aria-hidden": "true", class: "bar" },
    x.ticks(width > 200 ? 5 : 3).map((v) => s("line", { x1: x(v), x2: x(v), y1: 0, y2: height, class: "grid" })),
    s("line", { x1: x(0), x2: x(0), y1: 0, y2: height, class: "axis" }),
    interval && s("line", { x1: x(interval[0]), x2: x(interval[1]), y1: mid, y2: mid, class: "outer" }),
    inner && s("line", { x1: x(inner[0]), x2: x(inner[1]), y1: mid, y2: mid, class: "inner" }),
    value !== null && value !== undefined && s("circle", { cx: x(value), cy: mid, r: 3.5, class: "value" }));
}

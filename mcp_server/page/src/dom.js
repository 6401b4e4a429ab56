// Elements made without HTML text, so that nothing of a ledger can become markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const s = (tag, props, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);

export const button = (text, onclick, props = {}) =>
  h("button", { type: "button", onclick, ...props }, text);

// A labelled field with a button. It is no form: a host's sandbox may not let forms be sent.
let fields = 0;
export function entry(label, verb, use, props = {}) {
  const id = `field-${++fields}`;
  const act = () => { if (input.value.trim()) use(input.value.trim()); };
  const input = h("input", { type: "search", id, autocomplete: "off", spellcheck: "false",
    onkeydown: (event) => { if (event.key === "Enter") act(); }, ...props });
  return h("span", { class: "entry" }, h("label", { for: id }, label), input, button(verb, act));
}

// Tabs as ARIA's pattern has them: arrow keys move, one tab is in the tab order.
export function tabs(label, parts, first = 0) {
  const base = `tabs-${++fields}`;
  const panel = h("div", { role: "tabpanel", id: `${base}-panel`, tabindex: "0" });
  const heads = parts.map(([name], i) => h("button", {
    type: "button", role: "tab", id: `${base}-${i}`, "aria-controls": `${base}-panel`,
    onclick: () => select(i),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) select((i + step + parts.length) % parts.length, true);
    },
  }, name));
  const select = async (i, focus = false) => {
    heads.forEach((head, j) => {
      head.setAttribute("aria-selected", String(i === j));
      head.setAttribute("tabindex", i === j ? "0" : "-1");
    });
    if (focus) heads[i].focus();
    panel.setAttribute("aria-labelledby", `${base}-${i}`);
    panel.replaceChildren(h("p", { class: "wait" }, "Loading…"));
    let content;
    try { content = await parts[i][1](); } catch (error) { content = failure(error); }
    if (heads[i].getAttribute("aria-selected") === "true") panel.replaceChildren(...[content].flat());
  };
  select(first);
  return h("div", { class: "tabs" }, h("div", { role: "tablist", "aria-label": label }, heads), panel);
}

// A table that scrolls sideways on a narrow screen; keyboards can scroll it too.
export function table(caption, head, rows, { wide = [] } = {}) {
  const hidden = (i) => (wide.includes(i) ? "wide" : null);
  return h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    h("table", {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, head.map((text, i) =>
        h("th", { scope: "col", class: hidden(i) }, text)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) =>
        i === 0 ? h("th", { scope: "row" }, cell ?? "–")
          : h("td", { class: hidden(i) }, cell ?? "–")))))));
}

export function announce(text) {
  document.getElementById("live").textContent = text;
}

export const failure = (error) =>
  h("div", { class: "error", role: "alert" }, error.message ?? String(error));

// Three significant digits, as concise results have; a minus sign that is one.
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value.toPrecision(digits));
  const small = rounded !== 0 && Math.abs(rounded) < 0.001;
  return (small ? rounded.toExponential() : String(rounded)).replaceAll("-", "−");
}

// Three decimals: of values that are compared down a column.
export const fixed = (value) =>
  value === null || value === undefined ? "–" : value.toFixed(3).replace(/^-0\.000$/, "0.000").replace("-", "−");

export const fixedRange = (pair) => (pair ? `${fixed(pair[0])} to ${fixed(pair[1])}` : "–");

export const range = (pair) =>
  pair ? `${number(pair[0])} to ${number(pair[1])}` : "–";

export const time = (text) => (text ? `${text.slice(0, 10)} ${text.slice(11, 16)} UTC` : "–");

// The lab page: what is shown, the theme, and the messages of a host.
import { Bridge } from "./bridge.js";
import { h, announce, button, failure } from "./dom.js";
import { compared, experiment } from "./experiment.js";
import { ledger } from "./list.js";
import { screen } from "./screen.js";

const THEMES = ["system", "light", "dark"];
const main = document.getElementById("main");
let view = 0;

const bridge = new Bridge({ context: hostContext, input: (args) => { input = args; }, result: toolResult,
  cancelled: () => main.replaceChildren(h("p", {}, "The call was cancelled.")) });
let input = {};

// The newest request for a view wins; an older answer is dropped.
async function go(target, { remember = true, focus = true } = {}) {
  const mine = ++view;
  const report = (result) => {
    if (mine !== view) return;
    const p = result.progress;
    main.replaceChildren(h("h1", {}, result.perturbation ?? "At work"),
      h("p", {}, result.summary), p && h("progress", { value: p.done, max: p.total, "aria-label": "Cells" }),
      p && h("p", {}, `${p.done} of ${p.total} cells`));
  };
  if (remember && !bridge.embedded) history.pushState(target, "");
  main.setAttribute("aria-busy", "true");
  let content;
  try { content = await views(target, { go, report }); } catch (error) { content = [h("h1", {}, "Not shown"), failure(error)]; }
  if (mine !== view) return;
  main.replaceChildren(...content);
  main.setAttribute("aria-busy", "false");
  window.scrollTo(0, 0);
  const title = main.querySelector("h1")?.textContent ?? "";
  document.title = `${title} · lingshu lab page`;
  if (focus) main.focus({ preventScroll: true });
  announce(title);
}

async function views(target, tools) {
  if (target.compare) return compared(bridge, target.compare, tools);
  if (target.id?.startsWith("scr_")) return screen(bridge, target.id, { ...tools, first: target.tab ?? 0 });
  if (target.id) return experiment(bridge, target.id, tools);
  const kind = target.list ?? "screens";
  return [h("h1", {}, kind === "screens" ? "Screens" : "Experiments"), ledger(bridge, {
    kind, open: (id) => go({ id }), compare: (...ids) => go({ compare: ids }) })];
}

function header() {
  const theme = h("select", { id: "theme", onchange: () => setTheme(theme.value) },
    THEMES.map((name) => h("option", { value: name }, name)));
  document.getElementById("top").replaceChildren(
    h("span", { class: "brand" }, "lingshu"),
    h("nav", { "aria-label": "Ledger" }, button("Screens", () => go({ list: "screens" })), button("Experiments", () => go({ list: "experiments" }))),
    h("span", { class: "note hint" }, "predicted, not measured"),
    h("span", { class: "entry" }, h("label", { for: "theme" }, "Theme"), theme));
}

function setTheme(name) {
  const root = document.documentElement;
  if (name === "system") root.removeAttribute("data-theme");
  else root.setAttribute("data-theme", name);
}

function hostContext(context) {
  if (context.theme === "light" || context.theme === "dark") setTheme(context.theme);
  for (const [name, value] of Object.entries(context.styles?.variables ?? {})) {
    if (/^--font-(sans|mono)$/.test(name) && value) document.documentElement.style.setProperty(name, value);
  }
}

// The result of the call that the host shows the page for.
function toolResult(result) {
  const value = result.structuredContent ?? {};
  if (result.isError) main.replaceChildren(failure(new Error(result.content?.[0]?.text ?? "The call was refused")));
  else if (input.ids?.length >= 2 && value.experiments) go({ compare: input.ids.slice(0, 2) });
  else if (value.proposal_id) go({ id: value.screen_id, tab: 1 });
  else if (value.experiment_id ?? value.screen_id) go({ id: value.experiment_id ?? value.screen_id });
  else go({ list: "screens" });
}

async function start() {
  header();
  main.replaceChildren(h("p", { class: "wait" }, "Connecting…"));
  let id;
  try { id = await bridge.start(); } catch (error) { main.replaceChildren(h("h1", {}, "Not connected"), failure(error)); return; }
  window.addEventListener("popstate", (event) => go(event.state ?? {}, { remember: false }));
  // In a chat the host sends the result of the call at once; the ledger is shown until then.
  if (!bridge.embedded) { const target = id ? { id } : {}; history.replaceState(target, ""); go(target, { remember: false, focus: false }); }
}

start();

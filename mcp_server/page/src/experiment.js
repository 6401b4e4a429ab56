// One experiment: its effect, cells, evidence and provenance, and what can be run from here.
import { h, button, announce, entry, failure, tabs } from "./dom.js";
import { cells } from "./cells.js";
import { comparison } from "./compare.js";
import { evidence, provenance, verdictText } from "./records.js";
import { volcano } from "./volcano.js";

export const WAIT_S = 20;
export const ENDED = ["succeeded", "failed", "cancelled"];
const KINDS = ["knockout", "crispri", "crispra", "cytokine", "drug"];

// The result of an id once nothing is at work for it, with its progress on the way.
export async function settled(bridge, args, report) {
  for (;;) {
    const result = await bridge.call("get_experiment", args);
    if (ENDED.includes(result.status) || result.status === "planned") return result;
    report(result);
    const begin = Date.now();
    const later = await bridge.call("get_experiment", { id: args.id, wait_s: WAIT_S });
    // What nothing works on is shown as it is: a missing checkpoint, a stopped screen.
    if (Date.now() - begin < 2000 && later.status === result.status) return result;
  }
}

export async function experiment(bridge, id, { go, report }) {
  const result = await settled(bridge, { id, detail: "provenance" }, report);
  const effect = result.tool === "perturb_cells" && result.status === "succeeded";
  const output = h("div", { class: "panel", "aria-live": "polite" });
  const act = (work) => acting(output, work);
  const replay = () => act(async () => {
    const replayed = await bridge.call("replay_experiment", { id, wait_s: WAIT_S });
    output.replaceChildren(h("p", {}, verdictText(replayed.verdict), ". ", replayed.summary),
      button(`Open ${replayed.experiment_id}`, () => go({ id: replayed.experiment_id }), { class: "link" }));
  });
  const parts = [];
  if (effect) {
    parts.push(["Effect", async () => volcano(bridge, await bridge.figure(id, "volcano"))],
      ["Cells", async () => cells(await bridge.figureWhenReady(id, "embedding"))],
      ["Compare", () => against(bridge, result, go)]);
  }
  parts.push(["Evidence", () => evidence(result)], ["Provenance", () => provenance(result, { replay, open: (other) => go({ id: other }) })]);
  return [
    h("h1", {}, result.perturbation ?? result.tool),
    h("p", { class: "where" }, [contextText(result), result.provenance.request.checkpoint,
      result.n_cells && `${result.n_cells} paired simulated cells`, result.status].filter(Boolean).join(" · ")),
    h("p", {}, result.summary),
    effect && h("details", { class: "actions" }, h("summary", {}, "Run from here"),
      similar(bridge, result, { act, output, go }),
      button("Replay", replay),
      button("Draw for a paper", () => act(async () => {
        const drawn = await bridge.call("plot_experiment", { id, kind: "volcano", wait_s: 40 });
        output.replaceChildren(h("p", {}, drawn.summary), h("p", { class: "note" }, [drawn.svg, drawn.csv].filter(Boolean).join(" · ")));
      }))),
    output,
    tabs("Views of the experiment", parts),
  ].filter(Boolean);
}

const contextText = (result) => Object.entries(result.context ?? {}).map(([k, v]) => `${k}=${v}`).join(", ");

// The same question of another target: what it costs is said before it is run.
function similar(bridge, result, { act, output, go }) {
  const request = result.provenance.request;
  const kind = h("select", { "aria-label": "Kind of perturbation" }, KINDS.map((name) =>
    h("option", { value: name, selected: request.interventions?.[0]?.kind === name }, name)));
  const run = entry("Perturb another target", "Cost", (target) => act(async () => {
    const args = { checkpoint: request.checkpoint, context: request.context, n_cells: request.n_cells, seed: request.seed,
      interventions: [{ kind: kind.value, target }] };
    const planned = await bridge.call("perturb_cells", { ...args, dry_run: true });
    output.replaceChildren(h("p", {}, planned.summary), button(`Run ${target} ${kind.value}`, () => act(async () => {
      const begun = await bridge.call("perturb_cells", { ...args, wait_s: 4 });
      go({ id: begun.experiment_id });
    })));
  }));
  return h("div", { class: "row" }, run, kind);
}

function against(bridge, result, go) {
  const output = h("div", {});
  const list = h("div", {}, h("p", { class: "wait" }, "Loading…"));
  bridge.call("list_experiments", { tool: "perturb_cells", status: "succeeded", limit: 12, detail: "detailed",
    checkpoint: result.provenance.request.checkpoint }).then((page) => {
    const others = page.experiments.filter((e) => e.experiment_id !== result.experiment_id);
    list.replaceChildren(others.length ? h("ul", {}, others.map((e) => h("li", {}, button(`${e.perturbation} · ${e.context}`,
      () => go({ compare: [result.experiment_id, e.experiment_id] }), { class: "link" }), ` ${e.experiment_id}`)))
      : h("p", {}, "No other finished experiment of this checkpoint is listed."));
  }, (error) => list.replaceChildren(failure(error)));
  return [h("div", { class: "row" }, entry("Id of the other experiment", "Compare", (id) => {
    if (/^exp_[a-z0-9]+$/.test(id)) go({ compare: [result.experiment_id, id] });
    else output.replaceChildren(failure(new Error(`${id} is not the id of an experiment, such as ${result.experiment_id}`)));
  })), output,
    h("h3", {}, "Newest experiments of this checkpoint"), list];
}

export async function compared(bridge, [first, second], { go }) {
  const [figure, result] = await Promise.all([bridge.figure(first, "comparison", second),
    bridge.call("compare_experiments", { ids: [first, second], detail: "detailed", limit: 1 })]);
  return [
    h("h1", {}, figure.title.replace("Predicted, not measured: ", "")),
    h("p", {}, result.summary),
    h("p", { class: "row" }, figure.sides.map((side) => button(`Open ${side.perturbation} (${side.experiment_id})`, () => go({ id: side.experiment_id }), { class: "link" }))),
    comparison(figure),
    h("h3", {}, "What is not the same"), h("ul", {}, result.differs.map((text) => h("li", {}, text))),
    h("h3", {}, "Caveats"), h("ul", {}, result.caveats.map((text) => h("li", {}, text))),
  ];
}

// Work behind a button, with the error of a refused call in place of its output.
export async function acting(output, work) {
  output.replaceChildren(h("p", { class: "wait" }, "Working…"));
  announce("Working");
  try { await work(); } catch (error) { output.replaceChildren(failure(error)); }
}

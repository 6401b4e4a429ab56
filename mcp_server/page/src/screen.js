// One screen: ranking, plates, evidence, replay, and what can be run from here.
import { h, button, tabs } from "./dom.js";
import { WAIT_S, acting, settled } from "./experiment.js";
import { plates } from "./plate.js";
import { ranking } from "./ranking.js";
import { evidence, replays } from "./records.js";

export async function screen(bridge, id, { go, report, first = 0 }) {
  const result = await settled(bridge, { id, detail: "effects", limit: 1 }, report);
  const output = h("div", { class: "panel", "aria-live": "polite" });
  const act = (work) => acting(output, work);
  const run = () => act(async () => {
    const begun = await bridge.call("run_screen", { screen_id: id, wait_s: 4 });
    go({ id: begun.screen_id });
  });
  const ranked = result.ranking?.length > 0;
  return [
    h("h1", {}, "Screen"),
    h("p", { class: "where" }, [id, result.status, result.progress && `${result.progress.done} of ${result.progress.total} cells`].filter(Boolean).join(" · ")),
    h("p", {}, result.summary),
    result.status !== "succeeded" && button(ranked ? "Go on with the screen" : "Run the screen", run),
    output,
    tabs("Views of the screen", [
      ["Ranking", async () => ranked ? ranking(await bridge.figure(id, "ranking"), (other) => go({ id: other }))
        : h("p", {}, "No candidate is ranked yet.")],
      ["Plate map", async () => platePanel(bridge, id, await bridge.figure(id, "plate"), go)],
      ["Evidence", () => evidence(result)],
      ["Replay", () => replayPanel(bridge, id)],
    ], first),
  ].filter(Boolean);
}

function platePanel(bridge, id, figure, go) {
  const output = h("div", { class: "panel", "aria-live": "polite" });
  const field = (name, label, value, most) => h("span", { class: "entry" }, h("label", { for: name }, label),
    h("input", { type: "number", id: name, min: 1, max: most, value }));
  const size = h("select", { id: "wells" }, ["96", "384"].map((n) => h("option", { value: n }, n)));
  const n = field("n-wells", "Perturbations", 8, 384), r = field("replicates", "Replicates", 3, 12);
  const form = h("div", { class: "row" }, n, r, h("span", { class: "entry" }, h("label", { for: "wells" }, "Wells of a plate"), size),
    button(figure.proposal_id ? "Propose another plate" : "Propose a plate", () => acting(output, async () => {
      const proposal = await bridge.call("propose_batch", { screen_id: id, n_wells: Number(n.querySelector("input").value),
        replicates: Number(r.querySelector("input").value), plate: size.value, wait_s: 0 });
      go({ id: proposal.screen_id, tab: 1 });
    })));
  return [form, output, figure.proposal_id ? plates(figure) : h("p", {}, "No plate has been proposed for this screen.")];
}

function replayPanel(bridge, id) {
  const output = h("div", { class: "panel", "aria-live": "polite" });
  return [h("p", {}, "Every finished experiment of the screen is run again and compared, cell by cell."),
    button("Replay the screen", () => acting(output, async () => {
      output.replaceChildren(replays(await bridge.call("replay_experiment", { id, wait_s: WAIT_S })));
    })), output];
}

// The ledger in pages: searched and cut by the server, so that its size does not matter here.
import { h, button, failure, table, time } from "./dom.js";

const LIMIT = 25;
const STATUSES = ["succeeded", "running", "queued", "interrupted", "failed", "cancelled"];

export function ledger(bridge, { open, compare, kind = "experiments" }) {
  const chosen = new Map();
  let cursors = [null];
  const status = h("select", { id: "status", onchange: () => first() }, h("option", { value: "" }, "any"),
    STATUSES.map((name) => h("option", { value: name }, name)));
  const text = h("input", { type: "search", id: "text", autocomplete: "off", spellcheck: "false",
    onkeydown: (event) => { if (event.key === "Enter") first(); } });
  const rows = h("div", { "aria-busy": "true" });
  const pair = button("Compare the two", () => compare(...chosen.keys()), { disabled: true });
  const older = button("Older", () => { cursors.push(next); load(); });
  const newer = button("Newer", () => { cursors.pop(); load(); });
  let next = null, latest = 0;
  const first = () => { cursors = [null]; load(); };

  async function load() {
    const mine = ++latest;
    rows.setAttribute("aria-busy", "true");
    const wanted = { kind, limit: LIMIT, detail: "detailed", text: text.value.trim() || null, before: cursors.at(-1) };
    if (kind === "experiments") wanted.status = status.value || null;
    let content;
    try {
      const result = await bridge.call("list_experiments", wanted);
      if (mine !== latest) return;
      next = result.next_before;
      content = kind === "screens" ? screens(result) : experiments(result);
      older.disabled = !next;
    } catch (error) {
      content = [failure(error)];
      older.disabled = true;
    }
    newer.disabled = cursors.length === 1;
    rows.replaceChildren(...content);
    rows.setAttribute("aria-busy", "false");
  }

  function experiments(result) {
    if (!result.experiments.length) return [h("p", {}, "No experiment matches.")];
    return [h("p", { class: "note" }, total(result)),
      table("Experiments, newest first", ["perturbation", "context", "status", "compare", "cells", "tool", "recorded", "tags", "id"],
        result.experiments.map((e) => [
          [button(e.perturbation ?? e.tool, () => open(e.experiment_id), { class: "link" }),
            h("span", { class: "note narrow" }, e.context)],
          e.context, e.status,
          e.tool === "perturb_cells" && e.status === "succeeded" ? box(e) : null,
          e.n_cells === null ? "–" : String(e.n_cells), e.tool, time(e.created_at), e.tags.join(", ") || "–", e.experiment_id]),
        { wide: [1, 4, 5, 6, 7, 8] })];
  }

  function box(e) {
    return h("input", { type: "checkbox", "aria-label": `Compare ${e.perturbation} ${e.experiment_id}`,
      checked: chosen.has(e.experiment_id), onchange: (event) => {
        if (event.target.checked) chosen.set(e.experiment_id, e.perturbation);
        else chosen.delete(e.experiment_id);
        pair.disabled = chosen.size !== 2;
      } });
  }

  const screens = (result) => result.screens.length
    ? [h("p", { class: "note" }, total(result)),
      table("Screens, newest first", ["objective", "context", "candidates", "ended", "recorded", "id"],
        result.screens.map((row) => [[button(row.objective || row.screen_id, () => open(row.screen_id), { class: "link" }),
          h("span", { class: "note narrow" }, row.context)],
          row.context, String(row.n_candidates), String(row.n_ended), time(row.created_at), row.screen_id]),
        { wide: [1, 4, 5] })]
    : [h("p", {}, "No screen matches.")];

  const total = (result) => result.truncated
    ? `${result.truncated.shown} of ${result.truncated.how_to_get_more.includes("more than") ? "more than " : ""}${result.truncated.total}, newest first`
    : result.summary;

  load();
  return h("section", {},
    h("div", { class: "row", role: "search" },
      h("span", { class: "entry" }, h("label", { for: "text" }, "Text"), text),
      kind === "experiments" && h("span", { class: "entry" }, h("label", { for: "status" }, "Status"), status),
      button("Search", first)),
    rows,
    h("div", { class: "row" }, newer, older, kind === "experiments" && pair));
}

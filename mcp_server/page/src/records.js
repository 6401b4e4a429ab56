// Evidence and provenance as tables: what a prediction is worth, and what it follows from.
import { h, button, number, range, table, time } from "./dom.js";
import { axisHead, intervalBar, scale } from "./plot.js";

const VERDICTS = {
  exact: "✔ exact: the same cells, bit for bit",
  same_kind: "✔ same_kind: the same cells under another numerics profile",
  equivalent: "≈ equivalent: other cells, effects that agree within Monte Carlo error",
  different: "✖ different: neither cells nor effects agree",
};
export const verdictText = (verdict) => VERDICTS[verdict] ?? verdict ?? "no replay yet";

const METRICS = { pearson_of_change: "Pearson correlation of change" };

export function evidence(result) {
  const rows = [], of = result.held_out, tier = result.evidence;
  if (of) {
    rows.push([`this prediction (${of.of})`, of.level, of.value, of.interval]);
    if (of.best_simple) rows.push([`best simple predictor: ${of.best_simple}`, of.level, of.best_simple_value, null]);
  }
  if (tier) {
    rows.push([`model, ${tier.set}`, `tier ${tier.tier}`, tier.model.value, tier.model.interval]);
    for (const [name, figure] of Object.entries(tier.baselines)) rows.push([name, `tier ${tier.tier}`, figure.value, figure.interval]);
  }
  const metric = (of ?? tier)?.metric ?? "";
  const title = METRICS[metric] ?? metric;
  const x = scale(rows.flatMap((r) => [r[2], ...(r[3] ?? [])]), 6, 174, { zero: true });
  return h("section", {},
    result.support && h("p", {}, h("b", {}, `Support: ${result.support.tier}. `), result.support.note),
    of?.against_best_simple && h("p", {}, `Against the best simple predictor: ${of.against_best_simple}.`),
    tier?.verdict && h("p", { class: "note" }, `Model of this tier: ${tier.verdict}.`),
    rows.length
      ? table(`Held-out evidence: ${title}`, ["predictor", title, axisHead(x, "95 % interval, drawn"), "95 % interval", "held out of"],
        rows.map(([name, level, value, interval]) => [name.replaceAll("_", " "), number(value),
          intervalBar(x, { value, interval }), range(interval), level]), { wide: [3, 4] })
      : h("p", {}, "No held-out figure exists for this question."),
    result.caveats?.length > 0 && [h("h3", {}, "Caveats"), h("ul", {}, result.caveats.map((c) => h("li", {}, c)))]);
}

export function provenance(result, { replay, open }) {
  const p = result.provenance;
  const newest = p.verifications.at(-1);
  const facts = [["experiment", result.experiment_id], ["tool", result.tool], ["recorded", time(p.created_at)],
    ["checkpoint", [p.request.checkpoint, p.request.checkpoint_digest].filter(Boolean).join(" ")], ["seed", String(p.request.seed ?? "–")],
    ["by", `${p.principal}, ${p.door}`], ["seconds", number(p.seconds)], ["tags", p.tags.join(", ") || "–"],
    ["request digest", p.request_digest], ["panel digest", p.panel_digest], ["ledger head", result.ledger_head],
    ...Object.entries(p.artifacts)];
  return h("section", {},
    h("p", { class: `verdict ${newest?.verdict ?? "none"}` }, h("b", {}, "Replay: "), verdictText(newest?.verdict)),
    result.replay && h("p", {}, `This is a replay of ${result.replay.of}: `, verdictText(result.replay.verdict)),
    replay && button("Replay now", replay),
    p.verifications.length > 0 && table("Replays", ["replay", "verdict", "at"], p.verifications.toReversed().map((v) =>
      [v.replay ? button(v.replay, () => open(v.replay), { class: "link" }) : "–", v.verdict, time(v.at)])),
    h("h3", {}, "What the numbers follow from"),
    h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value ?? "–")])),
    more("Request", p.request), more("Numerics and environment", p.environment));
}

const more = (title, value) => value && h("details", {}, h("summary", {}, title),
  h("pre", { tabindex: "0", "aria-label": title }, JSON.stringify(value, null, 2)));

export function replays(result) {
  const counts = Object.entries(result.verdicts ?? {}).map(([name, n]) => `${n} ${name}`).join(", ");
  return h("section", {},
    h("p", { class: `verdict ${result.verdict ?? "none"}` }, h("b", {}, "Replay: "), verdictText(result.verdict)),
    h("p", {}, result.summary), counts && h("p", {}, counts),
    result.replays?.length > 0 && table("Replays, worst first", ["perturbation", "status", "verdict"],
      result.replays.map((r) => [r.perturbation, r.status, r.verdict])));
}

// The words around the picture: which token asks, what the colours stand for, where the best match is.

import { find } from "./dom.js";
import { mapOf } from "./maps.js";

const percent = (share) => `${(100 * share).toPrecision(2).replace(/\.0$/, "")} %`;

const FORMATS = {
  cosine: (value) => value.toFixed(2),
  share: percent,
  length: (value) => value.toFixed(1),
  relative: (value) => (value === 0 ? "none" : "most"),
};

function askedText({ state, asking, query }, map) {
  if (!asking.encoding || !query) return "";
  if (!map.needs.some((need) => need === "patch" || need === "query")) return "";
  const names = asking.encoding.model.prefix_names;
  const who = "token" in query ? `${names[query.token] ?? "token"} token` : `row ${query.row + 1}, column ${query.column + 1}`;
  const pinned = state.pinned && !("token" in query) ? ", pinned" : "";
  const share = asking.painted === asking.wanted ? asking.field?.prefix : undefined;
  const others = names[0] === "class" ? "class and registers" : "registers";
  const rest = share > 0 ? ` · ${percent(share)} goes to ${names.length > 1 ? others : names[0]}` : "";
  return who + pinned + rest;
}

export function showReadout(explorer) {
  const map = mapOf(explorer.state.map), { field } = explorer.asking;
  const text = askedText(explorer, map);
  const asked = find("asked");
  if (asked.textContent !== text) asked.textContent = text;
  const legend = find("legend");
  legend.hidden = !field || Boolean(field.rgb);
  if (field && !field.rgb) {
    const [low, high] = explorer.asking.range();
    const name = FORMATS[map.unit] ?? String;
    find("low").textContent = name(low);
    find("high").textContent = name(high);
    legend.setAttribute("aria-label", `Colour scale from ${name(low)} to ${name(high)}`);
  }
  for (const view of explorer.shown) {
    const { picture, model } = view.encoding;
    const several = explorer.server.models.length > 1 && explorer.state.model2;
    const match = view.match ? ` · best match ${view.match.value.toFixed(2)}` : "";
    view.caption.textContent = explorer.shown.length > 1 ? `${several ? model.name : picture.name}${match}` : "";
    view.frame.setAttribute("aria-label", `${picture.name}, ${map.name}. ${view === explorer.asking ? text : ""}`);
  }
}

// Plots in SVG: how far every head looks, and how long the tokens are.

import { draw, make, rove } from "./dom.js";

const WIDTH = 400, HEIGHT = 214, LEFT = 40, RIGHT = 8, TOP = 10, BOTTOM = 24;

const round = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

/** A round step that cuts a range into about four. */
function stepOf(range) {
  const rough = range / 4, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough) ?? rough;
}

function frame(label, top, name) {
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "group", "aria-label": label });
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const step = stepOf(top);
  for (let value = 0; value <= top * 1.001; value += step) {
    svg.append(
      draw("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      draw("text", { class: "tick", x: LEFT - 6, y: y(value) + 3.5, "text-anchor": "end" }, name(value)),
    );
  }
  return { svg, y };
}

export class ReachPlot {
  constructor(panel, choose, measured) {
    this.choose = choose;
    this.switch = make("div", { className: "pair", role: "group", "aria-label": "What is measured" });
    for (const [value, text] of [["distance", "Distance"], ["entropy", "Entropy"]]) {
      const button = make("button", { type: "button", textContent: text });
      button.dataset.measure = value;
      button.addEventListener("click", () => measured(value));
      this.switch.append(button);
    }
    this.named = make("output", { className: "named" });
    this.holder = make("div", {});
    this.hint = make("p", { className: "hint" });
    panel.append(make("div", { className: "row" }, this.switch, this.named), this.holder, this.hint);
    rove(this.holder, ".head", (dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]);
    for (const type of ["click", "keydown"]) this.holder.addEventListener(type, (event) => this.#choose(event));
    for (const type of ["pointerover", "focusin"]) this.holder.addEventListener(type, (event) => this.#name(event.target));
  }

  #choose(event) {
    const dot = event.target.closest(".head");
    if (!dot || (event.type === "keydown" && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(Number(dot.dataset.layer), Number(dot.dataset.head), event);
  }

  #name(target) {
    const dot = target.closest(".head");
    if (dot) this.named.value = dot.getAttribute("aria-label");
  }

  show(reach, measure, chosen) {
    for (const button of this.switch.children) {
      button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
    }
    const unit = measure === "distance" ? "px" : "nats";
    const layers = reach[measure];
    const top = Math.max(...layers.flat(), 1e-6) * 1.08;
    const { svg, y } = frame("Heads by layer", top, (value) => (top < 5 ? value.toFixed(1) : value.toFixed(0)));
    const x = (layer) => LEFT + ((layer + 0.5) / layers.length) * (WIDTH - LEFT - RIGHT);
    layers.forEach((heads, layer) => {
      if (layers.length <= 16 || layer % 2 === 0) {
        svg.append(draw("text", { class: "tick", x: x(layer), y: HEIGHT - 7, "text-anchor": "middle" }, layer + 1));
      }
      heads.forEach((value, head) => {
        const label = `Layer ${layer + 1}, head ${head + 1}: ${round(value)} ${unit}`;
        const pressed = String(`${layer}/${head}` === chosen);
        const dot = draw("circle", {
          class: "head", cx: x(layer), cy: y(value), r: 4.5, role: "button", "aria-label": label,
          "aria-pressed": pressed, tabindex: svg.querySelector(".head") ? -1 : 0,
        });
        dot.dataset.layer = layer;
        dot.dataset.head = head;
        svg.append(dot);
      });
    });
    const focused = document.activeElement?.closest?.(".head");
    const again = focused && this.holder.contains(focused) && { ...focused.dataset };
    this.holder.replaceChildren(svg);
    if (again) svg.querySelector(`.head[data-layer="${again.layer}"][data-head="${again.head}"]`)?.focus();
    this.hint.textContent =
      measure === "distance"
        ? "Mean distance between a patch and where it looks, in pixels: low heads are local, high heads global."
        : "Entropy of where a patch looks, in nats: low heads pick few patches, high heads average over many.";
  }
}

/** Histogram of token lengths; tokens marked as outliers stand apart. */
export function normsPlot(panel, { norms, outliers }, prefix, names, showMap) {
  const bins = 28, patches = norms.slice(prefix);
  const least = Math.min(...norms), most = Math.max(...norms), width = (most - least) / bins || 1;
  const binOf = (value) => Math.min(bins - 1, Math.floor((value - least) / width));
  const out = new Set(outliers), plain = new Array(bins).fill(0), odd = new Array(bins).fill(0);
  patches.forEach((value, place) => (out.has(place + prefix) ? odd : plain)[binOf(value)]++);
  const most_common = Math.max(...plain.map((count, i) => count + odd[i]), 1);
  // The square root keeps a lone outlier visible beside hundreds.
  const { svg, y } = frame("Lengths of the patches' tokens", Math.sqrt(most_common) * 1.05, (value) => Math.round(value * value));
  const x = (value) => LEFT + ((value - least) / (width * bins)) * (WIDTH - LEFT - RIGHT);
  const bar = (kind, i, from, count) => {
    const place = { x: x(least + i * width) + 0.5, width: (WIDTH - LEFT - RIGHT) / bins - 1 };
    const upper = y(Math.sqrt(from + count)), height = y(Math.sqrt(from)) - upper;
    svg.append(draw("rect", { class: kind, ...place, y: upper, height }));
  };
  for (let i = 0; i < bins; i++) {
    if (plain[i]) bar("tower", i, 0, plain[i]);
    if (odd[i]) bar("tower odd", i, plain[i], odd[i]);
  }
  for (const share of [0, 0.5, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    const value = least + share * width * bins;
    svg.append(draw("text", { class: "tick", x: x(value), y: HEIGHT - 7, "text-anchor": anchor }, round(value)));
  }
  norms.slice(0, prefix).forEach((value) => {
    svg.append(draw("line", { class: "special", x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM }));
  });
  const special = names.slice(0, prefix).map((name, i) => `${name} ${round(norms[i])}`).join(", ");
  const oddPatches = outliers.filter((place) => place >= prefix).length;
  const found = oddPatches ? `${oddPatches} of ${patches.length} patches are outliers` : "No patch is an outlier";
  const button = make("button", { type: "button", className: "button", textContent: "Show on the picture" });
  button.addEventListener("click", showMap);
  panel.replaceChildren(
    make("div", { className: "row" }, make("p", { className: "named", textContent: `${found}.` }), button),
    svg,
    make("p", { className: "hint", textContent: `Lengths of the final tokens.${special ? ` Lines: ${special}.` : ""}` }),
  );
}

// The layer × head grid: depth from left to right, one small map per head; a click puts it on the picture.

import { make, rove } from "./dom.js";
import { paintField } from "./heat.js";
import { Newest } from "./requests.js";

const SETTLED = 140; // milliseconds without a new query before every head is asked for

export class HeadGrid {
  #cells = new Map();
  #requests = new Newest();
  #timer = 0;
  #key = "";
  #fields = new Map();

  constructor(panel, choose) {
    this.hint = make("p", { className: "hint" });
    this.grid = make("div", { className: "grid", role: "group", "aria-label": "Attention of every layer and head" });
    panel.append(this.hint, this.grid);
    this.grid.addEventListener("click", (event) => {
      const cell = event.target.closest("button");
      if (cell) choose(Number(cell.dataset.layer), Number(cell.dataset.head), event);
    });
    rove(this.grid, "button", (cell) => [Number(cell.dataset.layer), Number(cell.dataset.head)]);
  }

  /** The strongest weight over all maps shown, or 0 while they are not here: the top of a shared scale. */
  strongest(encoding, query) {
    if (this.#key !== this.#name(encoding, query)) return 0;
    return Math.max(0, ...Array.from(this.#fields.values(), (field) => field.high));
  }

  #name(encoding, query) {
    return `${encoding.id}/${JSON.stringify(query)}`;
  }

  /** Shows the heads of a query once it has stood still for a moment; `arrived` is called when they are here. */
  want(encoding, query, look, chosen, arrived) {
    this.#layOut(encoding);
    if (!encoding.layers) return;
    this.#choose(chosen);
    this.look = look;
    const key = this.#name(encoding, query);
    if (key === this.#key) {
      this.#paintAll();
      return;
    }
    if (key === this.wanted) return;
    this.wanted = key;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#requests.run(() => this.#ask(key, encoding, query, arrived)), SETTLED);
  }

  async #ask(key, encoding, query, arrived) {
    try {
      const fields = new Map();
      for await (const { layer, heads } of encoding.thumbs(query)) {
        if (this.wanted !== key) return;
        heads.forEach((field, head) => fields.set(`${layer}/${head}`, field));
      }
      if (this.wanted !== key) return;
      this.#key = key;
      this.#fields = fields;
      this.#paintAll();
      arrived();
    } catch (error) {
      if (this.wanted === key) this.wanted = "";
      arrived(error);
    }
  }

  #layOut(encoding) {
    const shape = `${encoding.id}/${encoding.heads}`;
    if (shape === this.shape) return;
    this.shape = shape;
    this.#cells.clear();
    this.#key = this.wanted = "";
    this.hint.textContent = encoding.layers
      ? "Layers from left to right, heads from top to bottom; each map scaled by itself unless the scale is shared."
      : "This model has no attention layers.";
    const tallest = Math.max(0, ...encoding.heads);
    this.grid.style.gridTemplateColumns = `1.2rem repeat(${encoding.layers}, minmax(22px, 76px))`;
    const cells = [make("span", {})];
    for (let layer = 0; layer < encoding.layers; layer++) {
      cells.push(make("span", { className: "count", textContent: layer + 1, "aria-hidden": "true" }));
    }
    for (let head = 0; head < tallest; head++) {
      cells.push(make("span", { className: "count", textContent: head + 1, "aria-hidden": "true" }));
      for (let layer = 0; layer < encoding.layers; layer++) cells.push(this.#cell(encoding, layer, head));
    }
    this.grid.replaceChildren(...cells);
  }

  #cell(encoding, layer, head) {
    if (head >= encoding.heads[layer]) return make("span", {});
    const name = `Layer ${layer + 1}, head ${head + 1}`;
    const canvas = make("canvas", { width: 1, height: 1 });
    const cell = make("button", { type: "button", title: name, "aria-label": name, "aria-pressed": "false" }, canvas);
    cell.tabIndex = this.#cells.size ? -1 : 0;
    cell.dataset.layer = layer;
    cell.dataset.head = head;
    cell.style.aspectRatio = `${encoding.width} / ${encoding.height}`;
    this.#cells.set(`${layer}/${head}`, { cell, canvas });
    return cell;
  }

  #choose(chosen) {
    for (const [name, { cell }] of this.#cells) cell.setAttribute("aria-pressed", String(name === chosen));
  }

  #paintAll() {
    const top = this.look.scale === "shared" ? Math.max(...Array.from(this.#fields.values(), (f) => f.high)) : 0;
    const style = `${this.#key} ${this.look.colours} ${top}`;
    if (style === this.style) return;
    this.style = style;
    for (const [name, field] of this.#fields) {
      const shown = this.#cells.get(name);
      const high = top || field.high;
      if (shown) paintField(shown.canvas, field, { low: 0, high, colours: this.look.colours, smooth: false });
    }
  }
}

// The tabs under the map's controls: heads, reach, prediction, tokens. Only the open one asks the server.

import { find, make } from "./dom.js";
import { HeadGrid } from "./heads.js";
import { normsPlot, ReachPlot } from "./plots.js";
import { showStrip } from "./strip.js";

const TABS = ["heads", "reach", "strip", "norms"];

export class Panels {
  constructor(explorer) {
    this.explorer = explorer;
    const choose = (layer, head, event) => explorer.update({ map: "attention", layer, head: String(head) }, event);
    this.heads = new HeadGrid(find("panel-heads"), choose);
    this.reach = new ReachPlot(find("panel-reach"), choose, (measure) => explorer.update({ measure }));
    find("tabs").addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) explorer.update({ panel: tab.id.slice(4) });
    });
    find("tabs").addEventListener("keydown", (event) => this.#step(event));
  }

  #step(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const panel = TABS[(TABS.indexOf(this.open) + step + TABS.length) % TABS.length];
    this.explorer.update({ panel });
    find(`tab-${panel}`).focus();
  }

  get open() {
    return TABS.includes(this.explorer.state.panel) ? this.explorer.state.panel : "heads";
  }

  /** Which head is on the stage, as "layer/head". */
  get #chosen() {
    const { state, layer } = this.explorer;
    return state.map === "attention" ? `${layer}/${state.head}` : "";
  }

  reflect() {
    for (const name of TABS) {
      const tab = find(`tab-${name}`), chosen = name === this.open;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      find(`panel-${name}`).hidden = !chosen;
    }
    const { encoding } = this.explorer.asking;
    if (encoding && this.explorer.query) this[`_${this.open}`](encoding);
  }

  _heads(encoding) {
    const { explorer } = this;
    const arrived = (error) => {
      if (error?.status && error.status !== 410) this.heads.hint.textContent = error.message;
      else if (error) explorer.failed(error, explorer.asking);
      else if (explorer.state.scale === "shared") explorer.paint();
    };
    this.heads.want(encoding, explorer.query, explorer.look(), this.#chosen, arrived);
  }

  _reach(encoding) {
    const shape = `${encoding.id} ${this.explorer.state.measure} ${this.#chosen}`;
    this.#fill("reach", shape, () => encoding.reach(), (answer) => {
      this.reach.show(answer, this.explorer.state.measure === "entropy" ? "entropy" : "distance", this.#chosen);
    });
  }

  _strip(encoding) {
    const choose = (name, event) => {
      const number = (encoding.model.classes ?? []).indexOf(name);
      const changes = { class: number };
      if (!this.explorer.state.map.match(/^(grad|relevance)/)) changes.map = "relevance";
      if (number >= 0 && encoding.model.gradients) this.explorer.update(changes, event);
    };
    this.#fill("strip", encoding.id, () => encoding.strip(), (answer) => showStrip(find("panel-strip"), answer, choose));
  }

  _norms(encoding) {
    const show = (event) => this.explorer.update({ map: "norms" }, event);
    this.#fill("norms", encoding.id, () => encoding.norms(), (answer) => {
      normsPlot(find("panel-norms"), answer, encoding.prefix, encoding.model.prefix_names, show);
    });
  }

  /** Asks once for what a panel shows, and shows it if it is still the one wanted. */
  async #fill(name, shape, ask, show) {
    const panel = find(`panel-${name}`);
    if (panel.dataset.shape === shape) return;
    panel.dataset.shape = shape;
    panel.setAttribute("aria-busy", "true");
    try {
      const answer = await ask();
      if (panel.dataset.shape !== shape) return;
      panel.querySelector(".refused")?.remove();
      show(answer);
    } catch (error) {
      if (panel.dataset.shape !== shape) return;
      panel.dataset.shape = "";
      if (error.status && error.status !== 410) {
        panel.querySelector(".refused")?.remove();
        panel.append(make("p", { className: "hint refused", textContent: error.message }));
        panel.dataset.shape = shape;
      } else this.explorer.failed(error, this.explorer.asking);
    } finally {
      panel.removeAttribute("aria-busy");
    }
  }
}

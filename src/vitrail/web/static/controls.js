// The controls around the stage: they show the state and change it.

import { COLOUR_MAPS, drawRamp } from "./colours.js";
import { fillSelect, find, make } from "./dom.js";
import { MAPS, mapOf, obstacle } from "./maps.js";

const TITLES = { inferno: "Inferno", magma: "Magma", viridis: "Viridis", cividis: "Cividis", turbo: "Turbo", grey: "Grey" };

/** Sets a property only when it differs: menus and fields that are open stay open. */
function put(element, name, value) {
  if (element[name] !== value) element[name] = value;
}

export class Controls {
  #lists = "";
  #heads = "";
  #tokens = "";
  #classes = null;
  #ramp = "";

  constructor(explorer) {
    this.explorer = explorer;
    this.#maps();
    fillSelect(find("colours"), COLOUR_MAPS.map((name) => [name, TITLES[name]]), "inferno");
    const bind = (id, type, change) => {
      find(id).addEventListener(type, (event) => explorer.update(change(event.target), event));
    };
    bind("model", "change", ({ value }) => ({ model: value, layer: -1, head: "mean", class: -1 }));
    bind("picture", "change", ({ value }) => ({ picture: value }));
    bind("beside", "change", ({ value }) => {
      const id = value.slice(2);
      return { model2: value.startsWith("m:") ? id : "", picture2: value.startsWith("p:") ? id : "" };
    });
    bind("size", "change", ({ value }) => ({ size: explorer.server.sizes[Number(value)] }));
    find("size").addEventListener("input", ({ target }) => {
      find("size-out").value = `${explorer.server.sizes[Number(target.value)]} px`;
    });
    bind("opacity", "input", ({ value }) => ({ opacity: Number(value) }));
    bind("colours", "change", ({ value }) => ({ colours: value }));
    bind("look", "change", ({ value }) => ({ look: value }));
    bind("scale", "change", ({ value }) => ({ scale: value }));
    bind("top", "input", ({ value }) => ({ top: Math.min(200, Math.max(0, Math.floor(Number(value)) || 0)) }));
    bind("layer", "input", ({ value }) => ({ layer: Number(value) - 1 }));
    find("head-field").addEventListener("change", (event) => explorer.update({ head: event.target.value }, event));
    find("class").addEventListener("change", (event) => this.#chooseClass(event));
    find("tokens").addEventListener("click", (event) => {
      const chip = event.target.closest("button");
      if (chip) explorer.update({ query: chip.value, pinned: 1 }, event);
    });
  }

  #maps() {
    const groups = new Map();
    for (const map of MAPS) groups.set(map.group, [...(groups.get(map.group) ?? []), map]);
    for (const [name, maps] of groups) {
      const choices = maps.map((map) => {
        const input = make("input", { type: "radio", name: "map", value: map.id, id: `map-${map.id}` });
        return make("label", { className: "choice", for: input.id }, input, make("span", { textContent: map.name }));
      });
      const group = make("div", { className: "group", role: "group", "aria-label": name });
      group.append(make("span", { className: "label", textContent: name }), ...choices);
      find("maps").append(group);
    }
    find("maps").addEventListener("change", (event) => this.explorer.update({ map: event.target.value }, event));
  }

  #chooseClass(event) {
    const { classes } = this.explorer.model();
    const typed = event.target.value.trim().toLowerCase();
    const found = typed ? classes.findIndex((name) => name.toLowerCase() === typed) : -1;
    const near = found < 0 && typed ? classes.findIndex((name) => name.toLowerCase().includes(typed)) : found;
    event.target.value = near < 0 ? "" : classes[near];
    this.explorer.update({ class: near }, event);
  }

  /** Brings every control to the state. */
  reflect() {
    const { explorer } = this, { state } = explorer, map = mapOf(state.map), model = explorer.model();
    this.#fillLists();
    put(find("model"), "value", state.model);
    put(find("picture"), "value", state.picture);
    put(find("beside"), "value", state.model2 ? `m:${state.model2}` : state.picture2 ? `p:${state.picture2}` : "");
    const { sizes } = explorer.server;
    put(find("size"), "max", String(sizes.length - 1));
    put(find("size"), "value", String(sizes.indexOf(explorer.size)));
    find("size-out").value = `${explorer.size} px`;
    for (const name of ["opacity", "top"]) put(find(name), "value", String(state[name]));
    for (const name of ["colours", "look", "scale"]) put(find(name), "value", state[name]);
    for (const { id, ...rest } of MAPS) {
      const input = find(`map-${id}`), reason = obstacle(rest, model);
      put(input, "checked", id === map.id);
      input.disabled = Boolean(reason);
      input.parentElement.title = reason && `${rest.name} ${reason}`;
    }
    put(find("meaning"), "textContent", map.meaning);
    find("layer-field").hidden = find("head-field").hidden = !map.needs.includes("layer");
    find("class-field").hidden = !map.needs.includes("class");
    put(find("layer"), "max", String(model.layers));
    put(find("layer"), "value", String(explorer.layer + 1));
    find("layer-out").value = `${explorer.layer + 1} of ${model.layers}`;
    this.#fillHeads(model.heads[explorer.layer] ?? 0, state.head);
    this.#fillTokens(model.prefix_names, state.query);
    this.#fillClasses(model, state.class);
    if (this.#ramp !== state.colours) drawRamp(find("ramp"), (this.#ramp = state.colours));
  }

  #fillLists() {
    const { models, pictures } = this.explorer.server;
    const { model } = this.explorer.state;
    const lists = JSON.stringify([models.map(({ id }) => id), pictures, model]);
    if (lists === this.#lists) return;
    this.#lists = lists;
    const named = ({ id, name }) => [id, name];
    fillSelect(find("model"), models.map(named), model);
    fillSelect(find("picture"), pictures.map(named), this.explorer.state.picture);
    const others = models.filter(({ id }) => id !== model).map(({ id, name }) => [`m:${id}`, name]);
    const beside = [["", "Nothing"]];
    if (pictures.length) beside.push({ label: "A picture", options: pictures.map(({ id, name }) => [`p:${id}`, name]) });
    if (others.length) beside.push({ label: "A model", options: others });
    fillSelect(find("beside"), beside, "");
  }

  #fillHeads(count, chosen) {
    const shape = String(count);
    if (shape !== this.#heads) {
      this.#heads = shape;
      const values = ["mean", "max", ...Array(count).keys()].map(String);
      const choices = values.map((value) => {
        const input = make("input", { type: "radio", name: "head", value, id: `head-${value}` });
        const text = /^\d/.test(value) ? String(Number(value) + 1) : value === "mean" ? "Mean" : "Max";
        input.setAttribute("aria-label", /^\d/.test(text) ? `Head ${text}` : `${text} of heads`);
        return make("label", { className: "choice", for: input.id }, input, make("span", { textContent: text }));
      });
      find("head-field").replaceChildren(make("legend", { className: "unseen", textContent: "Head" }), ...choices);
    }
    const input = find(`head-${chosen}`);
    if (input) put(input, "checked", true);
  }

  #fillTokens(names, query) {
    const shape = names.join();
    if (shape !== this.#tokens) {
      this.#tokens = shape;
      const title = (name) => name.charAt(0).toUpperCase() + name.slice(1);
      const chips = names.map((name, place) => {
        return make("button", { type: "button", className: "chip", value: `t${place}`, textContent: title(name) });
      });
      find("tokens").replaceChildren(...chips);
    }
    for (const chip of find("tokens").children) chip.setAttribute("aria-pressed", String(chip.value === query));
  }

  #fillClasses(model, chosen) {
    const { classes } = model;
    if (classes !== this.#classes) {
      this.#classes = classes;
      find("classes").replaceChildren(...(classes ?? []).map((name) => make("option", { value: name })));
    }
    const field = find("class");
    field.placeholder = "predicted class";
    if (document.activeElement !== field) put(field, "value", chosen < 0 ? "" : (classes?.[chosen] ?? ""));
  }
}

// The heart of the page: one state, up to two pictures on the stage, and what has to be painted for it.

import { getJson, Refused, ServerGone } from "./api.js";
import { Encoding } from "./encoding.js";
import { mapOf, obstacle } from "./maps.js";
import { clamp, largest } from "./numbers.js";
import { Address, parseQuery, readState, stateHash } from "./state.js";
import { View } from "./view.js";

const TIMINGS_KEPT = 500;
const PATIENCE = 2; // forgotten answers in a row before the user is told

export class Explorer {
  #encodings = new Map();
  #address = new Address();
  #forgotten = 0;

  /** `parts` react to what happens: `reflect()`, `painted(view)`, `lost()`, `tell(message)`. */
  constructor(stage, parts) {
    this.parts = parts;
    this.state = readState(location.hash);
    this.server = null;
    this.timings = [];
    this.gone = false; // the server does not answer
    const handlers = {
      over: (number, row, column, event) => this.#over(number, row, column, event),
      press: (number, row, column, event) => this.#press(number, row, column, event),
      painted: (view) => this.#painted(view),
      timed: (view, key, milliseconds) => this.#timed(view, key, milliseconds),
      failed: (error, view) => this.failed(error, view),
    };
    this.views = [0, 1].map((number) => {
      const numbered = (name) => (...rest) => handlers[name](number, ...rest);
      return new View(stage, number, { ...handlers, over: numbered("over"), press: numbered("press") });
    });
    addEventListener("hashchange", () => {
      if (location.hash !== stateHash(this.state)) this.restore(readState(location.hash));
    });
    new ResizeObserver(() => this.fit()).observe(stage);
    this.stage = stage;
  }

  /** Asks the server what it has, and shows what the address says. */
  async start() {
    this.server = await getJson("/api/state");
    this.restore(this.state);
  }

  /** Everything of the server is asked for again: it was started anew. */
  async restart(renamed) {
    this.server = await getJson("/api/state");
    this.#encodings.clear();
    for (const view of this.views) view.spec = "";
    const name = (id) => renamed.get(id) ?? id;
    this.restore({ ...this.state, picture: name(this.state.picture), picture2: name(this.state.picture2) });
  }

  restore(state) {
    const { models, pictures } = this.server;
    const known = (list, id) => list.some((entry) => entry.id === id);
    const wanted = { ...state };
    if (!known(models, wanted.model)) wanted.model = models[0].id;
    if (!known(models, wanted.model2)) wanted.model2 = "";
    if (!known(pictures, wanted.picture)) {
      if (wanted.picture) this.parts.tell("The picture of this link is not here: open it again.");
      wanted.picture = pictures[0]?.id ?? "";
    }
    if (!known(pictures, wanted.picture2)) wanted.picture2 = "";
    this.state = wanted;
    this.sync();
  }

  model(id = this.state.model) {
    return this.server.models.find((model) => model.id === id);
  }

  picture(id = this.state.picture) {
    return this.server.pictures.find((picture) => picture.id === id);
  }

  /** Short side in pixels: the one chosen, or the server's size nearest to what the model was trained at. */
  get size() {
    const own = Math.min(...this.model().img_size);
    const nearest = (best, size) => (Math.abs(size - own) < Math.abs(best - own) ? size : best);
    return this.server.sizes.includes(this.state.size) ? this.state.size : this.server.sizes.reduce(nearest);
  }

  get layer() {
    const { layers } = this.model();
    return clamp(this.state.layer < 0 ? layers + this.state.layer : this.state.layer, 0, Math.max(0, layers - 1));
  }

  get query() {
    return parseQuery(this.state.query);
  }

  /** The view that the query is in. */
  get asking() {
    return this.views[this.state.from];
  }

  get shown() {
    return this.views.filter((view) => view.encoding && !view.figure.hidden);
  }

  /** Changes the state; `event` is what the user did, and starts the clock. */
  update(changes, event) {
    const next = { ...this.state, ...changes };
    const token = parseQuery(next.query)?.token !== undefined;
    if (token && mapOf(next.map).needs.includes("patch")) {
      // These maps know patches only: the newer wish decides.
      if ("query" in changes) next.map = "attention";
      else next.query = this.#centre(this.asking.encoding);
    }
    this.state = next;
    this.sync(event?.timeStamp);
  }

  /** Brings the page to the state: pictures, controls, maps. */
  sync(since) {
    if (!this.server) return;
    this.#place();
    this.paint(since); // first of all: the eye is on the picture
    this.parts.reflect();
    this.#address.write(this.state);
  }

  link() {
    return this.#address.now(this.state);
  }

  // ---- pictures -------------------------------------------------------------------------------------------------

  #place() {
    const { state } = this;
    const beside = state.model2 || state.picture2;
    if (!beside) state.from = 0;
    const specs = [{ model: state.model, picture: state.picture }];
    if (beside) specs.push({ model: state.model2 || state.model, picture: state.picture2 || state.picture });
    this.views.forEach((view, number) => {
      const spec = specs[number];
      const hidden = !spec || !spec.picture;
      if (view.figure.hidden !== hidden) {
        view.figure.hidden = hidden;
        this.fit();
      }
      if (hidden) {
        view.spec = view.encoded = "";
        view.encoding = null;
      } else this.#open(view, spec, `${spec.model} ${spec.picture} ${this.size}`);
    });
  }

  async #open(view, spec, key) {
    if (view.spec === key || this.gone) return;
    view.spec = key;
    view.say(view.encoding ? "" : "The model reads the picture …", true);
    try {
      const encoding = await this.#encode(key, spec);
      if (view.spec !== key) return;
      const before = view.encoding;
      view.show(encoding);
      view.encoded = key;
      if (view === this.asking) this.#carry(before, encoding);
      this.fit();
      this.sync();
    } catch (error) {
      if (view.spec !== key) return;
      if (error instanceof ServerGone) view.spec = ""; // once it is back, ask again
      this.failed(error, view);
    }
  }

  #encode(key, { model, picture }) {
    if (!this.#encodings.has(key)) {
      const job = Encoding.of(this.model(model), this.picture(picture), this.size);
      this.#encodings.set(key, job);
      job.catch(() => this.#encodings.delete(key));
      if (this.#encodings.size > 8) this.#encodings.delete(this.#encodings.keys().next().value);
    }
    return this.#encodings.get(key);
  }

  /** The query keeps its place in the picture when the grid changes. */
  #carry(before, encoding) {
    const query = this.query;
    if (!query) this.state.query = this.#centre(encoding);
    else if ("token" in query) {
      if (query.token >= encoding.prefix) this.state.query = this.#centre(encoding);
    } else {
      const { row, column } = this.#moved(query, before ?? encoding, encoding);
      this.state.query = `${row}.${column}`;
    }
  }

  #centre(encoding) {
    return encoding ? `${Math.floor(encoding.rows / 2)}.${Math.floor(encoding.columns / 2)}` : "";
  }

  /** The same place of a picture on another grid. */
  #moved(query, from, to) {
    if ("token" in query) return { token: clamp(query.token, 0, Math.max(0, to.prefix - 1)) };
    return {
      row: clamp(Math.floor(((query.row + 0.5) / from.rows) * to.rows), 0, to.rows - 1),
      column: clamp(Math.floor(((query.column + 0.5) / from.columns) * to.columns), 0, to.columns - 1),
    };
  }

  /** Gives every picture its share of the stage. */
  fit() {
    const seen = this.views.filter((view) => !view.figure.hidden);
    const style = getComputedStyle(this.stage);
    const gap = parseFloat(style.columnGap) || 0;
    const caption = seen.length > 1 ? 30 : 0;
    const stacked = style.flexDirection === "column";
    const height = stacked ? innerHeight * 0.62 : this.stage.clientHeight - caption;
    const width = stacked ? this.stage.clientWidth : (this.stage.clientWidth - gap * (seen.length - 1)) / seen.length;
    for (const view of seen) view.fit(width, height);
  }

  // ---- the pointer ----------------------------------------------------------------------------------------------

  #over(number, row, column, event) {
    if (this.state.pinned && !(event.buttons & 1)) return;
    this.ask(number, `${row}.${column}`, {}, event);
  }

  #press(number, row, column, event) {
    const query = `${row}.${column}`;
    const same = this.state.pinned && number === this.state.from && query === this.state.query;
    this.ask(number, query, { pinned: same ? 0 : 1 }, event);
  }

  /** Makes a token of a picture the query. */
  ask(number, query, changes, event) {
    const { state } = this;
    if (query === state.query && number === state.from && !("pinned" in changes)) return;
    this.update({ query, from: number, ...changes }, event);
  }

  // ---- maps -----------------------------------------------------------------------------------------------------

  paint(since) {
    const source = this.asking.encoding;
    if (!source || !this.query) return;
    for (const view of this.shown) {
      view.want(this.#wish(view, source), this.look(), since);
      this.#mark(view);
    }
  }

  #wish(view, source) {
    const { encoding } = view, map = mapOf(this.state.map);
    const reason = obstacle(map, encoding.model);
    if (reason) return { key: `${encoding.id}/${map.id}/${reason}`, error: `${map.name} ${reason}.` };
    const context = this.#context(encoding, source);
    return { key: `${encoding.id}/${map.id}/${map.key(context)}`, now: () => map.now(context), ask: () => map.ask(context) };
  }

  #context(encoding, source) {
    const { layer, query } = this;
    const same = encoding.model.id === source.model.id;
    const here = encoding === source ? query : this.#moved(query, source, encoding);
    const depth = same ? layer : Math.round((layer / Math.max(1, source.layers - 1)) * (encoding.layers - 1));
    const { head } = this.state;
    const other = this.shown.map((view) => view.encoding).find((one) => one.model.id === encoding.model.id && one !== encoding);
    return {
      encoding,
      source: same ? source : encoding,
      asked: same ? query : here,
      query: here,
      layer: depth,
      head: /^\d+$/.test(head) ? String(clamp(Number(head), 0, Math.max(0, (encoding.heads[depth] ?? 1) - 1))) : head,
      class: this.state.class,
      other,
    };
  }

  look() {
    const { colours, opacity, look, scale } = this.state;
    return { colours, opacity, smooth: look === "smooth", scale, shared: scale === "shared" ? this.#shared() : null };
  }

  /** One scale for all maps of a kind: fixed for cosines, the strongest of all that are shown for the rest. */
  #shared() {
    const { unit } = mapOf(this.state.map);
    if (unit === "cosine") return [0, 1];
    const tops = this.shown.filter((view) => view.field && !view.field.rgb).map((view) => view.field.high);
    if (unit === "share" && this.state.map === "attention") {
      tops.push(this.parts.strongest(this.asking.encoding, this.query));
    }
    const lows = unit === "length" ? this.shown.filter((view) => view.field).map((view) => view.field.low) : [0];
    return tops.length ? [Math.min(...lows), Math.max(...tops)] : null;
  }

  #mark(view) {
    const { encoding } = view, source = this.asking.encoding;
    const context = this.#context(encoding, source);
    const across = this.state.map === "similarity" && view !== this.asking && context.source === source;
    const asks = mapOf(this.state.map).needs.some((need) => need === "patch" || need === "query");
    const query = !asks || "token" in context.query || across ? null : context.query;
    const current = view.field && view.painted === view.wanted;
    let match = null;
    if (across && current) {
      const [place] = largest(view.field.values, 1);
      match = { row: Math.floor(place / encoding.columns), column: place % encoding.columns };
      match.value = view.field.values[place];
    }
    const itself = query && this.state.map === "similarity" ? query.row * encoding.columns + query.column : -1;
    view.match = match;
    view.mark({ query, top: current ? this.state.top : 0, except: itself, match });
  }

  #painted(view) {
    const other = this.shown.find((one) => one !== view);
    if (this.state.scale === "shared") {
      view.look = this.look();
      view.repaint();
      if (other) {
        other.look = this.look();
        other.repaint();
      }
    }
    if (this.asking.encoding && view.encoding) this.#mark(view);
    this.parts.painted(view);
    this.#forgotten = 0;
  }

  #timed(view, key, milliseconds) {
    this.timings.push({ key, map: this.state.map, view: view.number, milliseconds });
    if (this.timings.length > TIMINGS_KEPT) this.timings.shift();
    Object.assign(document.documentElement.dataset, { painted: key, milliseconds: milliseconds.toFixed(1) });
  }

  /** The server keeps only the latest pictures and encodings: these are given and made again. */
  async #again() {
    this.#forgotten += 1;
    this.#encodings.clear();
    for (const view of this.views) view.spec = "";
    try {
      await this.parts.resend();
      this.sync();
    } catch (error) {
      this.failed(error, this.asking);
    }
  }

  // ---- errors ---------------------------------------------------------------------------------------------------

  /** What a failed request means for the page. */
  failed(error, view) {
    if (error instanceof ServerGone) {
      view.retry();
      view.say("");
      this.parts.lost();
    } else if (error instanceof Refused && error.status === 410 && this.#forgotten < PATIENCE) {
      this.#again();
    } else if (error instanceof Refused) view.clear(error.message);
    else {
      view.clear("Something went wrong on this page; reloading it may help.");
      console.error(error);
    }
  }
}

// One picture on the stage: the photograph, its heat map, the marks, and which patch the pointer is on.

import { paintField } from "./heat.js";
import { clamp, largest, quantile } from "./numbers.js";
import { afterPaint, Newest } from "./requests.js";

const SVG = "http://www.w3.org/2000/svg";

function element(name, className, parent) {
  const made = document.createElement(name);
  made.className = className;
  parent.append(made);
  return made;
}

export class View {
  /** `handlers`: `over(row, column, event)`, `press(row, column, event)`, `painted()`, `failed(error)`. */
  constructor(parent, number, handlers) {
    this.number = number;
    this.handlers = handlers;
    this.encoding = null;
    this.field = null;
    this.painted = ""; // key of what is on the canvas
    this.wanted = ""; // key of what should be
    this.refused = ""; // key of what cannot be had
    this.spec = ""; // what is to be encoded
    this.encoded = ""; // what is
    this.milliseconds = null; // from the latest event to the painted map
    this.requests = new Newest();
    this.figure = element("figure", "view", parent);
    this.frame = element("div", "frame", this.figure);
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "application");
    this.photo = element("canvas", "photo", this.frame);
    this.heat = element("canvas", "heat", this.frame);
    this.marks = document.createElementNS(SVG, "svg");
    this.marks.setAttribute("class", "marks");
    this.marks.setAttribute("preserveAspectRatio", "none");
    this.marks.setAttribute("aria-hidden", "true");
    this.frame.append(this.marks);
    this.note = element("p", "note", this.frame);
    this.caption = element("figcaption", "", this.figure);
    this.#listen();
  }

  #listen() {
    this.frame.addEventListener("pointermove", (event) => {
      const patch = this.patchAt(event.clientX, event.clientY);
      if (patch) this.handlers.over(patch.row, patch.column, event);
    });
    this.frame.addEventListener("pointerdown", (event) => {
      const patch = event.button === 0 && this.patchAt(event.clientX, event.clientY);
      if (patch) this.handlers.press(patch.row, patch.column, event);
    });
  }

  /** The patch under a point of the window, by the frame's own rectangle: right at every zoom and pixel ratio. */
  patchAt(x, y) {
    if (!this.encoding) return null;
    const box = this.frame.getBoundingClientRect();
    const across = (x - box.left) / box.width, down = (y - box.top) / box.height;
    if (across < 0 || across > 1 || down < 0 || down > 1) return null;
    return {
      row: clamp(Math.floor(down * this.encoding.rows), 0, this.encoding.rows - 1),
      column: clamp(Math.floor(across * this.encoding.columns), 0, this.encoding.columns - 1),
    };
  }

  show(encoding) {
    this.encoding = encoding;
    this.field = null;
    this.painted = this.wanted = this.refused = "";
    this.requests.drop();
    this.photo.width = encoding.bitmap.width;
    this.photo.height = encoding.bitmap.height;
    this.photo.getContext("2d").drawImage(encoding.bitmap, 0, 0);
    this.heat.hidden = true;
    this.marks.setAttribute("viewBox", `0 0 ${encoding.columns} ${encoding.rows}`);
    this.marks.replaceChildren();
    this.say("");
  }

  /** Whether what is wanted is on the screen, or is known not to come. */
  get settled() {
    const arrived = this.wanted !== "" && (this.painted === this.wanted || this.refused === this.wanted);
    return this.figure.hidden || (this.spec === this.encoded && arrived);
  }

  /** Fits the frame into a box, at the picture's own aspect. */
  fit(width, height) {
    const aspect = this.encoding ? this.encoding.width / this.encoding.height : 1;
    const across = Math.max(40, Math.min(width, height * aspect));
    this.frame.style.width = `${across}px`;
    this.frame.style.height = `${across / aspect}px`;
  }

  /** A few words over the picture (busy, or why there is no map), or "" for none. */
  say(text, busy = false) {
    this.note.textContent = text;
    this.note.hidden = !text;
    this.frame.classList.toggle("busy", busy);
  }

  /**
   * Brings a map onto the picture: at once when it is known, else when its answer comes and is still wanted.
   * `wish` is `{key, now(), ask(), error}`, `since` the time of the event that asked.
   */
  want(wish, look, since) {
    this.look = look;
    if (wish.key === this.wanted) {
      if (wish.key === this.painted) this.repaint();
      return; // painted, under way, or refused: asking again would change nothing
    }
    this.wanted = wish.key;
    if (wish.error) {
      this.requests.drop();
      this.clear(wish.error);
      return;
    }
    const field = wish.now();
    if (field) {
      this.requests.drop();
      this.#put(wish.key, field, since);
      return;
    }
    this.frame.classList.add("waiting");
    this.requests.run(async () => {
      try {
        const answer = await wish.ask();
        if (this.wanted === wish.key) this.#put(wish.key, answer, since);
      } catch (error) {
        if (this.wanted === wish.key) this.handlers.failed(error, this);
      }
    });
  }

  /** Forgets what was wanted, so that the next wish asks again. */
  retry() {
    this.wanted = "";
  }

  /** Takes the map away and says why. */
  clear(reason) {
    this.field = null;
    this.painted = "";
    this.refused = this.wanted;
    this.heat.hidden = true;
    this.frame.classList.remove("waiting");
    this.say(reason);
    this.handlers.painted(this);
  }

  #put(key, field, since) {
    this.field = field;
    this.painted = key;
    this.heat.hidden = false;
    this.frame.classList.remove("waiting");
    this.say("");
    this.repaint();
    this.handlers.painted(this);
    if (since === undefined) return;
    afterPaint((now) => {
      if (this.painted === key) this.milliseconds = now - since;
      this.handlers.timed(this, key, now - since);
    });
  }

  /** Lowest and highest value of the colour scale under the present settings. */
  range() {
    const { field, look } = this;
    if (look.scale === "shared" && look.shared) return look.shared;
    if (look.scale === "clipped" && !field.rgb) return [field.low, Math.max(quantile(field.values, 0.98), 1e-12)];
    return [field.low, field.high];
  }

  repaint() {
    if (!this.field) return;
    const [low, high] = this.range();
    const smooth = this.look.smooth;
    paintField(this.heat, this.field, { low, high, colours: this.look.colours, smooth });
    this.heat.style.opacity = String(this.look.opacity / 100);
    this.heat.classList.toggle("exact", !smooth);
  }

  /** Marks on the picture: the query, the strongest patches, the best match. Places count along the rows. */
  mark({ query, top, except, match }) {
    const { rows, columns } = this.encoding;
    const marks = [];
    if (top && this.field && !this.field.rgb) {
      const { values, height, width } = this.field;
      for (const place of largest(values, top, except)) {
        const at = { row: Math.floor(place / width), column: place % width };
        marks.push(...this.#box(at, "strong", rows / height, columns / width));
      }
    }
    if (match) marks.push(...this.#box(match, "match"));
    if (query) marks.push(...this.#box(query, "asking"));
    this.marks.replaceChildren(...marks);
  }

  #box({ row, column }, kind, tall = 1, wide = 1) {
    // Twice: a dark line under a light one is seen on every ground.
    return ["under", "over"].map((layer) => {
      const box = document.createElementNS(SVG, "rect");
      const place = { x: column * wide, y: row * tall, width: wide, height: tall };
      if (kind === "match") Object.assign(place, { x: column - 0.5, y: row - 0.5, width: 2, height: 2, rx: 1, ry: 1 });
      for (const [name, value] of Object.entries(place)) box.setAttribute(name, value);
      box.setAttribute("class", `${kind} ${layer}`);
      box.setAttribute("vector-effect", "non-scaling-stroke");
      return box;
    });
  }
}

// One picture as one model saw it: everything the server tells about it, asked for once and kept.

import { getArray, getBlob, getJson, postJson } from "./api.js";
import { clamp, extent, fromHalf } from "./numbers.js";
import { Kept } from "./requests.js";

const ROWS_KEPT = 2000;

/** A field of real numbers from bytes of which 255 stands for `top`. */
function fieldOf(bytes, height, width, top, more = {}) {
  const values = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) values[i] = (bytes[i] * top) / 255;
  return { values, height, width, low: 0, high: top, ...more };
}

export class Encoding {
  #once = new Map();
  #rows = new Kept(ROWS_KEPT);
  #maps = new Kept(40);

  /** Encodes a picture on the server, or finds what it encoded before. */
  static async of(model, picture, size) {
    const answer = await postJson("/api/encodings", { model: model.id, picture: picture.id, size });
    const encoding = new Encoding(answer, model, picture);
    encoding.askFeatures().catch(() => {}); // early, beside the image; whoever needs them asks again
    encoding.bitmap = await createImageBitmap(await getBlob(`/api/encodings/${answer.id}/image`));
    return encoding;
  }

  constructor(answer, model, picture) {
    Object.assign(this, answer);
    [this.rows, this.columns] = answer.grid;
    this.model = model;
    this.picture = picture;
    this.features = null; // {values, dim} once they are here
    this.bitmap = null;
  }

  /** How many patches a side a layer has: those of the final grid, except in models that merge patches. */
  gridOf(layer) {
    return this.grids[layer] ?? this.grid;
  }

  /** The place in a layer's sequence of a query on the final grid. */
  place(query, layer = this.layers - 1) {
    if ("token" in query) return clamp(query.token, 0, this.prefix - 1);
    const [rows, columns] = this.gridOf(layer);
    const row = Math.floor(((query.row + 0.5) * rows) / this.rows);
    const column = Math.floor(((query.column + 0.5) * columns) / this.columns);
    return this.prefix + clamp(row, 0, rows - 1) * columns + clamp(column, 0, columns - 1);
  }

  /** What is asked for once: a promise, remembered unless it fails. */
  #onceOnly(name, job) {
    if (!this.#once.has(name)) {
      const promise = job().catch((error) => {
        this.#once.delete(name);
        throw error;
      });
      this.#once.set(name, promise);
    }
    return this.#once.get(name);
  }

  #path(rest) {
    return `/api/encodings/${this.id}/${rest}`;
  }

  askFeatures() {
    return this.#onceOnly("features", async () => {
      const { data, shape } = await getArray(this.#path("features?layer=-1"));
      this.features = { values: fromHalf(data), dim: shape[2] };
      return this.features;
    });
  }

  rowNow(layer, place, head) {
    return this.#rows.get(`${layer}/${place}/${head}`);
  }

  /** Attention of one query in one layer; `head` is "mean", "max" or a number. */
  async row(layer, place, head) {
    const known = this.rowNow(layer, place, head);
    if (known) return known;
    const answer = await getArray(this.#path(`row?layer=${layer}&query=${place}&heads=${head}`));
    const [height, width] = answer.shape.slice(-2);
    const field = fieldOf(new Uint8Array(answer.data), height, width, answer.top[0], { prefix: answer.prefix[0] });
    return this.#rows.set(`${layer}/${place}/${head}`, field);
  }

  /** Every layer and head for one query: `[{layer, heads: [field]}]`. Windowed models answer layer by layer. */
  async *thumbs(query) {
    if (this.model.uniform) {
      const place = this.place(query);
      const answer = await getArray(this.#path(`thumbs?query=${place}`));
      const [layers, heads, height, width] = answer.shape;
      for (let layer = 0; layer < layers; layer++) {
        yield this.#heads(answer, layer, place, layer * heads, heads, height, width);
      }
    } else {
      for (let layer = 0; layer < this.layers; layer++) {
        const place = this.place(query, layer);
        const answer = await getArray(this.#path(`row?layer=${layer}&query=${place}&heads=all`));
        const [heads, height, width] = answer.shape;
        yield this.#heads(answer, layer, place, 0, heads, height, width);
      }
    }
  }

  /** The heads of a layer, kept as rows too: choosing one of them needs no request. */
  #heads(answer, layer, place, from, heads, height, width) {
    const bytes = new Uint8Array(answer.data), size = height * width;
    const fields = [];
    for (let head = 0; head < heads; head++) {
      const at = from + head;
      const map = bytes.subarray(at * size, (at + 1) * size);
      fields.push(fieldOf(map, height, width, answer.top[at], { prefix: answer.prefix[at] }));
      this.#rows.set(`${layer}/${place}/${head}`, fields[head]);
    }
    return { layer, heads: fields };
  }

  mapNow(key) {
    return this.#maps.get(key);
  }

  /** Rollout and the maps of a class; `options` are further parameters of the address. */
  async map(kind, options) {
    const path = this.#path(`map?${new URLSearchParams({ kind, ...options })}`);
    const known = this.mapNow(path);
    if (known) return known;
    const { data, shape, top } = await getArray(path);
    const [height, width] = shape.slice(-2);
    return this.#maps.set(path, fieldOf(new Uint8Array(data), height, width, top[0]));
  }

  /** Colours of the patches; `other` shares its components when given. */
  async colours(other) {
    const path = this.#path(other ? `pca?with=${other.id}` : "pca");
    const known = this.mapNow(path);
    if (known) return known;
    const { data, shape } = await getArray(path);
    const field = { rgb: new Uint8Array(data), height: shape[0], width: shape[1], low: 0, high: 1 };
    return this.#maps.set(path, field);
  }

  async positions(place) {
    const path = this.#path(`positions?query=${place}`);
    const known = this.mapNow(path);
    if (known) return known;
    const { data, shape } = await getArray(path);
    const values = Float32Array.from(new Uint8Array(data), (byte) => (byte / 255) * 2 - 1);
    const [low, high] = extent(values);
    return this.#maps.set(path, { values, height: shape[0], width: shape[1], low, high });
  }

  strip() {
    return this.#onceOnly("strip", () => getJson(this.#path("strip")));
  }

  reach() {
    return this.#onceOnly("reach", () => getJson(this.#path("reach")));
  }

  norms() {
    return this.#onceOnly("norms", () => getJson(this.#path("norms")));
  }

  async normField() {
    const { norms } = await this.norms();
    const values = Float32Array.from(norms.slice(this.prefix));
    const [low, high] = extent(values);
    return { values, height: this.rows, width: this.columns, low, high };
  }

  /** Where the numbers of a query can be had as an NPZ file. */
  npz(layer, query) {
    return this.#path(`export.npz?layer=${layer}&query=${this.place(query, layer)}`);
  }
}

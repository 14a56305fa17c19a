// What is looked at, as plain values, and its short form in the address: reload and share restore it.

export const DEFAULTS = Object.freeze({
  model: "",
  picture: "",
  model2: "", // the model beside, or ""
  picture2: "", // the picture beside, or ""
  size: 0, // short side in pixels; 0 is the model's own
  map: "similarity",
  layer: -1, // from 0; -1 is the last
  head: "mean", // "mean", "max" or a number from 0
  query: "", // "row.column" of a patch, or "t0", "t1" … for the tokens before the patches
  from: 0, // which of the two pictures the query is in
  pinned: 0,
  class: -1, // number of the class; -1 is the predicted one
  colours: "inferno",
  opacity: 70,
  look: "smooth",
  scale: "own",
  top: 0,
  panel: "heads",
  measure: "distance",
});

/** The state that an address describes; unknown names and broken numbers fall back to the defaults. */
export function readState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    if (typeof value === "string") state[name] = text;
    else if (text !== "" && Number.isFinite(Number(text))) state[name] = Number(text);
  }
  return state;
}

/** The address of a state: only what differs from the defaults. */
export function stateHash(state) {
  const shown = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (state[name] !== value) shown.set(name, String(state[name]));
  }
  return `#${shown}`;
}

/** Writes the address at most five times a second: browsers stop pages that write it with every pointer move. */
export class Address {
  #timer = 0;
  #last = "";

  write(state) {
    this.#last = stateHash(state);
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      history.replaceState(null, "", this.#last);
    }, 200);
  }

  /** The newest address at once, for a link. */
  now(state) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    history.replaceState(null, "", stateHash(state));
    return location.href;
  }
}

/** "12.7" → {row, column}; "t0" → {token}; anything else null. */
export function parseQuery(text) {
  const token = /^t(\d+)$/.exec(text);
  if (token) return { token: Number(token[1]) };
  const patch = /^(\d+)\.(\d+)$/.exec(text);
  return patch ? { row: Number(patch[1]), column: Number(patch[2]) } : null;
}

// Is the server there, and is it the same one?

import { getJson } from "./api.js";

const CALM = 3000, WORRIED = 800;

export class Health {
  #timer = 0;
  #checking = false;

  /** `changed(gone)` is called when the server goes or comes back, `renewed()` when another one took its place. */
  constructor({ changed, renewed }) {
    this.changed = changed;
    this.renewed = renewed;
    this.session = "";
    this.gone = false;
  }

  watch(session) {
    this.session = session;
    this.#plan();
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  #plan() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.check(), this.gone ? WORRIED : CALM);
  }

  async check() {
    if (this.#checking) return;
    this.#checking = true;
    try {
      if (!document.hidden) await this.#ask();
    } finally {
      this.#checking = false;
      this.#plan();
    }
  }

  async #ask() {
    let session;
    try {
      ({ session } = await getJson("/api/health"));
    } catch {
      if (!this.gone) this.changed((this.gone = true));
      return;
    }
    const other = session !== this.session;
    this.session = session;
    const was = this.gone;
    this.gone = false;
    try {
      if (other) await this.renewed();
      if (was) this.changed(false);
    } catch {
      this.session = ""; // it went away again in the middle: begin anew
      if (!was) this.changed(true);
      this.gone = true;
    }
  }
}

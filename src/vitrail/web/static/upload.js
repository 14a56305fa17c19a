// Pictures from this computer: chosen, dropped or pasted.

import { sendPicture, ServerGone } from "./api.js";
import { find } from "./dom.js";

export class Uploads {
  #files = new Map();
  #depth = 0;

  constructor(explorer, { tell, lost }) {
    this.explorer = explorer;
    this.tell = tell;
    this.lost = lost;
    find("file").addEventListener("change", ({ target }) => {
      this.take([...target.files]);
      target.value = ""; // the same file may be chosen again
    });
    addEventListener("paste", (event) => this.take([...(event.clipboardData?.files ?? [])]));
    addEventListener("dragenter", (event) => this.#drag(event, 1));
    addEventListener("dragleave", (event) => this.#drag(event, -1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.#depth = 0;
      find("drop").hidden = true;
      this.take([...event.dataTransfer.files], event.clientX);
    });
  }

  #drag(event, step) {
    event.preventDefault();
    this.#depth = Math.max(0, this.#depth + step);
    find("drop").hidden = this.#depth === 0 || !event.dataTransfer?.types.includes("Files");
  }

  /** Shows the first file; a second one goes beside it, as does one dropped on the picture beside. */
  async take(files, x = 0) {
    if (!files.length || !this.explorer.server) return;
    const [first, second] = this.explorer.views;
    const beside = !second.figure.hidden && x > first.frame.getBoundingClientRect().right;
    const names = files.length === 1 && beside ? ["picture2"] : ["picture", "picture2"];
    for (const [number, name] of names.slice(0, files.length).entries()) {
      const picture = await this.#send(files[number]);
      if (picture) this.explorer.update({ [name]: picture.id, ...(name === "picture" ? { from: 0, pinned: 0 } : {}) });
    }
  }

  async #send(file) {
    this.tell("");
    document.body.classList.add("sending");
    try {
      const picture = await sendPicture(file);
      this.#files.set(picture.id, file);
      const { pictures } = this.explorer.server;
      if (!pictures.some(({ id }) => id === picture.id)) pictures.push(picture);
      return picture;
    } catch (error) {
      if (error instanceof ServerGone) this.lost();
      else this.tell(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`);
      return null;
    } finally {
      document.body.classList.remove("sending");
    }
  }

  /** Sends again what the server was given and no longer has: all, or some by id. Gives old ids and new ones. */
  async again(ids = [...this.#files.keys()]) {
    const renamed = new Map();
    for (const id of ids) {
      const file = this.#files.get(id);
      if (!file) continue;
      const picture = await sendPicture(file);
      renamed.set(id, picture.id);
      this.#files.set(picture.id, file);
    }
    return renamed;
  }
}

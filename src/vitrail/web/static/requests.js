// Requests while the pointer runs: one at a time, the newest next, everything between dropped.

/** Keeps the latest answers, forgets the one unused for longest. */
export class Kept {
  #values = new Map();

  constructor(limit) {
    this.limit = limit;
  }

  get(key) {
    const value = this.#values.get(key);
    if (value !== undefined) {
      this.#values.delete(key);
      this.#values.set(key, value);
    }
    return value;
  }

  set(key, value) {
    this.#values.set(key, value);
    if (this.#values.size > this.limit) this.#values.delete(this.#values.keys().next().value);
    return value;
  }
}

/** At most one job under way and one waiting; a newer one takes the waiting one's place. */
export class Newest {
  #busy = false;
  #next = null;

  /** Runs `job()` when its turn comes, and never if a newer one came first. The job handles its own errors. */
  run(job) {
    this.#next = job;
    if (!this.#busy) this.#work();
  }

  drop() {
    this.#next = null;
  }

  async #work() {
    this.#busy = true;
    while (this.#next) {
      const job = this.#next;
      this.#next = null;
      await job();
    }
    this.#busy = false;
  }
}

/** Calls back once what was just drawn is on the screen. */
export function afterPaint(callback) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      callback(performance.now());
    };
    channel.port2.postMessage(null);
  });
}

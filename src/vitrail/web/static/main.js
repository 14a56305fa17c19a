// Puts the page together.

import { getBlob, ServerGone } from "./api.js";
import { Controls } from "./controls.js";
import { find } from "./dom.js";
import { Explorer } from "./explorer.js";
import { Health } from "./health.js";
import { listenToKeys } from "./keys.js";
import { Panels } from "./panels.js";
import { showReadout } from "./readout.js";
import { saveNpz, savePng } from "./save.js";
import { listenToTheme } from "./theme.js";
import { Uploads } from "./upload.js";

/** A message that stays until it is closed; "" takes it away. */
function tell(text) {
  const message = find("message");
  message.querySelector("p").textContent = text;
  message.hidden = !text;
}

function banner(text) {
  find("banner").textContent = text;
  find("banner").hidden = !text;
}

const health = new Health({
  changed(gone) {
    explorer.gone = gone;
    banner(gone ? "The server is gone. The page goes on by itself as soon as it is back." : "");
    if (!gone) explorer.sync();
  },
  async renewed() {
    explorer.gone = false;
    await explorer.restart(await uploads.again());
  },
});

const parts = {
  reflect() {
    controls.reflect();
    panels.reflect();
    showReadout(explorer);
    const { picture } = explorer.state;
    find("views").classList.toggle("empty", !picture);
  },
  painted: () => showReadout(explorer),
  strongest: (encoding, query) => (encoding && query ? panels.heads.strongest(encoding, query) : 0),
  lost: () => health.check(),
  resend: () => uploads.again([explorer.state.picture, explorer.state.picture2]),
  tell,
};

const explorer = new Explorer(find("views"), parts);
const controls = new Controls(explorer);
const panels = new Panels(explorer);
const uploads = new Uploads(explorer, { tell, lost: parts.lost });

/** Runs what a button does, and says so when it cannot. */
const attempt = (job) => async (event) => {
  try {
    await job(event);
  } catch (error) {
    if (error instanceof ServerGone) parts.lost();
    else tell(error.message);
  }
};

/** The picture at its own resolution. */
async function photoOf({ encoding }) {
  return createImageBitmap(await getBlob(`/api/pictures/${encoding.picture.id}/image`));
}

const theme = listenToTheme(find("theme"));
const help = () => find("sheet").showModal();
find("help").addEventListener("click", help);
find("sheet").addEventListener("click", (event) => event.target === find("sheet") && find("sheet").close());
find("message").querySelector("button").addEventListener("click", () => tell(""));
find("png").addEventListener("click", attempt(() => savePng(explorer, photoOf)));
find("npz").addEventListener("click", attempt(() => saveNpz(explorer)));
find("copy").addEventListener(
  "click",
  attempt(async ({ currentTarget: button }) => {
    await navigator.clipboard.writeText(explorer.link());
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  }),
);
listenToKeys(explorer, { theme, help });

// For tests and for measuring: what is on the canvas, and how long it took to get there.
window.vitrail = {
  get state() {
    return { ...explorer.state };
  },
  /** Whether all pictures show what is wanted of them. */
  get settled() {
    return explorer.shown.length > 0 && explorer.views.every((view) => view.settled);
  },
  get views() {
    return explorer.shown.map((view) => ({
      painted: view.painted,
      wanted: view.wanted,
      grid: [view.encoding.rows, view.encoding.columns],
      values: view.field && !view.field.rgb ? Array.from(view.field.values) : null,
      match: view.match,
      milliseconds: view.milliseconds,
    }));
  },
  get timings() {
    return explorer.timings;
  },
};

async function begin() {
  try {
    await explorer.start();
    explorer.gone = false;
    banner("");
    health.watch(explorer.server.session);
  } catch (error) {
    if (!(error instanceof ServerGone)) throw error;
    banner("The server does not answer. The page begins as soon as it does.");
    setTimeout(begin, 1000);
  }
}

begin();

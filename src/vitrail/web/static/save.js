// Files to keep: the picture with its map as PNG, the numbers behind it as NPZ.

import { getBlob } from "./api.js";
import { make } from "./dom.js";
import { paintField } from "./heat.js";
import { mapOf } from "./maps.js";

const GAP = 24, FINEST = 64;

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function fileName({ state, asking, layer }, ending) {
  const picture = asking.encoding.picture.name.replace(/\.[^.]*$/, "").replace(/[^\w-]+/g, "-");
  const part = mapOf(state.map).needs.includes("layer") ? [`layer${layer + 1}`, `head-${state.head}`] : [];
  return [picture, state.map, ...part, state.query.replace(".", "-")].join("_") + ending;
}

/** The picture with its map, painted at the resolution of `photo`. */
function composed(view, photo) {
  const { encoding, field, look } = view;
  const canvas = make("canvas", { width: photo.width, height: photo.height });
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0);
  if (field) {
    const heat = make("canvas", {});
    const [low, high] = view.range();
    const factor = Math.min(FINEST, Math.max(2, Math.ceil(photo.width / field.width)));
    paintField(heat, field, { low, high, colours: look.colours, smooth: look.smooth, factor });
    context.globalAlpha = look.opacity / 100;
    context.imageSmoothingEnabled = look.smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(heat, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  const step = { x: canvas.width / encoding.columns, y: canvas.height / encoding.rows };
  const line = Math.max(1, Math.round(canvas.width / 400));
  for (const mark of view.marks.querySelectorAll("rect")) {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(mark.getAttribute(name)));
    context.lineWidth = mark.classList.contains("under") ? 3 * line : line;
    context.strokeStyle = getComputedStyle(mark).stroke;
    const round = Number(mark.getAttribute("rx")) * step.x;
    context.beginPath();
    context.roundRect(x * step.x, y * step.y, width * step.x, height * step.y, round);
    context.stroke();
  }
  return canvas;
}

/** Saves what the stage shows; `photoOf(view)` gives the picture at the best resolution there is. */
export async function savePng(explorer, photoOf) {
  const parts = [];
  for (const view of explorer.shown) parts.push(composed(view, await photoOf(view)));
  if (!parts.length) return;
  const height = Math.max(...parts.map((part) => part.height));
  const widths = parts.map((part) => Math.round((part.width * height) / part.height));
  const sheet = make("canvas", { height, width: widths.reduce((sum, width) => sum + width, GAP * (parts.length - 1)) });
  const context = sheet.getContext("2d");
  let x = 0;
  parts.forEach((part, i) => {
    context.drawImage(part, x, 0, widths[i], height);
    x += widths[i] + GAP;
  });
  const blob = await new Promise((done) => sheet.toBlob(done, "image/png"));
  download(blob, fileName(explorer, ".png"));
}

export async function saveNpz(explorer) {
  const { encoding } = explorer.asking;
  if (!encoding) return;
  download(await getBlob(encoding.npz(explorer.layer, explorer.query)), fileName(explorer, ".npz"));
}

// A field (values on a patch grid) painted on a canvas.
//
// A field is `{values, height, width, low, high, …}`; with `rgb` it carries three bytes per patch and no scale.

import { colourTable } from "./colours.js";

/** Values between patch centres: where each fine row or column lies between two coarse ones. */
function between(coarse, factor) {
  const count = coarse * factor;
  const first = new Uint16Array(count), second = new Uint16Array(count), share = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = Math.min(coarse - 1, Math.max(0, (i + 0.5) / factor - 0.5));
    first[i] = Math.floor(place);
    second[i] = Math.min(coarse - 1, first[i] + 1);
    share[i] = place - first[i];
  }
  return { count, first, second, share };
}

const lines = new Map();

function linesOf(coarse, factor) {
  const key = coarse * 1000 + factor;
  if (!lines.has(key)) lines.set(key, between(coarse, factor));
  return lines.get(key);
}

/** Fine steps per patch: enough for the eye, few enough for every pointer move. */
export function fineness(field) {
  return Math.max(2, Math.min(12, Math.floor(420 / Math.max(field.height, field.width))));
}

/** Bilinear interpolation with values at the patches' centres; `stride` and `offset` pick a channel. */
export function interpolated(values, height, width, factor, stride = 1, offset = 0) {
  const rows = linesOf(height, factor), columns = linesOf(width, factor);
  const fine = new Float32Array(rows.count * columns.count);
  const across = new Float32Array(height * columns.count);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < columns.count; x++, at++) {
      const a = values[(y * width + columns.first[x]) * stride + offset];
      const b = values[(y * width + columns.second[x]) * stride + offset];
      across[at] = a + (b - a) * columns.share[x];
    }
  }
  for (let y = 0, at = 0; y < rows.count; y++) {
    const upper = rows.first[y] * columns.count, lower = rows.second[y] * columns.count, share = rows.share[y];
    for (let x = 0; x < columns.count; x++, at++) {
      const a = across[upper + x];
      fine[at] = a + (across[lower + x] - a) * share;
    }
  }
  return { fine, height: rows.count, width: columns.count };
}

/** Paints a field; the canvas takes as many pixels as the field has patches (or fine steps), CSS stretches it. */
export function paintField(canvas, field, { low, high, colours, smooth, factor }) {
  const step = smooth ? (factor ?? fineness(field)) : 1;
  const height = field.height * step, width = field.width * step;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  if (field.rgb) paintColours(pixels, field, step);
  else {
    const values = smooth ? interpolated(field.values, field.height, field.width, step).fine : field.values;
    const table = colourTable(colours), scale = 255.999 / (high - low || 1);
    for (let i = 0; i < pixels.length; i++) {
      const level = (values[i] - low) * scale;
      pixels[i] = table[level > 0 ? (level < 255 ? level | 0 : 255) : 0];
    }
  }
  context.putImageData(image, 0, 0);
}

function paintColours(pixels, field, step) {
  const channels = [0, 1, 2].map((c) => interpolated(field.rgb, field.height, field.width, step, 3, c).fine);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = (255 << 24) | (channels[2][i] << 16) | (channels[1][i] << 8) | channels[0][i];
  }
}

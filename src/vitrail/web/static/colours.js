// Colour maps: tables of 256 packed colours, a spline through 17 samples of each published map.

const SAMPLES = {
  inferno: "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d04545 e35933 f1711f f98c0a fcaa0f f9c932 f2e865 fcffa4",
  magma: "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c fb8761 fea571 fec287 fde0a1 fcfdbf",
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 3dbc74 5cc863 81d34d aadc32 d5e21a fde725",
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8b8778 9a9376 aaa073 bbad6d ccba64 ddc858 efd748 fee838",
  turbo: "30123b 4040a2 466be3 4294ff 28bceb 18ddc2 32f298 6dfe62 a4fc3c cbed34 ecd13a fdae35 fb8122 ec530f d23105 ac1701 7a0403",
  grey: "000000 101010 202020 303030 404040 505050 606060 707070 808080 8f8f8f 9f9f9f afafaf bfbfbf cfcfcf dfdfdf efefef ffffff",
};

export const COLOUR_MAPS = Object.keys(SAMPLES);

const tables = new Map();

/** Colours of a map as `0xAABBGGRR`, the order in which a canvas keeps its bytes. */
export function colourTable(name) {
  const known = name in SAMPLES ? name : "inferno";
  if (!tables.has(known)) tables.set(known, tableOf(SAMPLES[known].split(" ").map((hex) => parseInt(hex, 16))));
  return tables.get(known);
}

function tableOf(samples) {
  const last = samples.length - 1;
  const channel = (place, shift) => (samples[Math.min(last, Math.max(0, place))] >> shift) & 255;
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * last;
    const at = Math.min(last - 1, Math.floor(place));
    const t = place - at;
    const value = (shift) => {
      const [a, b, c, d] = [-1, 0, 1, 2].map((step) => channel(at + step, shift));
      // Catmull–Rom: passes through the samples, with a smooth slope.
      const bend = (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t * t * t;
      return Math.min(255, Math.max(0, Math.round(b + 0.5 * ((c - a) * t + bend))));
    };
    table[i] = (255 << 24) | (value(0) << 16) | (value(8) << 8) | value(16);
  }
  return table;
}

/** Draws the map from low (left) to high (right) over a canvas one pixel high. */
export function drawRamp(canvas, name) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(colourTable(name));
  context.putImageData(image, 0, 0);
}

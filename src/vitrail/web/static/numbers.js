// Arithmetic on patches: half-precision floats, dot products, the largest values.

let halves = null;

function halfTable() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    let value;
    if (exponent === 0) value = fraction * 2 ** -24;
    else if (exponent === 31) value = fraction ? NaN : Infinity;
    else value = (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -value : value;
  }
  return table;
}

/** Little-endian float16 → Float32Array. */
export function fromHalf(buffer) {
  halves ??= halfTable();
  const bits = new Uint16Array(buffer);
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = halves[bits[i]];
  return values;
}

/** Cosine of one unit vector with every row of unit vectors. */
export function cosines(rows, dim, vector) {
  const count = rows.length / dim;
  const found = new Float32Array(count);
  for (let i = 0, at = 0; i < count; i++) {
    // Four sums: additions need not wait for each other.
    let a = 0, b = 0, c = 0, d = 0, k = 0;
    for (; k + 3 < dim; k += 4, at += 4) {
      a += rows[at] * vector[k];
      b += rows[at + 1] * vector[k + 1];
      c += rows[at + 2] * vector[k + 2];
      d += rows[at + 3] * vector[k + 3];
    }
    for (; k < dim; k++, at++) a += rows[at] * vector[k];
    found[i] = a + b + c + d;
  }
  return found;
}

export function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

/** The value that a share of all values does not exceed. */
export function quantile(values, share) {
  const sorted = Float32Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/** Places of the largest values, the largest first. */
export function largest(values, count, except = -1) {
  const places = Array.from(values.keys()).filter((place) => place !== except);
  places.sort((a, b) => values[b] - values[a]);
  return places.slice(0, count);
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

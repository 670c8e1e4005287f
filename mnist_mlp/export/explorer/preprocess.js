// Turns a picture into 28×28 pixels like MNIST's, by the same steps and constants as
// mnist_mlp/pictures/preprocess.py. A picture is {data, height, width}: row-major, 0 black to
// 1 white.

const WORKING_SIDE = 800;
const SIDE = 28;
const BOX_SIDE = 20;
const FINE_SIDE = 4 * BOX_SIDE;
const MIN_STROKE = 1.5;
const THICKENED_STROKE = 2.5;
const [MAX_STROKE, MAX_LENGTH] = [7.5, 66];

/**
 * Returns the ink, its bounding box, the 28×28 bytes, what was left out, and why nothing looks like
 * one digit, if so; null if there is no ink.
 */
function prepare(grey, centred = true, onlyDark = false) {
  const found = findInk(grey, onlyDark);
  if (!found) return null;
  const { ink, leftOut } = found;
  const box = inkBox(ink);
  const cropped = crop(ink, box);
  const { stroke, length } = measure(pad(scale(cropped, FINE_SIDE), FINE_SIDE / BOX_SIDE));
  const blot = stroke > MAX_STROKE || length > MAX_LENGTH;
  const refusal = found.refusal ?? (blot ? "no digit: what stands out is not a few strokes" : null);
  const pixels = centred ? centre(scale(thicken(cropped), BOX_SIDE)) : withoutCentring(ink);
  return { ink, box, pixels, leftOut, refusal };
}

/**
 * Converts a canvas's ImageData (RGBA bytes) to grey and shrinks it. A transparent background
 * becomes white or black, whichever contrasts more with the rest.
 */
function luminance({ data, height, width }) {
  const light = picture(height, width);
  const opacity = picture(height, width);
  for (let i = 0; i < light.data.length; i++) {
    const [r, g, b, alpha] = [data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]];
    opacity.data[i] = alpha / 255;
    light.data[i] = ((0.299 * r + 0.587 * g + 0.114 * b) / 255) * (alpha / 255);
  }
  const factor = Math.ceil(Math.max(height, width) / WORKING_SIDE);
  const [bright, opaque] = [shrink(light, factor), shrink(opacity, factor)];
  const fill = sum(bright.data) < sum(opaque.data) / 2 ? 1 : 0;
  bright.data.forEach((v, i) => (bright.data[i] = v + (1 - opaque.data[i]) * fill));
  return bright;
}

/** Averages blocks of factor × factor pixels; blocks at the end may be smaller. */
function shrink(grey, factor) {
  if (factor === 1) return grey;
  const out = picture(Math.ceil(grey.height / factor), Math.ceil(grey.width / factor));
  for (let y = 0; y < out.height; y++) {
    for (let x = 0; x < out.width; x++) {
      const bottom = Math.min(grey.height, (y + 1) * factor);
      const right = Math.min(grey.width, (x + 1) * factor);
      let total = 0;
      for (let i = y * factor; i < bottom; i++)
        for (let j = x * factor; j < right; j++) total += grey.data[i * grey.width + j];
      out.data[y * out.width + x] = total / ((bottom - y * factor) * (right - x * factor));
    }
  }
  return out;
}

/** The bounding box {top, bottom, left, right} of the ink; bottom and right are exclusive. */
function inkBox({ data, height, width }) {
  const box = { top: height, bottom: 0, left: width, right: 0 };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      box.top = Math.min(box.top, y);
      box.bottom = y + 1;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
    }
  }
  return box;
}

function crop(from, { top, bottom, left, right }) {
  const out = picture(bottom - top, right - left);
  for (let y = top; y < bottom; y++)
    out.data.set(from.data.subarray(y * from.width + left, y * from.width + right), (y - top) * out.width);
  return out;
}

function pad(inner, by) {
  const out = picture(inner.height + 2 * by, inner.width + 2 * by);
  for (let y = 0; y < inner.height; y++)
    out.data.set(
      inner.data.subarray(y * inner.width, (y + 1) * inner.width),
      (y + by) * out.width + by,
    );
  return out;
}

/** The strokes' width and length, in pixels of the box, of padded ink scaled to `FINE_SIDE`. */
function measure({ data, height, width }) {
  const slope = (at, i, length, step) => {
    const [low, high] = [i > 0 ? 1 : 0, i < length - 1 ? 1 : 0];
    return (data[at + high * step] - data[at - low * step]) / (low + high);
  };
  let edges = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      edges += Math.hypot(slope(at, y, height, width), slope(at, x, width, 1));
    }
  const unit = FINE_SIDE / BOX_SIDE;
  return { stroke: (2 * sum(data)) / edges / unit, length: edges / 2 / unit };
}

/** Thickens strokes that are thinner than MNIST's; returns other ink unchanged. */
function thicken(ink) {
  const fine = pad(scale(ink, FINE_SIDE), FINE_SIDE / BOX_SIDE);
  const { stroke } = measure(fine);
  if (stroke >= MIN_STROKE) return ink;
  const radius = (((THICKENED_STROKE - stroke) / 2) * FINE_SIDE) / BOX_SIDE;
  const reach = Math.ceil(radius);
  const before = pad(fine, reach);
  const thick = picture(before.height, before.width);
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      if (dx * dx + dy * dy > radius * radius) continue;
      for (let y = Math.max(0, dy); y < thick.height + Math.min(0, dy); y++) {
        for (let x = Math.max(0, dx); x < thick.width + Math.min(0, dx); x++) {
          const at = y * thick.width + x;
          const from = before.data[(y - dy) * thick.width + x - dx];
          if (from > thick.data[at]) thick.data[at] = from;
        }
      }
    }
  }
  return crop(thick, inkBox(thick));
}

/** Scales ink so that its longer side has `side` pixels, and its maximum to 1. */
function scale(ink, side) {
  const longer = Math.max(ink.height, ink.width);
  const to = (length) => Math.max(1, roundHalfEven((side * length) / longer));
  const rows = resampling(ink.height, to(ink.height));
  const columns = resampling(ink.width, to(ink.width));
  const out = picture(rows.length, columns.length);
  const narrow = picture(ink.height, columns.length); // ink @ columns.T
  for (let y = 0; y < ink.height; y++)
    columns.forEach(({ start, weights }, x) => {
      let total = 0;
      weights.forEach((w, n) => (total += w * ink.data[y * ink.width + start + n]));
      narrow.data[y * narrow.width + x] = total;
    });
  rows.forEach(({ start, weights }, y) => {
    weights.forEach((w, n) => {
      for (let x = 0; x < out.width; x++)
        out.data[y * out.width + x] += w * narrow.data[(start + n) * narrow.width + x];
    });
  });
  const most = largest(out.data);
  out.data.forEach((v, i) => (out.data[i] = v / most));
  return out;
}

/** For each output pixel, the weights of the input pixels: a triangle filter. */
function resampling(before, after) {
  const ratio = before / after;
  const reach = Math.max(1, ratio);
  return Array.from({ length: after }, (_, i) => {
    const middle = (i + 0.5) * ratio - 0.5;
    const start = Math.max(0, Math.ceil(middle - reach));
    const end = Math.min(before - 1, Math.floor(middle + reach));
    const weights = Array.from({ length: end - start + 1 }, (_, n) =>
      Math.max(0, 1 - Math.abs(start + n - middle) / reach),
    );
    const total = sum(weights);
    return { start, weights: weights.map((w) => w / total) };
  });
}

/** Places a box of at most 20×20 in 28×28 with its centre of mass at the centre, as bytes. */
function centre(box) {
  const mass = sum(box.data);
  let [down, across] = [0, 0];
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      down += box.data[y * box.width + x] * (y + 0.5);
      across += box.data[y * box.width + x] * (x + 0.5);
    }
  }
  const start = (middle, length) =>
    Math.min(Math.max(Math.ceil(SIDE / 2 - middle / mass), 0), SIDE - length);
  return placeBox(box, start(down, box.height), start(across, box.width));
}

/** With centring switched off: scales the whole picture to 28×28. */
function withoutCentring(ink) {
  const small = scale(ink, SIDE);
  return placeBox(small, (SIDE - small.height) >> 1, (SIDE - small.width) >> 1);
}

function placeBox(box, top, left) {
  const out = new Uint8Array(SIDE * SIDE);
  for (let y = 0; y < box.height; y++)
    for (let x = 0; x < box.width; x++)
      out[(top + y) * SIDE + left + x] = roundHalfEven(255 * box.data[y * box.width + x]);
  return out;
}

/** Rounds halves to even, as Python and NumPy do. */
function roundHalfEven(v) {
  const below = Math.floor(v);
  if (v - below !== 0.5) return Math.round(v);
  return below % 2 ? below + 1 : below;
}

const sum = (values) => values.reduce((s, v) => s + v, 0);

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Finds the ink of one digit in a picture, by the same steps and constants as
// mnist_mlp/pictures/ink.py, which explains them.

const MIN_CONTRAST = 0.081;
const MIN_RANGE = 0.25;
const PAPER_WINDOW = 0.4;
const USUAL_SIDE = 16;
const USUAL_WINDOW = 0.8;
const DENOISED_SIDE = 400;
const RULED_SIDE = 100;
const RULING = 0.025;
const [RULING_RUN, RULING_LENGTH] = [1 / 12, 0.6];
const MIN_INK = 0.151;
const STRONG = 0.503;
const KEPT_LEVEL = 0.3;
const SAME_LEVEL = 0.5;
const MIN_PIECE = 0.05;
const GAPS = [0.35, 0.2];
const [RIVAL_INK, RIVAL_LEVEL] = [0.4, 0.75];
const MAX_PIECES = 4;
const MAX_CLUTTER = 0.1;
const AT_BORDER = [1, 0.1, 0.01, 0.001, 0.001];
const AT_BORDER_MILD = [1, 0.3, 0.1, 0.1, 0.1];

const picture = (height, width, data = new Float64Array(height * width)) => ({ data, height, width });

/**
 * Returns {ink, leftOut, refusal}, or null if nothing differs enough from the paper. On the drawing
 * pad, ink is dark; in a photo it may be lighter than its background.
 */
function findInk(grey, onlyDark) {
  const reach = roundHalfEven(Math.min(grey.height, grey.width) / DENOISED_SIDE);
  const smooth = blur(grey, reach);
  const detail = blur(grey, 1).data.map((v, i) => Math.abs(grey.data[i] - v));
  const noise = quartile(detail) / 0.32 / (2 * reach + 1);
  const usual = usualLight(grey);
  const inverted = (from) => ({ ...from, data: from.data.map((v) => 1 - v) });
  const dark = findDark(smooth, usual, noise);
  if (onlyDark) return dark;
  const light = findDark(inverted(smooth), inverted(usual), noise);
  return light && !(dark?.score >= light.score) ? light : dark;
}

/** Finds dark ink. `usual` is the brightness around each pixel, `sigma` the noise of `light`. */
function findDark(light, usual, sigma) {
  const { height, width } = light;
  const shorter = Math.min(height, width);
  const window = odd(Math.max(3, PAPER_WINDOW * shorter));
  const paper = lowest(highest(light, window, window), window, window);
  const range = paper.data.map((v) => Math.max(MIN_RANGE, v));
  const raw = light.data.map((v, i) => (paper.data[i] - v) / range[i]);
  const base = quartile(raw);
  const strength = picture(height, width, raw.map((v) => Math.max(v - base, 0)));
  const noise = sigma / (sum(range) / range.length);
  const weakest = Math.max(MIN_CONTRAST, 6 * noise);
  if (largest(strength.data) < weakest) return null;
  const threshold = Math.max(MIN_CONTRAST / 2, 4 * noise);
  let unruled = strength;
  if (shorter >= RULED_SIDE)
    unruled = transpose(removeLines(transpose(removeLines(strength, threshold)), threshold));
  if (largest(unruled.data) < weakest) unruled = strength;
  const pieces = separate(unruled, threshold);
  const { main } = pieces;
  const { kept, border, leftOut, refusal } = choosePieces(pieces);
  const vanished = strength.data.reduce((n, v, i) => n + (v > threshold && unruled.data[i] <= threshold), 0);
  if (vanished > RULING_LENGTH * shorter) leftOut.unshift("ruled lines");
  const chosen = picture(height, width, Uint8Array.from(pieces.labels, (label) => kept[label]));
  const around = 2 * roundHalfEven(shorter / DENOISED_SIDE) + 3;
  const keep = highest(chosen, around, around).data;
  const known = picture(height, width, mask(pieces.labels, (name) => kept[name] || border[name]));
  const cluttered = clutter(unruled, chosen, known) > MAX_CLUTTER * pieces.level[main];
  const inside = unruled.data.filter((_, i) => keep[i]);
  const most = largest(inside);
  const full = median(inside.filter((v) => v > STRONG * most));
  const floor = Math.min(3 * noise, full / 4);
  const ink = unruled.data.map((v, i) => {
    const amount = Math.min(1, Math.max(0, (v - floor) / (full - floor)));
    return keep[i] && amount > MIN_INK ? amount : 0;
  });
  let evidence = 0;
  chosen.data.forEach((yes, i) => {
    if (yes) evidence += Math.min(strength.data[i], Math.max(usual.data[i] - light.data[i], 0)) ** 3;
  });
  if (evidence === 0) return null;
  return {
    ink: picture(height, width, ink),
    score: evidence * AT_BORDER_MILD[pieces.sides[main]],
    leftOut,
    refusal: refusal ?? (cluttered ? "no digit on plain paper: there is as much around the strokes" : null),
  };
}

/** Removes long thin horizontal lines, but not the strokes that cross them. */
function removeLines(strength, threshold) {
  const { height, width } = strength;
  const dark = picture(height, width, mask(strength.data, (v) => v > threshold));
  const run = odd(RULING_RUN * width);
  const { labels, boxes } = connected(highest(lowest(highest(dark, 3, 1), 1, run), 1, run).data, height, width);
  const long = Uint8Array.from(boxes, (box) => box.right - box.left > RULING_LENGTH * width);
  const lines = highest(picture(height, width, mask(labels, (name) => long[name])), 3, 1).data;
  const tall = odd(Math.max(3, RULING * Math.min(height, width)));
  const thick = highest(lowest(strength, tall, 1), tall, 1).data;
  return picture(height, width, strength.data.map((v, i) => (lines[i] ? thick[i] : v)));
}

/** Divides the ink into pieces at the threshold that separates the digit best. */
function separate(strength, lowestThreshold) {
  const most = largest(strength.data) / 2;
  let [best, chosen] = [piecesOf(strength, lowestThreshold), lowestThreshold];
  for (let threshold = 2 * lowestThreshold; threshold < most; threshold *= 2) {
    const pieces = piecesOf(strength, threshold);
    if (pieces.score[pieces.main] > best.score[best.main]) [best, chosen] = [pieces, threshold];
  }
  return piecesOf(strength, Math.max(chosen, KEPT_LEVEL * best.level[best.main]));
}

/** Finds connected dark pieces; entry 0 of each list is the paper's. */
function piecesOf(strength, threshold) {
  const { data, height, width } = strength;
  const { labels, boxes } = connected(mask(data, (v) => v > threshold), height, width);
  const [ink, squares] = [new Float64Array(boxes.length), new Float64Array(boxes.length)];
  for (let i = 0; i < labels.length; i++) {
    if (!labels[i]) continue;
    ink[labels[i]] += data[i];
    squares[labels[i]] += data[i] * data[i];
  }
  const level = squares.map((v, n) => v / Math.max(ink[n], 1e-12));
  const sides = boxes.map((b, n) => n && (b.top === 0) + (b.left === 0) + (b.bottom === height) + (b.right === width));
  const score = ink.map((v, n) => v * level[n] * AT_BORDER[sides[n]]);
  const size = boxes.map((b) => Math.max(b.bottom - b.top, b.right - b.left));
  return { labels, height, width, ink, level, size, sides, score, main: argmax(score) };
}

/** Decides which pieces are the digit; says what is left out, or why none is one. */
function choosePieces({ labels, height, width, ink, level, size, sides, main }) {
  const near = highest(
    picture(height, width, mask(labels, (name) => name)),
    ...GAPS.map((gap) => odd(gap * size[main])),
  );
  const groups = connected(near.data, height, width).labels;
  const group = [];
  for (let i = 0; i < labels.length; i++) if (labels[i]) group[labels[i]] = groups[i];
  const whys = Array.from(ink, (v, n) => {
    if (v < MIN_PIECE * ink[main]) return "speck";
    if (sides[n] && !sides[main]) return "at the border";
    if (level[n] < SAME_LEVEL * level[main]) return "fainter";
    return group[n] === group[main] ? "" : "apart";
  });
  const total = sum(ink.filter((_, n) => !whys[n]));
  const rival = (n) => ink[n] > RIVAL_INK * total && level[n] > RIVAL_LEVEL * level[main];
  const rivals = whys.filter((why, n) => why === "apart" && rival(n)).length;
  const count = whys.filter((why) => !why).length;
  let refusal = null;
  if (rivals) refusal = `${rivals + 1} things could be the digit; leave one in the picture`;
  else if (count > MAX_PIECES) refusal = `no digit: what stands out is in ${count} pieces`;
  const leftOut = ["at the border", "fainter", "apart"]
    .map((reason) => [whys.filter((why) => why === reason).length, reason])
    .filter(([n]) => n)
    .map((entry) => entry.join(" "));
  return {
    kept: whys.map((why) => !why),
    border: whys.map((why) => why === "at the border"),
    leftOut,
    refusal,
  };
}

/** The mean strength of what is not `known`, in a box around what is chosen. */
function clutter(strength, chosen, known) {
  const { top, bottom, left, right } = inkBox(chosen);
  const size = Math.max(bottom - top, right - left);
  const margin = Math.floor(size / 5);
  const around = 2 * Math.floor(size / 20) + 3;
  const near = highest(known, around, around).data;
  let [total, count] = [0, 0];
  for (let y = Math.max(0, top - margin); y < Math.min(strength.height, bottom + margin); y++) {
    for (let x = Math.max(0, left - margin); x < Math.min(strength.width, right + margin); x++) {
      const at = y * strength.width + x;
      if (near[at]) continue;
      total += strength.data[at];
      count++;
    }
  }
  return count ? total / count : 0;
}

/** The median brightness around each pixel, in blocks. */
function usualLight({ data, height, width }) {
  const factor = Math.ceil(Math.max(height, width) / USUAL_SIDE);
  const small = shrink({ data, height, width }, factor);
  const reach = odd(USUAL_WINDOW * Math.min(small.height, small.width)) >> 1;
  const offsets = Array.from({ length: 2 * reach + 1 }, (_, i) => i - reach);
  const usual = picture(small.height, small.width);
  for (let y = 0; y < small.height; y++)
    for (let x = 0; x < small.width; x++)
      usual.data[y * small.width + x] = median(
        offsets.flatMap((dy) =>
          offsets.map((dx) => small.data[mirror(y + dy, small.height) * small.width + mirror(x + dx, small.width)]),
        ),
      );
  const out = picture(height, width);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      out.data[y * width + x] = usual.data[Math.floor(y / factor) * small.width + Math.floor(x / factor)];
  return out;
}

/** Averages windows that reach `reach` pixels in each direction; beyond its edge a picture is mirrored. */
function blur(from, reach) {
  if (!reach) return from;
  let { data } = from;
  const { height, width } = from;
  for (const [length, step] of [[height, width], [width, 1]]) {
    const before = data;
    data = before.map((_, at) => {
      const place = Math.floor(at / step) % length;
      let total = 0;
      for (let d = -reach; d <= reach; d++)
        total += before[at + (mirror(place + d, length) - place) * step];
      return total / (2 * reach + 1);
    });
  }
  return picture(height, width, data);
}

function mirror(place, length) {
  while (place < 0 || place >= length) place = place < 0 ? -1 - place : 2 * length - 1 - place;
  return place;
}

/** The highest value in a window of rows × columns around each pixel. Both are odd. */
function highest(from, rows, columns, sign = 1) {
  let { data } = from;
  const { height, width } = from;
  for (const [size, count, step, lines, jump] of [[rows, height, width, width, 1], [columns, width, 1, height, width]]) {
    if (size === 1) continue;
    const [before, after] = [data, new data.constructor(data.length)];
    const reach = size >> 1;
    // Places in the line, and their values, which fall from first to last.
    const [places, values] = [new Int32Array(count), new Float64Array(count)];
    for (let start = 0; start < lines * jump; start += jump) {
      let [first, last] = [0, -1];
      for (let i = 0; i < count + reach; i++) {
        if (i < count) {
          const v = sign * before[start + i * step];
          while (last >= first && values[last] <= v) last--;
          places[++last] = i;
          values[last] = v;
        }
        if (i < reach) continue;
        if (places[first] < i - 2 * reach) first++;
        after[start + (i - reach) * step] = sign * values[first];
      }
    }
    data = after;
  }
  return picture(height, width, data);
}

const lowest = (from, rows, columns) => highest(from, rows, columns, -1);

/** Numbers connected pieces (8 neighbours) from 1; returns each pixel's number and each piece's box. */
function connected(dark, height, width) {
  const labels = new Int32Array(dark.length);
  const boxes = [{ top: 1, bottom: 1, left: 1, right: 1 }];
  const open = [];
  for (let start = 0; start < dark.length; start++) {
    if (!dark[start] || labels[start]) continue;
    const name = boxes.length;
    const box = { top: height, bottom: 0, left: width, right: 0 };
    labels[start] = name;
    open.push(start);
    while (open.length) {
      const at = open.pop();
      const y = Math.floor(at / width);
      const x = at % width;
      box.top = Math.min(box.top, y);
      box.bottom = Math.max(box.bottom, y + 1);
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      for (let i = Math.max(0, y - 1); i <= Math.min(height - 1, y + 1); i++) {
        for (let j = Math.max(0, x - 1); j <= Math.min(width - 1, x + 1); j++) {
          const next = i * width + j;
          if (dark[next] && !labels[next]) {
            labels[next] = name;
            open.push(next);
          }
        }
      }
    }
    boxes.push(box);
  }
  return { labels, boxes };
}

function transpose({ data, height, width }) {
  const out = picture(width, height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out.data[x * height + y] = data[y * width + x];
  return out;
}

/** Ones where a test of the value holds, else zeros. */
function mask(values, test) {
  const out = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = test(values[i]) ? 1 : 0;
  return out;
}

const odd = (length) => 2 * Math.floor(length / 2) + 1;
const quartile = (values) => Float64Array.from(values).sort()[Math.floor(values.length / 4)];

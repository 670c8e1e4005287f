// Helpers for the panels: elements, number formats, colours, grids of numbers, charts.

const byId = (id) => document.getElementById(id);
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const sub = (number) => String(number).replace(/\d/g, (d) => SUBSCRIPTS[d]);
const SVG = "http://www.w3.org/2000/svg";

/** Creates an element. Strings become text nodes, never markup. */
function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Number formats

/** Formats with significant digits and a minus sign; very small and large numbers with a power. */
function number(v, digits = 3) {
  if (Number.isNaN(v)) return "not a number";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  const size = Math.abs(v);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return power(v, Math.min(3, Math.max(2, digits)));
  return fixed(v, Math.min(8, Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1)))));
}

function power(v, digits = 2) {
  const [mantissa, exponent] = v.toExponential(digits - 1).split("e");
  const raised = [...exponent.replace("+", "")].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  return `${mantissa} × 10${raised.join("")}`.replace("-", "−");
}

const fixed = (v, decimals) => v.toFixed(decimals).replace(/^-(?=[0.]*$)/, "").replace("-", "−"); // no −0
const counted = (v) => v.toLocaleString("en");
const percent = (p) => (p > 0.9995 && p < 1 ? "> 99.9%" : `${(100 * p).toFixed(1)}%`);
const signed = (v, digits = 3) => (v < 0 ? number(v, digits) : `+${number(v, digits)}`);

// Colours: blue for positive, orange for negative; distinguishable with any colour vision

const theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["zero", "plus", "minus", "ink", "quiet", "line", "accent"]) {
    const text = style.getPropertyValue(`--${name}`).trim();
    theme[name] = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  }
}

const css = ([r, g, b]) => `rgb(${Math.round(r)} ${Math.round(g)} ${Math.round(b)})`;

/** From orange (−most) through the background colour (0) to blue (most). */
function diverging(v, most) {
  const t = most > 0 ? Math.min(1, Math.abs(v) / most) ** 0.7 : 0;
  const end = v < 0 ? theme.minus : theme.plus;
  return theme.zero.map((zero, c) => zero + (end[c] - zero) * (Number.isFinite(t) ? t : 1));
}

/** A pixel, 0 black to 1 white, in both themes. */
const greyscale = (v) => [255 * v, 255 * v, 255 * v];

/** Fills a canvas with values as coloured cells, row-major; frames the cell `mark`. */
function paint(canvas, values, columns, { grey = false, most = largest(values), mark = -1 } = {}) {
  const rows = Math.ceil(values.length / columns);
  const image = new ImageData(columns, rows);
  for (let i = 0; i < values.length; i++) {
    const [r, g, b] = grey ? greyscale(values[i]) : diverging(values[i], most);
    image.data.set([r, g, b, 255], 4 * i);
  }
  const small = (paint.small ??= document.createElement("canvas"));
  [small.width, small.height] = [columns, rows];
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (mark >= 0) {
    const [w, h] = [canvas.width / columns, canvas.height / rows];
    context.lineWidth = 3;
    context.strokeStyle = css(theme.accent);
    context.strokeRect((mark % columns) * w - 1, Math.floor(mark / columns) * w * (h / w) - 1, w + 2, h + 2);
  }
}

/** Columns of the grid that shows `length` values: 28 for an image, else wider than high. */
function columnsOf(length) {
  if (length === SIDE * SIDE) return SIDE;
  if (length <= 12) return length;
  return 2 ** Math.round(Math.log2(Math.sqrt(length * 1.4)));
}

/**
 * Makes a canvas of cells usable by arrow keys, which call `choose(cell)`. Returns `pointed`, which
 * maps a pointer event to its cell, or −1.
 */
function gridCanvas(canvas, shape, current, choose) {
  const pointed = (event) => {
    const { columns, count } = shape();
    const rows = Math.ceil(count / columns);
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const cell = y * columns + x;
    return x >= 0 && x < columns && y >= 0 && cell < count ? cell : -1;
  };
  canvas.addEventListener("keydown", (event) => {
    const { columns, count } = shape();
    const next = stepped(event.key, current(), columns, count);
    if (next === null) return;
    event.preventDefault();
    choose(next);
  });
  return { pointed };
}

/** The cell that an arrow key, Home or End leads to; null for other keys. */
function stepped(key, at, columns, count) {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (by === undefined) return null;
  const next = at + by;
  return next >= 0 && next < count ? next : at;
}

/** Roving tabindex: one button is in the tab order, arrow keys move to the others. */
function roving(holder, columns) {
  holder.addEventListener("keydown", (event) => {
    const buttons = [...holder.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    const next = stepped(event.key, at, columns(buttons), buttons.length);
    if (next === null) return;
    event.preventDefault();
    buttons.forEach((button, i) => (button.tabIndex = i === next ? 0 : -1));
    buttons[next].focus();
  });
}

/** The number of elements in the first row. */
const inFirstRow = (elements) =>
  Math.max(1, elements.filter((e) => e.offsetTop === elements[0].offsetTop).length);

// Charts

/**
 * Draws the axes of an SVG chart. Its units are CSS pixels, so its text has the page's size.
 * Returns the scales and functions that add elements and lines.
 */
function chart(root, { height, x, y, xText = "", yText = "", xTicks, yTicks, label, left = 46 }) {
  const width = Math.max(240, root.clientWidth || 420);
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.style.height = `${height}px`;
  root.setAttribute("aria-label", label);
  root.replaceChildren();
  const [top, right, bottom] = [28, 14, 38];
  const sx = (v) => left + ((v - x[0]) / (x[1] - x[0] || 1)) * (width - left - right);
  const sy = (v) => height - bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom);
  const add = (tag, properties, ...children) => {
    const made = svg(tag, properties, ...children);
    root.append(made);
    return made;
  };
  for (const [at, text] of yTicks ?? ticks(y)) {
    add("line", { x1: left, x2: width - right, y1: sy(at), y2: sy(at), class: "gridline" });
    add("text", { x: left - 6, y: sy(at) + 4, "text-anchor": "end" }, text);
  }
  for (const [at, text] of xTicks ?? ticks(x))
    add("text", { x: sx(at), y: height - bottom + 16, "text-anchor": "middle" }, text);
  add("text", { x: width - right, y: height - 5, "text-anchor": "end", class: "axis" }, xText);
  add("text", { x: 0, y: 12, class: "axis" }, yText);
  const line = (points, properties) => add("path", { d: path(points, sx, sy), ...properties });
  return { add, line, sx, sy, width, height, left, right, top, bottom };
}

function path(points, sx, sy) {
  let [d, lifted] = ["", true];
  for (const [px, py] of points) {
    if (!Number.isFinite(py)) {
      lifted = true;
      continue;
    }
    d += `${lifted ? "M" : "L"}${sx(px).toFixed(1)} ${sy(py).toFixed(1)}`;
    lifted = false;
  }
  return d;
}

/** Up to about five round numbers in a range, as [value, text]. */
function ticks([low, high], most = 5) {
  const span = high - low || 1;
  const rough = span / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) {
    const text = Math.abs(v) >= 1e5 ? power(v) : fixed(Math.abs(v) < step / 1e6 ? 0 : v, decimals);
    found.push([v, text]);
  }
  return found;
}

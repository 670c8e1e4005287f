// The state that all panels share: the selected image, label, neuron and input, and the weights.
// A panel redraws when something that it shows has changed and it is visible.

const data = JSON.parse(byId("page-data").textContent);
const CLASSES = 10;

function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

/** The trained network: stored as float32, used as float64. */
const trained = (() => {
  const flat = decode(data.weights, Float32Array);
  const net = { sizes: data.sizes, W: [], b: [] };
  let at = 0;
  const take = (count) => Float64Array.from(flat.subarray(at, (at += count)));
  for (let k = 0; k < data.sizes.length - 1; k++) {
    net.W.push(take(data.sizes[k] * data.sizes[k + 1]));
    net.b.push(take(data.sizes[k + 1]));
  }
  return net;
})();

const layerCount = trained.W.length;
const parameterCount = trained.W.reduce((n, W, k) => n + W.length + trained.b[k].length, 0);
let net = copyNetwork(trained);

/** Pixels as in PyTorch: byte / 255, rounded to float32. */
const toInput = (pixels) => Float64Array.from(pixels, (v) => Math.fround(v / 255));

const examples = (() => {
  const bytes = decode(data.images, Uint8Array);
  const logits = decode(data.logits, Float64Array);
  return data.labels.map((label, i) => {
    const pixels = bytes.subarray(784 * i, 784 * (i + 1));
    const theirs = logits.subarray(CLASSES * i, CLASSES * (i + 1));
    return { pixels, x: toInput(pixels), label, index: data.indexes[i], logits: theirs, predicted: argmax(theirs) };
  });
})();

// The first image shown is a correctly classified seven, as in the lesson.
const isCorrect = (digit) => (e) => e.predicted === e.label && (digit === null || e.label === digit);
const opening = [7, null].map((digit) => examples.findIndex(isCorrect(digit))).find((i) => i >= 0) ?? 0;

const state = {
  image: opening, // an index into examples, or -1 for the user's drawing
  pixels: null, // the drawing, as bytes
  label: examples[opening].label,
  layer: 0,
  neuron: 0,
  input: 0, // the selected input of that neuron
  step: "input",
  altered: "", // describes how the weights were changed; empty for the trained weights
};

/** The image that is shown: {pixels, x, label, index}; label and index are null for a drawing. */
function shown() {
  if (state.image >= 0) return examples[state.image];
  if (!shown.drawn || shown.drawn.pixels !== state.pixels)
    shown.drawn = { pixels: state.pixels, x: toInput(state.pixels), label: null, index: null };
  return shown.drawn;
}

// Results for the current state, cached until it changes

const cache = {};

function forwardPass() {
  if (!cache.forward) {
    const start = performance.now();
    cache.forward = forward(net, shown().x);
    cache.milliseconds = performance.now() - start;
  }
  return cache.forward;
}

/** Loss, gradients and ∂L/∂z for the shown image and the selected label. */
function backwardPass() {
  if (!cache.backward) {
    const gradients = zeroGradients(net);
    const dz = backward(net, forwardPass(), state.label, gradients);
    cache.backward = { loss: crossEntropy(forwardPass().logits, state.label), gradients, dz };
  }
  return cache.backward;
}

/** Forward passes of all images in the page, with the current weights. */
function allPasses() {
  cache.all ??= examples.map(({ x }) => forward(net, x));
  return cache.all;
}

// Changes

const watchers = [];
const visible = new Set();

/** Calls `draw` when one of the keys has changed and the section is visible. */
function watch(section, keys, draw) {
  watchers.push({ section, keys, draw, stale: true });
}

/**
 * Reports changes: image, label, neuron, input, weights, size (also the colour scheme), or a
 * panel's own key.
 */
function changed(...keys) {
  if (keys.includes("image") || keys.includes("weights")) {
    delete cache.forward;
    delete cache.backward;
  }
  if (keys.includes("weights")) delete cache.all;
  if (keys.includes("label")) delete cache.backward;
  for (const watcher of watchers)
    if (keys.includes("size") || watcher.keys.some((key) => keys.includes(key))) watcher.stale = true;
  changed.waiting ??= requestAnimationFrame(redraw);
  saveState();
}

function redraw(everything = false) {
  changed.waiting = null;
  for (const watcher of watchers) {
    if (!watcher.stale || !(everything === true || visible.has(watcher.section))) continue;
    watcher.stale = false;
    watcher.draw();
  }
}

function showImage(place) {
  state.image = place;
  state.label = examples[place].label;
  changed("image", "label");
}

function showDrawing(pixels) {
  const first = state.image >= 0;
  state.image = -1;
  state.pixels = pixels;
  changed("image");
  if (first || !state.labelChosen) {
    state.label = argmax(forwardPass().p); // until the user selects a label
    changed("label");
  }
}

function chooseLabel(label) {
  state.label = label;
  state.labelChosen = true;
  changed("label");
}

function chooseNeuron(layer, neuron) {
  state.layer = layer;
  state.neuron = neuron;
  state.input = Math.min(state.input, inputsOf(net, layer) - 1);
  if (layer > 0 || shown().x[state.input] === 0) state.input = strongestInput();
  changed("neuron", "input");
}

/** The input with the largest |weight × input| of the selected neuron. */
function strongestInput() {
  const a = forwardPass().a[state.layer];
  const row = state.neuron * a.length;
  return argmax(Array.from(a, (v, j) => Math.abs(v * net.W[state.layer][row + j])));
}

function setWeights(how) {
  state.altered = how;
  changed("weights");
}

// The address fragment stores the state, so that it can be shared as a link:
// #step=…&image=…&label=…&neuron=…&input=…

/** Encodes bytes as hexadecimal; a run of zeros becomes z, its length and a dot. */
const packed = (pixels) =>
  Array.from(pixels, (v) => v.toString(16).padStart(2, "0"))
    .join("")
    .replace(/(?:00){3,}/g, (run) => `z${run.length / 2}.`);

function unpacked(text) {
  const hex = text.replace(/z(\d{1,3})\./g, (_, count) => "00".repeat(Number(count)));
  if (!/^[0-9a-f]{1568}$/.test(hex)) return null;
  return Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
}

function address() {
  const parts = new URLSearchParams({ step: state.step });
  if (state.image >= 0) parts.set("image", shown().index);
  else parts.set("pixels", packed(state.pixels));
  parts.set("label", state.label);
  parts.set("neuron", `${state.layer + 1}.${state.neuron}`);
  parts.set("input", state.input);
  return `#${parts}`;
}

function saveState() {
  clearTimeout(saveState.timer); // browsers limit how often the address may change
  saveState.timer = setTimeout(() => {
    if (location.hash !== address()) history.replaceState(null, "", address());
  }, 150);
}

/** Restores the state from the address and ignores invalid parts. Returns the step, or null. */
function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const whole = (name, below) => {
    const text = parts.get(name) ?? "";
    return /^\d{1,6}$/.test(text) && Number(text) < below ? Number(text) : null;
  };
  const place = data.indexes.indexOf(whole("image", 1e6));
  const pixels = unpacked(parts.get("pixels") ?? "");
  if (place >= 0) {
    state.image = place;
    state.label = examples[place].label;
  } else if (pixels) {
    state.image = -1;
    state.pixels = pixels;
  }
  state.label = whole("label", CLASSES) ?? state.label;
  state.labelChosen = parts.has("label");
  const [layer, neuron] = (parts.get("neuron") ?? "").split(".").map(Number);
  if (layer >= 1 && layer <= layerCount && neuron >= 0 && neuron < outputsOf(net, layer - 1)) {
    state.layer = Math.floor(layer) - 1;
    state.neuron = Math.floor(neuron);
  }
  const input = whole("input", inputsOf(net, state.layer));
  if (input !== null) state.input = input;
  changed("image", "label", "neuron", "input");
  const step = parts.get("step") ?? location.hash.slice(1);
  return document.querySelector(`main > section[id="${CSS.escape(step)}"]`) ? step : null;
}

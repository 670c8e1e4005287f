// What is chosen, and who wants to know. The image, the label, the neuron and the input flow
// through all panels; each panel redraws when something that it shows has changed and it is in
// sight.

const data = JSON.parse(byId("page-data").textContent);
const CLASSES = 10;

function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

/** The weights as they were trained: float32 in the file, float64 in all that is computed. */
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

/** Pixels as PyTorch has them: byte / 255, rounded to float32. */
const toInput = (pixels) => Float64Array.from(pixels, (v) => Math.fround(v / 255));

const examples = (() => {
  const bytes = decode(data.images, Uint8Array);
  const logits = decode(data.logits, Float64Array);
  return data.labels.map((label, i) => {
    const pixels = bytes.subarray(784 * i, 784 * (i + 1));
    const theirs = logits.subarray(CLASSES * i, CLASSES * (i + 1));
    return { pixels, x: toInput(pixels), label, index: data.indexes[i], logits: theirs, said: argmax(theirs) };
  });
})();

// To begin with: a seven, as in the lesson, that is read right
const isRead = (digit) => (e) => e.said === e.label && (digit === null || e.label === digit);
const opening = [7, null].map((digit) => examples.findIndex(isRead(digit))).find((i) => i >= 0) ?? 0;

const state = {
  image: opening, // a place in examples, or -1: what was drawn
  pixels: null, // of what was drawn, bytes
  label: examples[opening].label,
  layer: 0,
  neuron: 0,
  input: 0, // of the chosen neuron: what its weight belongs to
  step: "input",
  altered: "", // what was done to the weights, in words
};

/** The image that is shown: {pixels, x, label, index}; index and label are null of a drawing. */
function shown() {
  if (state.image >= 0) return examples[state.image];
  if (!shown.drawn || shown.drawn.pixels !== state.pixels)
    shown.drawn = { pixels: state.pixels, x: toInput(state.pixels), label: null, index: null };
  return shown.drawn;
}

// What follows from it, computed once after each change

const cache = {};

function pass() {
  if (!cache.pass) {
    const start = performance.now();
    cache.pass = forward(net, shown().x);
    cache.milliseconds = performance.now() - start;
  }
  return cache.pass;
}

/** Loss, gradients and ∂L/∂z of the shown image and the chosen label. */
function blame() {
  if (!cache.blame) {
    const gradients = zeroGradients(net);
    const dz = backward(net, pass(), state.label, gradients);
    cache.blame = { loss: crossEntropy(pass().logits, state.label), gradients, dz };
  }
  return cache.blame;
}

/** Every bundled image forward through the weights as they are. */
function allPasses() {
  cache.all ??= examples.map(({ x }) => forward(net, x));
  return cache.all;
}

// Changes

const watchers = [];
const visible = new Set();

/** Call `draw` after a change of any of the keys, once the section is in sight. */
function watch(section, keys, draw) {
  watchers.push({ section, keys, draw, stale: true });
}

/**
 * Tell what has changed: image, label, neuron, input, weights, size (of the window, or its
 * colours), or a panel's own key.
 */
function changed(...keys) {
  if (keys.includes("image") || keys.includes("weights")) {
    delete cache.pass;
    delete cache.blame;
  }
  if (keys.includes("weights")) delete cache.all;
  if (keys.includes("label")) delete cache.blame;
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
    state.label = argmax(pass().p); // until the reader says what it was meant to be
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

/** The input that adds most to the chosen neuron's sum, or takes most away. */
function strongestInput() {
  const a = pass().a[state.layer];
  const row = state.neuron * a.length;
  return argmax(Array.from(a, (v, j) => Math.abs(v * net.W[state.layer][row + j])));
}

function weightsChanged(how) {
  state.altered = how;
  changed("weights");
}

// The address: what is chosen as #step=…&image=…&label=…&neuron=…&input=…, so that it can be linked

/** Bytes as hexadecimal, runs of 0 as z and their length. */
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
  clearTimeout(saveState.timer); // a browser takes only so many changes of the address a second
  saveState.timer = setTimeout(() => {
    if (location.hash !== address()) history.replaceState(null, "", address());
  }, 150);
}

/** Take over what an address says; what makes no sense is passed over. Returns the step, if any. */
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

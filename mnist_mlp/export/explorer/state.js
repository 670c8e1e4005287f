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
  const net = { sizes: data.sizes, activation: data.activation, W: [], b: [] };
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

const isMistake = ({ label, predicted }) => predicted !== label;

/** The places in `examples` of the images chosen at random, on which the page measures and trains. */
const randomPlaces = Array.from({ length: data.random }, (_, i) => i);

/** The page's 30 most confident mistakes, then the random images, digit by digit. */
const galleryPlaces = (() => {
  const sure = examples.map(({ logits }) => Math.max(...softmax(logits)));
  const mistakes = examples.map((_, i) => i).filter((i) => isMistake(examples[i])).sort((i, j) => sure[j] - sure[i]).slice(0, 30);
  const others = randomPlaces.filter((i) => !mistakes.includes(i)).sort((i, j) => examples[i].label - examples[j].label);
  return [...mistakes, ...others];
})();

// The first image shown is a correctly classified seven, as in the lesson.
const isCorrect = (digit) => (e) => !isMistake(e) && (digit === null || e.label === digit);
const opening = [7, null].map((digit) => examples.findIndex(isCorrect(digit))).find((i) => i >= 0) ?? 0;

const state = {
  image: opening, // an index into examples, or -1 for the user's drawing
  pixels: null, // the drawing, as bytes
  label: examples[opening].label, // null for a drawing until one is chosen
  pixel: 14 * SIDE + 14, // the selected pixel of the image
  layer: 0,
  neuron: 0,
  input: 0, // the selected input of that neuron
  step: "input",
  broken: [], // how the weights were changed, as in breaks.js; empty for the trained weights
  padBlank: true, // whether the next stroke begins a drawing
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

/** Loss, gradients and ∂L/∂z for the shown image and the selected label, which is not null. */
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

const testImages = data.confusion.flat().reduce((s, v) => s + v, 0);

/** How many of the random images a function from {x} and place to logits reads correctly. */
const countRight = (logitsOf) => randomPlaces.filter((i) => argmax(logitsOf(examples[i], i)) === examples[i].label).length;
const rightNow = () => countRight((_, i) => allPasses()[i].logits);
const rightTrained = countRight(({ logits }) => logits);

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

/** Shows a drawing. A new one has no label until one is chosen; one more stroke keeps the label. */
function showDrawing(pixels) {
  if (state.image >= 0 || state.padBlank) state.label = null;
  state.padBlank = false;
  state.image = -1;
  state.pixels = pixels;
  changed("image", "label");
}

function chooseLabel(label) {
  state.label = label;
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

/** Step 7's learning rate, of two digits, so that 0.2 and 0.5 are among the slider's values. */
const learningRate = () => Number((10 ** Number(byId("rate").value)).toPrecision(2));

function setRate(rate) {
  byId("rate").value = Math.log10(rate);
  changed("rate");
}

/** Reports that steps were taken. */
function tookSteps() {
  state.broken = withBreak(state.broken, "trained");
  changed("weights");
}

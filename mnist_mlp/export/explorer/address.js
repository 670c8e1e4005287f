// The address holds the state, so that it can be shared as a link:
// #step=…&image=…&label=…&neuron=…&input=…&rate=…&broken=…; a drawing has pixels=… for image=….

const LINK_PARTS = ["step", "image", "pixels", "label", "neuron", "input", "rate", "broken"];
const FIRST_RATE = 0.1;

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
  if (state.label !== null) parts.set("label", state.label);
  parts.set("neuron", `${state.layer + 1}.${state.neuron}`);
  parts.set("input", state.input);
  if (learningRate() !== FIRST_RATE) parts.set("rate", learningRate());
  if (state.broken.length) parts.set("broken", state.broken.join("-"));
  return `#${parts}`;
}

/** Saves the state soon: browsers limit how often the address may change, Safari to 100 in 30 s. */
function saveState() {
  saveState.timer ??= setTimeout(() => {
    saveState.timer = null;
    if (location.hash !== address()) history.replaceState(null, "", address());
  }, 350);
}

const nearestOf = (values, to) => values.reduce((best, v) => (Math.abs(v - to) < Math.abs(best - to) ? v : best));

/** The step that a link names, by its id or number; what is not exactly so is noted. */
function readStep(text, note) {
  const ids = [...document.querySelectorAll("main > section")].map(({ id }) => id);
  if (ids.includes(text)) return text;
  if (/^\d+$/.test(text)) {
    const at = Math.min(ids.length, Math.max(1, Number(text)));
    if (at !== Number(text)) note(`There is no step ${text}: this is step ${at}, the nearest.`);
    return ids[at - 1];
  }
  const alike = ids.find((id) => id.slice(0, 3) === text.slice(0, 3).toLowerCase());
  note(`There is no step “${text}”${alike ? `: this is “${alike}”` : ""}. The steps are ${ids.join(", ")}.`);
  return alike ?? null;
}

/** Restores the image or drawing and its label. */
function readImage(parts, note) {
  const pixels = unpacked(parts.get("pixels") ?? "");
  const asked = parts.get("image");
  const known = data.indexes.includes(Number(asked)) && /^\d+$/.test(asked);
  if (asked !== null) {
    const index = known ? Number(asked) : /^\d+$/.test(asked) ? nearestOf(data.indexes, Number(asked)) : examples[opening].index;
    if (!known) note(`This page has no test image “${asked}”, only ${examples.length} of ${counted(testImages)}: here is image ${index}${/^\d+$/.test(asked) ? ", the nearest" : ""}.`);
    state.image = data.indexes.indexOf(index);
  } else if (pixels) [state.image, state.pixels] = [-1, pixels];
  else if (parts.has("pixels")) note("The drawing in this link is damaged, so a test image is shown.");
  if (state.image >= 0) state.label = examples[state.image].label;
  else if (pixels) state.label = null;

  // A label belongs to the image that the link names, not to the one shown in its place.
  const label = parts.get("label");
  if (label === null || (asked !== null && !known) || (asked === null && parts.has("pixels") && !pixels)) return;
  if (/^\d$/.test(label)) state.label = Number(label);
  else note(`There is no label “${label}”, only 0 to 9.`);
}

/** Restores the neuron and its input. */
function readNeuron(parts, note) {
  const text = parts.get("neuron");
  if (text !== null) {
    const [, layer, neuron] = (text.match(/^(\d+)\.(\d+)$/) ?? []).map(Number);
    if (layer === undefined) note(`“${text}” is no neuron: write its layer and number as in 1.17.`);
    else {
      state.layer = Math.min(layerCount, Math.max(1, layer)) - 1;
      state.neuron = Math.min(outputsOf(net, state.layer) - 1, neuron);
      if (state.layer !== layer - 1 || state.neuron !== neuron)
        note(`There is no neuron ${text}: here is ${state.layer + 1}.${state.neuron}, the nearest. Layers count from 1 to ${layerCount}, neurons from 0.`);
    }
  }
  const [input, last] = [parts.get("input"), inputsOf(net, state.layer) - 1];
  if (input !== null) {
    if (/^\d+$/.test(input)) state.input = Math.min(last, Number(input));
    if (String(state.input) !== input.replace(/^0+(?=\d)/, ""))
      note(`There is no input “${input}” of this neuron, only 0 to ${last}: here is ${state.input}.`);
  }
  state.input = Math.min(last, state.input);
}

/** Restores the learning rate and what is broken. */
function readWeights(parts, note) {
  const rate = parts.has("rate") ? Number(parts.get("rate")) : FIRST_RATE;
  setRate(rate > 0 ? rate : FIRST_RATE);
  if (learningRate() !== rate) note(`The slider has no learning rate “${parts.get("rate")}”: it is ${learningRate()}.`);

  const tokens = (parts.get("broken") ?? "").split("-").filter(Boolean);
  const known = tokens.filter(parseBreak);
  for (const token of tokens) if (!parseBreak(token)) note(`This page cannot break “${token}”.`);
  if (known.includes("trained"))
    note("The network was trained on in the page that this link comes from, which a link cannot hold: here it is without those steps.");
  const broken = known.filter((token) => token !== "trained").reduce(withBreak, []);
  if (broken.join() !== state.broken.join()) replaceNetwork(brokenNetwork(broken), broken);
}

/** Restores the state from the address and says what it cannot restore. Returns the step, or null. */
function readAddress() {
  const hash = location.hash.slice(1);
  const parts = new URLSearchParams(hash.includes("=") || !hash ? hash : `step=${hash}`);
  const notes = [];
  const note = (text) => notes.push(text);
  for (const [name, text] of [...parts]) if (name !== "pixels" && text.length > 60) parts.set(name, `${text.slice(0, 59)}…`);
  readImage(parts, note);
  readWeights(parts, note);
  readNeuron(parts, note);
  const step = parts.has("step") ? readStep(parts.get("step"), note) : null;
  for (const name of new Set(parts.keys()))
    if (!LINK_PARTS.includes(name)) note(`A link has no part “${name.slice(0, 60)}”, only ${LINK_PARTS.join(", ")}.`);
  byId("link-notice").hidden = !notes.length;
  byId("link-notes").replaceChildren(...notes.map((text) => el("li", {}, text)));
  changed("image", "label", "neuron", "input", "rate");
  return step;
}

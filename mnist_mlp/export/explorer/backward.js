// Panel 6: p − y, every factor of the chain rule, and one weight's gradient with a numerical check.

function backwardPanel() {
  const section = byId("backward");

  labelChooser(section, byId("label-buttons"));
  watch(section, ["image", "label"], () => {
    byId("backward-labelled").hidden = state.label === null;
    byId("backward-unlabelled").hidden = state.label !== null;
  });
  /** Draws what depends on the loss; without a label there is none. */
  const watchLoss = (keys, draw) => watch(section, keys, () => state.label === null || draw());

  // The image with the largest loss under the current weights has the largest gradients.
  byId("take-mistake").addEventListener("click", () => {
    const losses = allPasses().map(({ logits }, i) => crossEntropy(logits, examples[i].label));
    showImage(argmax(losses));
  });
  watch(section, ["image", "weights", "label"], () => {
    byId("backward-hint").textContent =
      state.label !== null && backwardPass().loss < 0.05 ? "The loss is small, so all gradients are close to 0." : "";
  });

  // p − y
  watchLoss(["image", "weights", "label"], () => {
    const { p } = forwardPass();
    const { loss, dz } = backwardPass();
    const difference = dz[layerCount - 1];
    const plot = chart(byId("blame"), {
      height: 220, x: [-0.5, CLASSES - 0.5], y: [-1.25, 1.25], yTicks: [-1, 0, 1].map((v) => [v, fixed(v, 0)]), yText: "p − y", xText: "digit",
      xTicks: Array.from({ length: CLASSES }, (_, i) => [i, String(i)]),
      label: `p minus y: ${Array.from(difference, (v, i) => `${i}: ${number(v, 2)}`).join(", ")}`,
    });
    plot.add("line", { x1: plot.left, x2: plot.width - plot.right, y1: plot.sy(0), y2: plot.sy(0), class: "zero" });
    const width = (plot.sx(1) - plot.sx(0)) * 0.62;
    difference.forEach((v, i) => {
      const [top, bottom] = [plot.sy(Math.max(v, 0)), plot.sy(Math.min(v, 0))];
      plot.add("rect", { x: plot.sx(i) - width / 2, y: top, width, height: Math.max(1, bottom - top), class: v > 0 ? "fill-plus" : "fill-minus" });
      if (Math.abs(v) > 0.005)
        plot.add("text", { x: plot.sx(i), y: v > 0 ? top - 4 : bottom + 13, "text-anchor": "middle" }, fixed(v, 2));
    });
    byId("blame-text").textContent =
      `y is 1 for the label ${state.label} and 0 elsewhere. The label’s logit should increase: ${number(p[state.label])} − 1 = ${number(difference[state.label])}. The others should decrease, in proportion to their probabilities. The loss is ${number(loss, 4)}.`;
    drawFlow(dz);
    drawFactors(dz);
  });

  // One weight
  const [layer, row, column] = ["weight-layer", "weight-row", "weight-column"].map(byId);
  layer.append(...trained.W.map((_, k) => el("option", { value: k }, String(k + 1))));
  const choose = (k, i, j) => {
    chooseNeuron(k, Math.min(Math.max(0, i || 0), outputsOf(net, k) - 1));
    state.input = Math.min(Math.max(0, j || 0), inputsOf(net, k) - 1);
    changed("input");
  };
  for (const field of [layer, row, column])
    field.addEventListener("change", () => {
      choose(Number(layer.value), Math.floor(row.value), Math.floor(column.value));
      if (field === row) row.value = state.neuron; // may have been out of range
      if (field === column) column.value = state.input;
    });
  byId("weight-steepest").addEventListener("click", () => {
    const slopes = backwardPass().gradients.W[state.layer];
    let at = 0;
    slopes.forEach((v, i) => {
      if (Math.abs(v) > Math.abs(slopes[at])) at = i;
    });
    choose(state.layer, Math.floor(at / inputsOf(net, state.layer)), at % inputsOf(net, state.layer));
  });

  const tile = byId("tile-gradient");
  const shape = () => ({ columns: columnsOf(inputsOf(net, state.layer)), count: inputsOf(net, state.layer) });
  const { pointed } = gridCanvas(tile, shape, () => state.input, (j) => choose(state.layer, state.neuron, j));
  tile.addEventListener("pointerdown", (event) => pointed(event) >= 0 && choose(state.layer, state.neuron, pointed(event)));

  watchLoss(["image", "weights", "label", "neuron", "input"], () => {
    const { layer: k, neuron: i, input: j } = state;
    const width = inputsOf(net, k);
    for (const [field, value] of [[layer, k], [row, i], [column, j]])
      if (field !== document.activeElement) field.value = value; // not while the user is typing
    [row.max, column.max] = [outputsOf(net, k) - 1, width - 1];
    const { dz, gradients } = backwardPass();
    const at = i * width + j;
    const a = forwardPass().a[k][j];
    const slope = gradients.W[k][at];
    const input = k === 0 ? "x" : `a${sub(k)}`;
    byId("weight-formula").replaceChildren(
      `∂L/∂W${sub(k + 1)}[${i}, ${j}] = ∂L/∂z${sub(k + 1)}[${i}] × ${input}[${j}] = ${number(dz[k][i])} × ${number(a)} = `,
      el("b", {}, number(slope, 4)),
    );
    const { slope: measured, kink } = finiteDifference(net, shown().x, state.label, k, at);
    const error = Math.abs(measured - slope);
    byId("weight-difference").textContent = kink
      ? "Changing this weight switches a neuron on or off: the loss has a kink here and no derivative."
      : `Finite difference, with the weight changed by ±0.00001: ${number(measured, 4)}. It and the chain rule agree to ${number(error, 1)}.${slope === 0 ? (a === 0 ? " The input is 0, so this weight has no effect for this image." : " The neuron passes no gradient back for this image.") : ""}`;
    const columns = columnsOf(width);
    tile.height = Math.round((tile.width * Math.ceil(width / columns)) / columns);
    const weights = gradients.W[k].subarray(i * width, (i + 1) * width);
    paint(tile, weights, columns, { mark: j, most: largest(weights) || 1 });
    byId("gradient-caption").replaceChildren(el("b", {}, `∂L/∂W${sub(k + 1)}[${i}]`), `, ${k === 0 ? "28 × 28" : `${width} numbers`}: select a weight`);
  });
}

/** Adds ten buttons that choose the true label. */
function labelChooser(section, holder) {
  const inputs = Array.from({ length: CLASSES }, (_, digit) =>
    el("input", { type: "radio", name: holder.id, id: `${holder.id}-${digit}`, onchange: () => chooseLabel(digit) }));
  holder.append(...inputs.map((input, digit) => el("label", { for: input.id }, input, el("span", {}, String(digit)))));
  watch(section, ["image", "label"], () => inputs.forEach((input, digit) => (input.checked = digit === state.label)));
}

/** Draws ∂L/∂z of each layer as coloured grids, the last layer first. */
function drawFlow(dz) {
  const parts = [];
  for (let k = layerCount - 1; k >= 0; k--) {
    const columns = columnsOf(dz[k].length);
    const cell = dz[k].length <= 12 ? 15 : 10;
    const canvas = el("canvas", {
      width: columns * cell,
      height: Math.ceil(dz[k].length / columns) * cell,
      role: "img",
      "aria-label": `The gradient of the loss in each neuron of layer ${k + 1}; the largest is ${number(largest(dz[k]))}`,
    });
    paint(canvas, dz[k], columns);
    const passing = dz[k].filter((v) => v !== 0).length;
    parts.push(
      el("figure", {}, canvas, el("figcaption", {}, el("b", {}, `∂L/∂z${sub(k + 1)}`), ` ${dz[k].length} numbers`, passing < dz[k].length ? `, ${dz[k].length - passing} of them 0` : "")),
    );
    if (k > 0) parts.push(el("span", { class: "arrow", "aria-hidden": "true" }, "→"));
  }
  byId("flow").replaceChildren(...parts);
}

/** The factors of the chain rule in the lesson's order, named as in mnist_mlp/lesson/trace.py. */
function chainFactors() {
  const { a, z, p } = forwardPass();
  const K = layerCount;
  const bySoftmax = new Float64Array(CLASSES);
  bySoftmax[state.label] = -1 / Math.max(p[state.label], Number.MIN_VALUE);
  const jacobian = Float64Array.from({ length: CLASSES ** 2 }, (_, n) => {
    const [i, j] = [Math.floor(n / CLASSES), n % CLASSES];
    return (i === j ? p[i] : 0) - p[i] * p[j];
  });
  const factors = [
    { name: "∂L/∂softmax", means: `−1/p at the label, 0 elsewhere: here ${number(bySoftmax[state.label])}`, values: bySoftmax, columns: CLASSES, shape: "10" },
    { name: `∂softmax/∂z${sub(K)}`, means: "diag(p) − p·pᵀ. The product of this and the factor before it is p − y.", values: jacobian, columns: CLASSES, shape: "10 × 10" },
  ];
  for (let k = K - 1; k > 0; k--) {
    const [rows, columns] = [outputsOf(net, k), inputsOf(net, k)];
    factors.push({ name: `∂z${sub(k + 1)}/∂a${sub(k)}`, means: `the weights W${sub(k + 1)}`, values: net.W[k], columns, shape: `${rows} × ${columns}` });
    const slopes = z[k - 1].map(ACTIVATIONS[activation].slope);
    const firing = slopes.reduce((s, v) => s + v, 0);
    const means = activation === "relu"
      ? `the derivative of ReLU: 1 for the ${firing} active neurons, 0 for the other ${slopes.length - firing}`
      : `the derivative of ${word.name}: from ${number(Math.min(...slopes))} to ${number(Math.max(...slopes))}`;
    factors.push({ name: `∂a${sub(k)}/∂z${sub(k)}`, means, values: slopes, columns: columnsOf(slopes.length), shape: String(slopes.length) });
  }
  factors.push({ name: "∂z₁/∂W₁", means: "the layer’s input, x", values: a[0], columns: SIDE, shape: "784", grey: true });
  return factors;
}

function drawFactors() {
  const factors = chainFactors();
  byId("chain-formula").replaceChildren("∂L/∂W₁ = ", ...factors.flatMap(({ name }, i) => [i ? " · " : "", el("span", { class: "factor-name" }, name)]));
  byId("factors").replaceChildren(
    ...factors.map(({ name, means, values, columns, shape, grey }) => {
      const rows = Math.ceil(values.length / columns);
      const cell = Math.max(1, Math.floor(140 / Math.max(rows, columns)));
      const canvas = el("canvas", { width: columns * cell, height: rows * cell, "aria-hidden": "true" });
      paint(canvas, values, columns, { grey });
      return el("figure", { class: "factor" }, el("div", { class: "factor-picture" }, canvas), el("figcaption", {}, el("b", {}, name), el("span", { class: "shape" }, shape), el("span", { class: "means" }, means)));
    }),
  );
}

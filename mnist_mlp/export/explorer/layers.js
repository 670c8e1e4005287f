// Panel 2: the activations of all layers, and one neuron's arithmetic.

const STRONGEST = 14; // connections drawn into the selected neuron; half as many out of it

function layersPanel() {
  const section = byId("layers");
  const holder = byId("network");
  const lines = svg("svg", { class: "connections", "aria-hidden": "true" });
  const picture = el("canvas", { width: 196, height: 196, class: "x", role: "img", "aria-label": "The input image" });
  const columns = [el("div", { class: "layer" }, el("h3", {}, "Input x"), picture, el("p", { class: "quiet fine" }, "784 pixels"))];
  const cells = trained.b.map((b, k) => {
    const last = k === layerCount - 1;
    const grid = el("div", {
      class: last ? "neurons last" : "neurons",
      role: "group",
      "aria-label": `Layer ${k + 1}, ${b.length} neurons`,
    });
    const narrow = (b.length > 64 ? 2 : 1) * (layerCount > 4 ? 2 : 1);
    const width = last ? 1 : Math.max(1, Math.round(columnsOf(b.length) / narrow));
    grid.style.setProperty("--columns", width);
    const buttons = Array.from(b, (_, i) => {
      const button = el("button", { type: "button", class: "neuron", tabindex: i ? -1 : 0, onclick: () => chooseNeuron(k, i) });
      if (last) button.append(el("b", {}, String(i)), el("span", { class: "value" }));
      return button;
    });
    grid.append(...buttons);
    roving(grid, inFirstRow);
    columns.push(
      el(
        "div",
        { class: last ? "layer out" : "layer" },
        el("h3", {}, `Layer ${k + 1}`),
        grid,
        el("p", { class: "quiet fine" }, last ? "10 logits" : `${b.length} neurons, ${word.name}`),
      ),
    );
    return buttons;
  });
  holder.append(lines, ...columns);

  // The buttons' colours show the activations.
  watch(section, ["image", "weights", "neuron"], () => {
    const { a, z, logits, p } = forwardPass();
    paint(picture, a[0], SIDE, { grey: true });
    cells.forEach((buttons, k) => {
      const last = k === layerCount - 1;
      const values = last ? logits : a[k + 1];
      const most = largest(values);
      buttons.forEach((button, i) => {
        const [shade, full] = last ? [p[i], 1] : [values[i], most];
        button.style.backgroundColor = css(diverging(shade, full));
        const dark = Math.abs(shade) > 0.35 * full;
        button.classList.toggle("full", dark);
        button.setAttribute("aria-pressed", k === state.layer && i === state.neuron);
        const text = last ? `logit ${number(z[k][i])}, probability ${fixed(p[i], 3)}` : `a = ${number(values[i])}`;
        button.setAttribute("aria-label", `Layer ${k + 1}, neuron ${i}: ${text}`);
        button.title = `neuron ${i}: ${text}`;
        if (last) button.lastChild.textContent = fixed(logits[i], 1);
      });
    });
    drawConnections(lines, holder, picture, cells);
  });

  // Pointing at one of the three tiles selects an input, here and in step 6.
  const grid = () => ({ columns: columnsOf(inputsOf(net, state.layer)), count: inputsOf(net, state.layer) });
  const chooseInput = (j) => {
    state.input = j;
    changed("input");
  };
  for (const id of ["tile-weights", "tile-input", "tile-product"]) {
    const { pointed } = gridCanvas(byId(id), grid, () => state.input, chooseInput);
    for (const kind of ["pointermove", "pointerdown"])
      byId(id).addEventListener(kind, (event) => pointed(event) >= 0 && chooseInput(pointed(event)));
  }

  let upTo = null; // the number of inputs added so far; null: all
  const play = byId("sum-play");
  const stop = () => {
    cancelAnimationFrame(stop.frame);
    stop.frame = null;
    play.textContent = "Play";
  };
  byId("sum-at").addEventListener("input", (event) => {
    stop();
    upTo = Number(event.target.value);
    changed("sum");
  });
  play.addEventListener("click", () => {
    if (stop.frame) return stop();
    const count = inputsOf(net, state.layer);
    const start = performance.now();
    const tick = (time) => {
      upTo = Math.min(count, Math.max(0, Math.round(((time - start) / 4000) * count)));
      changed("sum");
      if (upTo < count) stop.frame = requestAnimationFrame(tick);
      else stop();
    };
    play.textContent = "Stop";
    stop.frame = requestAnimationFrame(tick);
  });
  watch(section, ["image", "neuron"], () => {
    if (!stop.frame) upTo = null;
  });

  watch(section, ["image", "weights", "neuron", "input", "sum"], () => drawNeuron(upTo));
  watch(section, ["neuron", "weights"], () => {
    const { layer, neuron } = state;
    const last = layer === layerCount - 1;
    const fires = allPasses().map((p) => (last ? p.logits[neuron] : p.a[layer + 1][neuron]));
    const order = fires.map((_, i) => i).sort((i, j) => fires[j] - fires[i]);
    buildGallery(byId("favourites"), order.slice(0, 12).filter((i) => last || activation !== "relu" || fires[i] > 0));
    if (!byId("favourites").children.length)
      byId("favourites").append(el("p", { class: "quiet" }, "None. This neuron is 0 for every image in this page: it is dead."));
  });
  paintLegend();
  watch(section, ["theme"], paintLegend);
}

function paintLegend() {
  paint(byId("legend"), Float64Array.from({ length: 81 }, (_, i) => i / 40 - 1), 81, { most: 1 });
}

/** The products w·a of a neuron, one for each input. */
function contributions(layer, neuron) {
  const a = forwardPass().a[layer];
  const row = neuron * a.length;
  return Float64Array.from(a, (v, j) => v * net.W[layer][row + j]);
}

/** Draws the strongest connections into the selected neuron and out of it. */
function drawConnections(lines, holder, picture, cells) {
  lines.replaceChildren();
  const frame = holder.getBoundingClientRect();
  const scroll = [holder.scrollLeft, holder.scrollTop];
  lines.setAttribute("viewBox", `0 0 ${holder.scrollWidth} ${holder.scrollHeight}`);
  lines.style.width = `${holder.scrollWidth}px`;
  lines.style.height = `${holder.scrollHeight}px`;
  const narrow = holder.clientWidth < 640;
  const middle = (box, fx = 0.5, fy = 0.5) => [
    box.left - frame.left + scroll[0] + fx * box.width,
    box.top - frame.top + scroll[1] + fy * box.height,
  ];
  const place = (layer, i) => {
    const edge = layer === layerCount - 1 && !narrow ? 0 : 0.5; // do not cross the logit's text
    if (layer >= 0) return middle(cells[layer][i].getBoundingClientRect(), edge);
    return middle(picture.getBoundingClientRect(), ((i % SIDE) + 0.5) / SIDE, (Math.floor(i / SIDE) + 0.5) / SIDE);
  };
  const { layer, neuron } = state;
  const found = [];
  contributions(layer, neuron).forEach((v, j) => found.push([v, place.bind(null, layer - 1, j), layer, neuron]));
  const strongest = (list, count) => list.sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, count);
  const drawn = strongest(found, STRONGEST);
  if (layer < layerCount - 1) {
    const a = forwardPass().a[layer + 1];
    const next = Array.from({ length: outputsOf(net, layer + 1) }, (_, i) => [
      a[neuron] * net.W[layer + 1][i * a.length + neuron],
      place.bind(null, layer, neuron),
      layer + 1,
      i,
    ]);
    const onward = strongest(next, STRONGEST / 2);
    drawn.push(...onward);
    if (layer + 1 < layerCount - 1) drawn.push(...onward.flatMap(([, , , i]) => beyond(layer + 1, i)));
  }
  // The strongest connection out of neuron i of layer k
  function beyond(k, i) {
    const b = forwardPass().a[k + 1];
    const on = Array.from({ length: outputsOf(net, k + 1) }, (_, o) => [
      b[i] * net.W[k + 1][o * b.length + i], place.bind(null, k, i), k + 1, o, "faint",
    ]);
    return strongest(on, 1);
  }
  const most = Math.max(...drawn.map(([v, , , , faint]) => (faint ? 0 : Math.abs(v))));
  for (const [v, from, toLayer, to, faint = ""] of drawn) {
    if (v === 0) continue;
    const [x0, y0] = from();
    const [x1, y1] = place(toLayer, to);
    const curve = narrow
      ? `M${x0} ${y0}C${x0} ${(y0 + y1) / 2} ${x1} ${(y0 + y1) / 2} ${x1} ${y1}`
      : `M${x0} ${y0}C${(x0 + x1) / 2} ${y0} ${(x0 + x1) / 2} ${y1} ${x1} ${y1}`;
    const path = svg("path", { d: curve, class: `${v > 0 ? "plus" : "minus"} ${faint}` });
    path.style.strokeWidth = `${1 + 3 * Math.min(1, Math.abs(v) / most)}px`;
    lines.append(path);
  }
}

/** Shows the selected neuron: weights × input = product, the running sum, bias, activation. */
function drawNeuron(upTo) {
  const { layer, neuron } = state;
  const { a, z } = forwardPass();
  const inputs = a[layer];
  const count = inputs.length;
  const row = neuron * count;
  const w = net.W[layer].subarray(row, row + count);
  const product = contributions(layer, neuron);
  const added = upTo === null ? count : Math.min(upTo, count);
  const columns = columnsOf(count);
  const last = layer === layerCount - 1;
  const rows = Math.ceil(count / columns);
  for (const id of ["tile-weights", "tile-input", "tile-product"]) {
    const canvas = byId(id);
    canvas.height = Math.round((canvas.width * rows) / columns);
  }
  const mark = added < count ? added : state.input;
  paint(byId("tile-weights"), w, columns, { mark });
  paint(byId("tile-input"), inputs, columns, { grey: layer === 0, mark });
  const partly = product.map((v, j) => (j < added ? v : 0));
  paint(byId("tile-product"), partly, columns, { most: largest(product), mark });

  const input = layer === 0 ? "x" : `a${sub(layer)}`;
  const what = last ? `the digit ${neuron}` : `neuron ${neuron}`;
  byId("neuron-title").textContent = `Layer ${layer + 1}, ${what}`;
  byId("tile-input-caption").replaceChildren(
    el("b", {}, input),
    layer === 0 ? ", the image" : `, the activations of layer ${layer}`,
  );

  byId("product-text").textContent =
    `w[${state.input}] × ${input}[${state.input}] = ${number(w[state.input])} × ${number(inputs[state.input])} = ${number(product[state.input])}`;

  const running = [0];
  for (let j = 0; j < count; j++) running.push(running[j] + product[j]);
  const b = net.b[layer][neuron];
  const low = Math.min(0, ...running, z[layer][neuron]);
  const high = Math.max(0, ...running, z[layer][neuron]);
  const roomy = 0.06 * (high - low || 1);
  const plot = chart(byId("running"), {
    height: 190,
    x: [0, count * 1.06],
    y: [low - roomy, high + roomy],
    xTicks: [0, Math.round(count / 4), Math.round(count / 2), Math.round((3 * count) / 4), count].map((v) => [v, String(v)]),
    xText: "inputs added so far, then the bias",
    yText: "running sum",
    label: `The sum over the ${count} inputs is ${number(running[count])}; with the bias, z is ${number(z[layer][neuron])}.`,
  });
  plot.add("line", { x1: plot.left, x2: plot.width - plot.right, y1: plot.sy(0), y2: plot.sy(0), class: "zero" });
  plot.line(running.slice(0, added + 1).map((v, j) => [j, v]), { class: "line" });
  if (added === count) {
    plot.line([[count, running[count]], [count * 1.03, running[count]], [count * 1.03, z[layer][neuron]]], { class: "line bias" });
    plot.add("circle", { cx: plot.sx(count * 1.03), cy: plot.sy(z[layer][neuron]), r: 5, class: "dot" });
  } else plot.add("circle", { cx: plot.sx(added), cy: plot.sy(running[added]), r: 5, class: "dot" });
  const slider = byId("sum-at");
  slider.max = count;
  slider.value = added;
  byId("sum-text").textContent =
    added < count
      ? `input ${added}: ${fixed(w[added], 4)} × ${fixed(inputs[added], 3)} = ${signed(product[added])}; the sum so far is ${number(running[added])}`
      : `the sum of all ${count} products is ${number(running[count], 4)}`;

  const name = `z${sub(layer + 1)}[${neuron}]`;
  const value = z[layer][neuron];
  const out = a[layer + 1]?.[neuron];
  byId("neuron-formula").replaceChildren(
    ...[`${name} = Σ w·${input} + b = ${number(running[count], 4)} ${b < 0 ? "−" : "+"} ${number(Math.abs(b), 4)} = `, el("b", {}, number(value, 4))],
    ...(last
      ? []
      : [el("br"), `a${sub(layer + 1)}[${neuron}] = ${word.name}(${number(value, 4)}) = ${word.formula(number(value, 4))} = `, el("b", {}, number(out, 4))]),
  );
  byId("neuron-step").textContent = last
    ? "The last layer applies no function: the sum is the digit’s logit. Softmax turns the ten logits into probabilities (step 5)."
    : activation !== "relu"
      ? `With ${word.name}, ${word.does}. The result goes to the next layer.`
      : value > 0
      ? "The sum is positive: the neuron is active and passes the sum to the next layer."
      : "The sum is not positive, so ReLU outputs 0: for this image the neuron is inactive and does not affect the next layer.";
}

// Panel 7: one update, training in the page, and ways to break the network.

function updatePanel() {
  const section = byId("update");
  const rate = byId("rate");
  const history = []; // {step, loss, right} of the random images, about ten times a second
  const training = { net: null, steps: 0, queue: [], scored: 0 }; // net: the network that is being trained
  const trainingImages = randomPlaces.map((i) => examples[i]);
  byId("train-count").textContent = byId("random-count").textContent = trainingImages.length;
  let step = null; // the last single step: {before, after, promised}; promised to first order

  rate.addEventListener("input", () => changed("rate"));
  watch(section, ["rate"], () => {
    byId("rate-text").textContent = String(learningRate());
    rate.setAttribute("aria-valuetext", String(learningRate()));
  });

  // One step. While the network trains, text and curve follow about ten times a second.
  byId("step").addEventListener("click", () => {
    const { loss, gradients } = backwardPass();
    step = { before: loss, promised: learningRate() * squaredNorm(gradients) };
    descend(net, gradients, learningRate());
    tookSteps();
    step.after = backwardPass().loss;
    changed("stepped");
  });
  labelChooser(section, byId("update-label"));
  watch(section, ["image", "label"], () => {
    const { index } = shown();
    byId("step-unlabelled").hidden = state.label !== null;
    byId("step-labelled").hidden = byId("step").disabled = state.label === null;
    byId("step-label").textContent = `${index === null ? "your drawing" : `test image ${index}`}, label ${state.label}`;
  });
  watch(section, ["image", "label", "rate", "stepped", "replaced"], () => {
    if (state.label === null) return;
    const { loss, gradients } = backwardPass();
    byId("step-text").textContent =
      step && step.after === loss
        ? `Loss ${number(step.before, 4)} → ${number(step.after, 4)}: ${step.after <= step.before ? "down" : "up"} by ${number(Math.abs(step.before - step.after))}. ${firstOrder(step.promised, step.before)}`
        : `Loss now ${number(loss, 4)}. ${firstOrder(learningRate() * squaredNorm(gradients), loss)}`;
    drawSlope(learningRate());
  });

  // Training
  const score = () => {
    let [loss, right] = [0, 0];
    for (const { x, label } of trainingImages) {
      const { logits } = forward(net, x);
      loss += crossEntropy(logits, label) / trainingImages.length;
      right += argmax(logits) === label;
    }
    history.push({ step: training.steps, loss, right });
  };
  const random = randomStream(data.seed + 1);
  const shuffled = () => {
    const order = trainingImages.slice();
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  };
  const oneBatch = () => {
    if (!training.queue.length) training.queue = shuffled();
    const batch = training.queue.splice(0, Number(byId("batch").value));
    const { loss, gradients } = batchGradients(net, batch);
    if (!Number.isFinite(loss)) return false;
    descend(net, gradients, learningRate());
    training.steps++;
    return true;
  };
  let why = ""; // what the page has to say about the last break, or the end of training
  const stop = (text = "") => {
    training.net = null;
    byId("train").textContent = "Train";
    why = text;
    changed("stepped", "trained");
  };
  const frame = () => {
    if (training.net !== net) return; // paused, or another network was put in its place
    const end = performance.now() + 8; // leaves the rest of the frame for drawing
    do {
      if (!oneBatch()) {
        stop("The loss is no longer finite: training diverged because the steps were too large. Restore the trained weights.");
        break;
      }
    } while (performance.now() < end);
    tookSteps();
    const now = performance.now();
    if (now - training.scored > 100 || !training.net) {
      training.scored = now;
      score();
      changed("stepped");
    }
    changed("trained");
    if (training.net && training.steps >= training.last) stop("Stopped after 5,000 steps. Press Train to continue.");
    requestAnimationFrame(frame);
  };
  const train = (text = "") => {
    training.net = net;
    training.last = training.steps + 5000;
    if (!history.length) score();
    byId("train").textContent = "Pause";
    why = text;
    changed("stepped");
    requestAnimationFrame(frame);
  };
  byId("train").addEventListener("click", () => (training.net ? stop() : train()));
  watch(section, ["trained", "replaced"], () => drawTraining(history, trainingImages.length));

  // Restore and break
  watch(document.body, ["replaced"], () => {
    step = null;
    why = "";
    history.length = training.steps = training.queue.length = 0;
    if (training.net) stop();
  });
  const reset = () => replaceNetwork(copyNetwork(trained), []);
  byId("reset-trained").addEventListener("click", reset);
  byId("now-reset").addEventListener("click", reset);
  byId("reset-random").addEventListener("click", () => {
    const seed = state.broken[0]?.match(/^random(\d+)$/)?.[1] ?? 0;
    breakNetwork(`random${Number(seed) + 1}`);
  });
  const noise = byId("noise");
  const showNoise = () => (byId("noise-text").textContent = `±${Number(noise.value).toFixed(2)}`);
  noise.addEventListener("input", showNoise);
  showNoise();
  byId("zero-layer").append(...trained.W.map((_, k) => el("option", { value: k + 1 }, String(k + 1))));
  const breakers = { biases: () => "biases", noise: () => `noise${noise.value}`, zero: () => `zero${byId("zero-layer").value}` };
  for (const [kind, token] of Object.entries(breakers))
    byId(`break-${kind}`).addEventListener("click", () => breakNetwork(token()));
  byId("break-rate").addEventListener("click", () => {
    setRate(10 ** 1.5);
    train(`The learning rate is ${learningRate()}: each step overshoots the minimum, so the loss increases.`);
  });
  watch(section, ["stepped", "replaced", "rate"], () => {
    const chosen = `${trainingImages.length} test images chosen at random`;
    const parts = [why];
    if (inForce()) parts.push(`In force: ${inForce()}.`);
    if (state.broken.at(-1)?.startsWith("zero")) parts.push("The output depends on the biases only and is the same for every image.");
    if (training.net) parts.push("Training.");
    else if (!inForce()) parts.push(`Nothing is broken: of ${chosen}, the network reads ${rightTrained} correctly.`);
    else parts.push(`Of ${chosen}, it reads ${rightNow()} correctly; with nothing broken, ${rightTrained}.`);
    if (training.steps && !training.net) parts.push("It was trained on these same images, so this says nothing about new ones.");
    byId("break-text").textContent = parts.filter(Boolean).join(" ");
  });

  // The first layer's tiles
  const tiles = byId("tiles");
  const count = outputsOf(trained, 0);
  const across = () => Math.max(4, Math.min(count, Math.floor(tiles.clientWidth / (tiles.clientWidth < 500 ? 30 : 46))));
  const shape = () => ({ columns: across(), count });
  const { pointed } = gridCanvas(tiles, shape, () => (state.layer === 0 ? state.neuron : 0), (i) => chooseNeuron(0, i));
  tiles.addEventListener("pointerdown", (event) => pointed(event) >= 0 && chooseNeuron(0, pointed(event)));
  watch(section, ["weights", "neuron"], () => drawTiles(tiles, across()));
}

/** Describes the first-order estimate learning rate × ‖gradient‖². */
function firstOrder(less, loss) {
  const text = `To first order, a step lowers the loss by learning rate × ‖gradient‖² = ${number(less)}`;
  return less > loss ? `${text}. This is more than the loss itself: the estimate does not hold for so large a step.` : `${text}.`;
}

/** Draws the loss along the gradient's direction, and its first-order estimate. */
function drawSlope(rate) {
  const { loss, gradients } = backwardPass();
  const steepness = squaredNorm(gradients);
  const moved = copyNetwork(net);
  const points = [];
  const parts = 24;
  const far = 2.5 * rate;
  for (let i = 0; i <= parts; i++) {
    if (i) descend(moved, gradients, far / parts);
    points.push([(i * far) / parts, i ? crossEntropy(forward(moved, shown().x).logits, state.label) : loss]);
  }
  const finite = points.filter(([, v]) => Number.isFinite(v));
  const high = Math.max(loss * 1.2, 1e-6, ...finite.map(([, v]) => v));
  const plot = chart(byId("slope"), {
    height: 200, x: [0, far], y: [0, high], left: 58, xText: "learning rate", yText: "loss after the step",
    label: `The loss of this image after a step, for learning rates up to ${number(far)}: from ${number(loss)} to ${number(points.at(-1)[1])}`,
    xTicks: [[0, "0"], [rate, number(rate)], [2 * rate, number(2 * rate)]],
    yTicks: [0, high / 2, high].map((v) => [v, number(v, 2)]),
  });
  const promised = Math.min(far, loss / (steepness || 1));
  plot.line([[0, loss], [promised, loss - steepness * promised]], { class: "line promise" });
  plot.line(points, { class: "line" });
  const after = points.reduce((a, b) => (Math.abs(b[0] - rate) < Math.abs(a[0] - rate) ? b : a));
  plot.add("circle", { cx: plot.sx(0), cy: plot.sy(loss), r: 5, class: "dot" });
  if (Number.isFinite(after[1])) plot.add("circle", { cx: plot.sx(rate), cy: plot.sy(after[1]), r: 5, class: "mark" });
}

function drawTraining(history, count) {
  const latest = history.at(-1);
  byId("train-text").textContent = latest
    ? `${counted(latest.step)} steps: loss ${number(latest.loss)}, ${latest.right} of ${count} right`
    : "";
  const finite = history.filter(({ loss }) => Number.isFinite(loss));
  const high = Math.max(0.1, ...finite.map(({ loss }) => loss));
  const plot = chart(byId("train-curve"), {
    height: 200, x: [0, Math.max(100, latest?.step ?? 0)], y: [0, high * 1.05], xText: "steps", yText: "mean loss of these images",
    label: latest ? `After ${latest.step} steps the mean loss is ${number(latest.loss)}` : "No training in this page yet",
  });
  const every = Math.ceil(history.length / 400);
  plot.line(history.filter((_, i) => i % every === 0 || i === history.length - 1).map(({ step, loss }) => [step, loss]), { class: "line" });
  if (!latest) plot.add("text", { x: (plot.left + plot.width) / 2, y: 90, "text-anchor": "middle", class: "axis" }, "press Train, or start from random weights");
}

/** Draws the first layer's weights, one 28×28 tile per neuron. */
function drawTiles(canvas, across) {
  const count = outputsOf(net, 0);
  const pitch = SIDE + 2;
  const down = Math.ceil(count / across);
  const [width, height] = [across * pitch, down * pitch];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  // A colour table for speed: the tiles are redrawn every frame during training.
  const table = Uint32Array.from({ length: 513 }, (_, i) => {
    const [r, g, b] = diverging(i - 256, 256);
    return (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  });
  const W = net.W[0];
  for (let n = 0; n < count; n++) {
    let most = 0;
    for (let j = 0; j < 784; j++) most = Math.max(most, Math.abs(W[784 * n + j]));
    const [left, top] = [(n % across) * pitch + 1, Math.floor(n / across) * pitch + 1];
    for (let j = 0; j < 784; j++) {
      const level = most ? Math.round(256 + (256 * W[784 * n + j]) / most) : 256;
      pixels[(top + Math.floor(j / SIDE)) * width + left + (j % SIDE)] = table[level];
    }
  }
  const context = canvas.getContext("2d");
  context.putImageData(image, 0, 0);
  if (state.layer === 0) {
    context.strokeStyle = css(theme.accent);
    context.lineWidth = 2;
    context.strokeRect((state.neuron % across) * pitch, Math.floor(state.neuron / across) * pitch, pitch, pitch);
  }
}

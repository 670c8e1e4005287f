// Panel 7: one update, training in the page, and ways to break the network.

function updatePanel() {
  const section = byId("update");
  const rate = byId("rate");
  const learningRate = () => 10 ** Number(rate.value);
  const history = []; // {step, loss, right} of the page's images, about ten times a second
  const training = { on: false, steps: 0, queue: [], scored: 0 };
  const trainingImages = examples.slice(0, data.training);
  byId("train-count").textContent = trainingImages.length;
  let step = null; // the last single step: {before, after, rate, promised}; promised to first order

  const showRate = () => (byId("rate-text").textContent = number(learningRate()));
  rate.addEventListener("input", () => {
    showRate();
    changed("rate");
  });
  showRate();

  // One step
  byId("step").addEventListener("click", () => {
    const { loss, gradients } = backwardPass();
    step = { before: loss, rate: learningRate(), promised: learningRate() * squaredNorm(gradients) };
    descend(net, gradients, learningRate());
    setWeights("a step on one image");
    step.after = backwardPass().loss;
    changed("stepped");
  });
  watch(section, ["image", "label", "stepped", "weights", "rate"], () => {
    const { index } = shown();
    byId("step-label").textContent = `${index === null ? "your drawing" : `test image ${index}`}, label ${state.label}`;
    const { loss, gradients } = backwardPass();
    byId("step-text").textContent =
      step && step.after === loss
        ? `Loss ${number(step.before, 4)} → ${number(step.after, 4)}: ${step.after <= step.before ? "down" : "up"} by ${number(Math.abs(step.before - step.after))}. ${firstOrder(step.promised, step.before)}`
        : `Loss now ${number(loss, 4)}. ${firstOrder(learningRate() * squaredNorm(gradients), loss)}`;
  });
  watch(section, ["rate"], () => drawSlope(learningRate()));
  watch(section, ["image", "label", "weights", "stepped"], () => training.on || drawSlope(learningRate()));

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
  const stop = (why = "") => {
    training.on = false;
    changed("stepped");
    byId("train").textContent = "Train";
    if (why) byId("break-text").textContent = why;
  };
  const frame = () => {
    if (!training.on) return;
    const end = performance.now() + 8; // leaves the rest of the frame for drawing
    do {
      if (!oneBatch()) {
        stop("The loss is no longer finite: training diverged because the steps were too large. Restore the trained weights.");
        break;
      }
    } while (performance.now() < end);
    const now = performance.now();
    if (now - training.scored > 100 || !training.on) {
      training.scored = now;
      score();
    }
    setWeights("training in the page");
    changed("trained");
    if (training.steps >= 5000) stop("Stopped after 5,000 steps. Press Train to continue.");
    requestAnimationFrame(frame);
  };
  byId("train").addEventListener("click", () => {
    if (training.on) return stop();
    training.on = true;
    training.steps = history.length ? training.steps : 0;
    if (!history.length) score();
    byId("train").textContent = "Pause";
    byId("break-text").textContent = "";
    requestAnimationFrame(frame);
  });
  watch(section, ["trained", "weights"], () => drawTraining(history, trainingImages.length));

  // Reset and break
  const replaceNet = (next, how, text) => {
    stop();
    net = next;
    step = null;
    history.length = training.steps = training.queue.length = 0;
    byId("break-text").textContent = text;
    setWeights(how);
    changed("trained", "stepped");
    finish();
  };
  const finish = () => {
    const right = examples.slice(0, data.training).filter((e, i) => argmax(allPasses()[i].logits) === e.label).length;
    byId("break-text").textContent += ` It classifies ${right} of the ${trainingImages.length} test images correctly.`;
  };
  const reset = () => replaceNet(copyNetwork(trained), "", "The trained weights are restored.");
  byId("reset-trained").addEventListener("click", reset);
  byId("now-reset").addEventListener("click", reset);
  let seed = data.seed;
  byId("reset-random").addEventListener("click", () =>
    replaceNet(randomNetwork(trained.sizes, ++seed), "random", "Random weights, as before training. Press Train."));
  byId("break-biases").addEventListener("click", () => {
    const next = copyNetwork(net);
    next.b.forEach((b) => b.fill(0));
    replaceNet(next, "no biases", "All biases are 0.");
  });
  const noise = byId("noise");
  const showNoise = () => (byId("noise-text").textContent = `±${Number(noise.value).toFixed(2)}`);
  noise.addEventListener("input", showNoise);
  showNoise();
  byId("break-noise").addEventListener("click", () => {
    const next = copyNetwork(net);
    for (const W of next.W) for (let i = 0; i < W.length; i++) W[i] += (2 * random() - 1) * noise.value;
    replaceNet(next, "noise", `Noise of up to ±${noise.value} was added to every weight.`);
  });
  byId("zero-layer").append(...trained.W.map((_, k) => el("option", { value: k }, String(k + 1))));
  byId("break-zero").addEventListener("click", () => {
    const next = copyNetwork(net);
    const k = Number(byId("zero-layer").value);
    next.W[k].fill(0);
    replaceNet(next, `layer ${k + 1} zeroed`, `Every weight of layer ${k + 1} is 0: the output depends on the biases only and is the same for every image.`);
  });
  byId("break-rate").addEventListener("click", () => {
    rate.value = 1.5;
    showRate();
    changed("rate");
    if (!training.on) byId("train").click();
    byId("break-text").textContent = `The learning rate is ${number(learningRate())}: each step overshoots the minimum, so the loss increases.`;
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

// The whole page: its check against PyTorch, the navigation bar, the guided tour.

const LOGITS_TOLERANCE = 1e-4;
const GRADIENTS_TOLERANCE = 1e-4; // relative to the tensor's largest entry

// Each check compares this page with PyTorch and returns {right, message}; right is null if unknown.

function checkLogits() {
  const difference = examples.reduce((most, { x, logits }) => {
    const mine = forward(trained, x).logits;
    return Math.max(most, largest(mine.map((v, i) => v - logits[i])));
  }, 0);
  return {
    right: difference <= LOGITS_TOLERANCE,
    difference,
    message: `Logits of the ${examples.length} test images in this page: they differ from PyTorch’s by at most ${number(difference, 1)} (tolerance ${number(LOGITS_TOLERANCE, 1)}).`,
  };
}

function checkGradients() {
  let difference = 0;
  for (const { image, tensors } of data.gradients) {
    const { x, label } = examples[image];
    const gradients = zeroGradients(trained);
    backward(trained, forward(trained, x), label, gradients);
    for (const { name, norm, largest: most, positions, values } of tensors) {
      const [, layer, kind] = name.match(/^layer(\d+)\.(weight|bias)$/);
      const mine = gradients[kind === "weight" ? "W" : "b"][layer - 1];
      const scale = most || 1;
      const mineNorm = Math.sqrt(mine.reduce((s, v) => s + v * v, 0));
      difference = Math.max(difference, Math.abs(mineNorm - norm) / scale, Math.abs(largest(mine) - most) / scale);
      positions.forEach((at, i) => (difference = Math.max(difference, Math.abs(mine[at] - values[i]) / scale)));
    }
  }
  return {
    right: difference <= GRADIENTS_TOLERANCE,
    difference,
    message: `Gradients of ${data.gradients.length} images, each tensor’s norm and sampled entries: they differ from PyTorch’s by at most ${number(difference, 1)} of the tensor’s largest entry (tolerance ${number(GRADIENTS_TOLERANCE, 1)}).`,
  };
}

/** Compares the SHA-256 of the weights, tensors in name order, with the run's `weights_sha256`. */
async function checkHash() {
  if (!globalThis.crypto?.subtle) return { right: null, message: "The weights’ SHA-256 was not checked, because this browser does not provide it here." };
  const parts = [];
  const order = trained.W.map((_, k) => k);
  for (const k of order) parts.push(trained.b[k], trained.W[k]); // layer1.bias, layer1.weight, …
  const floats = Float32Array.from(parts.flatMap((part) => Array.from(part)));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", floats));
  const text = Array.from(digest, (v) => v.toString(16).padStart(2, "0")).join("");
  return {
    right: text === data.weights_sha256,
    message: text === data.weights_sha256
      ? `The weights’ SHA-256 equals the run’s: ${text.slice(0, 16)}…`
      : `The weights’ SHA-256 is ${text.slice(0, 16)}…, but the run’s is ${data.weights_sha256.slice(0, 16)}…: these are not the run’s weights.`,
  };
}

async function checkPage() {
  const [logits, gradients, hash] = [checkLogits(), checkGradients(), await checkHash()];
  const all = [logits, gradients, hash];
  const bad = all.filter(({ right }) => right === false);
  const badge = byId("badge");
  badge.classList.add(bad.length ? "bad" : "good");
  badge.dataset.state = bad.length ? "bad" : "good";
  badge.querySelector(".badge-mark").textContent = bad.length ? "✗" : "✓";
  byId("badge-text").textContent = bad.length
    ? `Do not trust this page: ${bad.map(({ message }) => message).join(" ")}`
    : `This page agrees with PyTorch: the logits of ${examples.length} images to ${number(logits.difference, 1)}, the gradients to ${number(gradients.difference, 1)} of the largest entry.`;
  byId("badge-details").replaceChildren(
    el("ul", {}, ...all.map(({ message, right }) => el("li", {}, `${right ? "✓" : right === null ? "–" : "✗"} ${message}`))),
    el("p", {}, "PyTorch computed its numbers in float64 from the run’s float32 weights when the page was exported; the page contains them. Your browser computes everything else that you see, without any network request."),
  );
}

// The guided tour: [section, element to highlight, text, action]

const strongestNeuron = (layer) => argmax(forwardPass().a[layer + 1] ?? forwardPass().p);

function takeOneStep(exponent) {
  setRate(10 ** exponent);
  byId("step").click();
}

const TOUR = [
  ["input", "#seen", "This is the network’s input: 784 numbers. Move over the image to read them.", () => {}],
  ["input", ".pad-card", "Draw a digit of your own. It is cropped and centred as in MNIST and classified at once.", () => {}],
  ["layers", "#network", "Activations flow from the image to the output. Each square is a neuron; blue ones are active.", () => chooseNeuron(0, strongestNeuron(0))],
  ["layers", ".product", "This is the most active neuron: its 784 weights times the image, pixel by pixel.", () => chooseNeuron(0, strongestNeuron(0))],
  ["layers", ".sum", `Add up the products and the bias. ${hidden ? `Then ${word.name}: ${word.does}` : "The sum is the digit’s logit"}. Press Play.`, () => {}],
  ["layers", "#network", `${hidden ? "The last layer does the same with the activations before it. Its" : "There is one such neuron for each digit. The"} largest sum is the prediction.`, () => chooseNeuron(layerCount - 1, argmax(forwardPass().p))],
  ["relu", "#matrices", hidden ? `Without ${word.name} the matrices multiply into one: more layers would add nothing.` : "This network is a single layer. With more layers and an activation function it could do more.", () => byId("merge").disabled || byId("merge").click()],
  ["count", "#count-rows", "Count the parameters as the lesson does: rows × columns + biases, layer by layer.", () => {}],
  ["loss", "#logits", "Softmax turns logits into probabilities. The lesson’s example gives 0.983, not 0.96 as printed.", () => byId("loss-lesson").click()],
  ["loss", "#loss-curve", "The loss is −ln of the true digit’s probability: small if the network is right, large if it is confidently wrong.", () => {}],
  ["input", "#gallery", isMistake(examples[galleryPlaces[0]]) ? "Now look at a mistake: this image is misclassified with the highest confidence." : "The network reads every image in this page correctly. Look at another one.", () => showImage(galleryPlaces[0])],
  ["backward", "#blame", "p − y shows how each logit should change: blue is too high, orange is too low.", () => {}],
  ["backward", "#factors", `The factors of the chain rule are familiar: ${hidden ? `the weights, ${word.slopes}, and x` : "p, y and x"}.`, () => {}],
  ["backward", "#weight-formula", "One weight’s gradient is the product of two numbers. A finite difference gives the same value.", () => byId("weight-steepest").click()],
  ["update", "#step-text", "One small step against the gradient lowers the loss of this image.", () => takeOneStep(-3)],
  ["update", "#train-curve", "The page can train from random weights. Press Random weights, then Train.", () => {}],
  ["evidence", "#confusion", "The trained weights again, evaluated on images that were not used for training. Select a cell.", () => state.broken.length && byId("now-reset").click()],
];

function buildTour() {
  const tour = byId("tour");
  let at = 0;
  const unmark = () => document.querySelector(".pointed-at")?.classList.remove("pointed-at");
  const go = (to) => {
    at = Math.max(0, Math.min(TOUR.length - 1, to));
    const [section, target, sentence, act] = TOUR[at];
    unmark();
    act();
    const element = byId(section).querySelector(target);
    element.classList.add("pointed-at");
    const block = element.offsetHeight > innerHeight / 2 ? "start" : "center";
    element.scrollIntoView({ block, behavior: reducedMotion() ? "auto" : "smooth" });
    byId("tour-text").textContent = sentence;
    byId("tour-count").textContent = `${at + 1} of ${TOUR.length}`;
    byId("tour-back").disabled = at === 0;
    byId("tour-next").textContent = at === TOUR.length - 1 ? "Done" : "Next";
  };
  const close = () => {
    unmark();
    tour.hidden = true;
    document.body.classList.remove("touring");
    byId("tour-start").focus({ preventScroll: true });
  };
  byId("tour-start").addEventListener("click", () => {
    tour.hidden = false;
    document.body.classList.add("touring");
    go(0);
    byId("tour-next").focus({ preventScroll: true });
  });
  byId("tour-next").addEventListener("click", () => (at === TOUR.length - 1 ? close() : go(at + 1)));
  byId("tour-back").addEventListener("click", () => go(at - 1));
  byId("tour-close").addEventListener("click", close);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !tour.hidden) close();
  });
}

const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// The navigation bar

function followScroll() {
  const sections = [...document.querySelectorAll("main > section")];
  const links = [...document.querySelectorAll(".steps a")];
  const mark = () => {
    mark.waiting = null;
    const middle = innerHeight * 0.4;
    const here = sections.filter((s) => s.getBoundingClientRect().top <= middle).at(-1) ?? sections[0];
    if (state.step !== here.id || !mark.done) {
      mark.done = true;
      state.step = here.id;
      for (const link of links) {
        if (link.dataset.to === here.id) {
          link.setAttribute("aria-current", "step");
          const bar = link.closest("ol");
          // Not under a pointer, which would then hit another link than the one aimed at.
          if (!bar.matches(":hover")) bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2 + link.clientWidth / 2 });
        } else link.removeAttribute("aria-current");
      }
      saveState();
    }
  };
  addEventListener("scroll", () => (mark.waiting ??= requestAnimationFrame(mark)), { passive: true });
  mark();
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-to]");
    if (!link) return;
    event.preventDefault();
    goTo(link.dataset.to);
  });

  const body = document.body;
  watch(body, ["image", "weights", "label"], () => {
    const { p } = forwardPass();
    const { index, pixels } = shown();
    const predicted = argmax(p);
    drawThumbnail(byId("now-image"), pixels);
    byId("now-text").replaceChildren(
      ...(index === null ? [el("span", { class: "wide-only" }, "your "), "drawing"] : [`image ${index}`]), ": ", el("span", { class: "wide-only" }, "predicted "), el("b", {}, String(predicted)), ` (${percent(p[predicted])}), `, ...(state.label === null ? ["no label", el("span", { class: "wide-only" }, " yet")] : ["label ", el("b", {}, String(state.label))]),
    );
    byId("now-reset").hidden = !state.broken.length;
    byId("now-reset").title = `In force: ${inForce()}. Restore the trained weights.`;
  });
  visible.add(body);
}

function goTo(id) {
  goTo.last = id;
  const section = byId(id);
  section.scrollIntoView({ block: "start" });
  const title = section.querySelector("h2");
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}

function main() {
  readTheme();
  fillWords();
  byId("run-name").textContent = data.run;
  byId("parameter-total").textContent = counted(parameterCount);
  const step = readAddress();
  if (!new URLSearchParams(location.hash.slice(1)).has("neuron")) {
    state.neuron = strongestNeuron(0);
    state.input = strongestInput();
  }

  const panels = [inputPanel, layersPanel, reluPanel, countPanel, lossPanel, backwardPanel, updatePanel, evidencePanel];
  for (const panel of panels) panel();
  outside();
  byId("link-close").addEventListener("click", () => (byId("link-notice").hidden = true));
  followScroll();
  buildTour();

  // Panels are drawn when they come near the viewport; all of them before printing
  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) visible.add(target);
        else visible.delete(target);
      }
      redraw();
    },
    { rootMargin: "60px" },
  );
  for (const section of document.querySelectorAll("main > section")) near.observe(section);
  addEventListener("beforeprint", () => redraw(true));
  matchMedia("print").addEventListener("change", () => {
    readTheme(); // paper is light
    changed("size");
    redraw(true);
  });

  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) changed("size"); // not when a phone's address bar appears or disappears
    width = innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readTheme();
    changed("size");
  });
  addEventListener("hashchange", () => {
    const to = readAddress();
    if (to) goTo(to);
  });

  visible.add(byId("input"));
  redraw();
  document.documentElement.dataset.ready = "yes";
  performance.mark("first-picture");
  setTimeout(() => {
    redraw(true); // so that every panel has its final height before the user scrolls
    const to = goTo.last ?? step; // what was clicked by now, or else the link's step
    if (to && to !== "input") goTo(to);
    checkPage().then(() => changed("weights")); // and measure a forward pass again
  }, 30); // after the first frame

  // For the browser's console, and for tests
  globalThis.explorer = {
    data, state, examples, prepare, luminance, readGrey, forward, crossEntropy, forwardPass, backwardPass, shown, showImage,
    chooseNeuron, chooseLabel, showDrawing, trained, network: () => net,
  };
}

main();

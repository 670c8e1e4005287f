// The page as a whole: its badge, the strip that follows the reader, the guided path.

const LOGITS_APART = 1e-4;
const GRADIENTS_APART = 1e-4; // of the tensor's largest entry

/** This page's arithmetic against PyTorch's numbers: [{says, right}]. */
function checkLogits() {
  const apart = examples.reduce((most, { x, logits }) => {
    const mine = forward(trained, x).logits;
    return Math.max(most, largest(mine.map((v, i) => v - logits[i])));
  }, 0);
  return {
    right: apart <= LOGITS_APART,
    apart,
    says: `Logits of the ${examples.length} test images in this page: at most ${number(apart, 1)} from PyTorch’s, where ${number(LOGITS_APART, 1)} is allowed.`,
  };
}

function checkGradients() {
  let apart = 0;
  for (const { image, tensors } of data.gradients) {
    const { x, label } = examples[image];
    const gradients = zeroGradients(trained);
    backward(trained, forward(trained, x), label, gradients);
    for (const { name, norm, largest: most, positions, values } of tensors) {
      const [, layer, kind] = name.match(/^layer(\d)\.(weight|bias)$/);
      const mine = gradients[kind === "weight" ? "W" : "b"][layer - 1];
      const scale = most || 1;
      const mineNorm = Math.sqrt(mine.reduce((s, v) => s + v * v, 0));
      apart = Math.max(apart, Math.abs(mineNorm - norm) / scale, Math.abs(largest(mine) - most) / scale);
      positions.forEach((at, i) => (apart = Math.max(apart, Math.abs(mine[at] - values[i]) / scale)));
    }
  }
  return {
    right: apart <= GRADIENTS_APART,
    apart,
    says: `Gradients of ${data.gradients.length} images, each tensor’s norm and sampled entries: at most ${number(apart, 1)} of the tensor’s largest from PyTorch’s float64 ones, where ${number(GRADIENTS_APART, 1)} is allowed.`,
  };
}

/** SHA-256 over the weights, tensors in name order, as `mnist-mlp eval --json` gives it. */
async function checkHash() {
  if (!globalThis.crypto?.subtle) return { right: null, says: "This browser computes no SHA-256 here: the weights’ hash was not checked." };
  const parts = [];
  const order = trained.W.map((_, k) => k);
  for (const k of order) parts.push(trained.b[k], trained.W[k]); // layer1.bias, layer1.weight, …
  const floats = Float32Array.from(parts.flatMap((part) => Array.from(part)));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", floats));
  const text = Array.from(digest, (v) => v.toString(16).padStart(2, "0")).join("");
  return {
    right: text === data.weights_sha256,
    says: text === data.weights_sha256
      ? `The weights’ SHA-256 is the run’s: ${text.slice(0, 16)}…`
      : `The weights’ SHA-256 is ${text.slice(0, 16)}…, and the run’s is ${data.weights_sha256.slice(0, 16)}…: these are not its weights.`,
  };
}

async function earnBadge() {
  const [logits, gradients, hash] = [checkLogits(), checkGradients(), await checkHash()];
  const all = [logits, gradients, hash];
  const bad = all.filter(({ right }) => right === false);
  const badge = byId("badge");
  badge.classList.add(bad.length ? "bad" : "good");
  badge.dataset.state = bad.length ? "bad" : "good";
  badge.querySelector(".badge-mark").textContent = bad.length ? "✗" : "✓";
  byId("badge-text").textContent = bad.length
    ? `Do not trust this page: ${bad.map(({ says }) => says).join(" ")}`
    : `Checked just now against PyTorch: the logits of ${examples.length} images agree to ${number(logits.apart, 1)}, the gradients to ${number(gradients.apart, 1)} of the largest.`;
  byId("badge-details").replaceChildren(
    el("ul", {}, ...all.map(({ says, right }) => el("li", {}, `${right ? "✓" : right === null ? "–" : "✗"} ${says}`))),
    el("p", {}, "PyTorch’s numbers were computed in float64 from the run’s float32 weights when the page was written, and lie in it. Nothing on this page is looked up: your browser computes every number you see, and asks no other machine for anything."),
  );
}

// The guided path: one sentence a step

const strongestNeuron = (layer) => argmax(pass().a[layer + 1]);

function takeStep(exponent) {
  byId("rate").value = exponent;
  byId("rate").dispatchEvent(new Event("input"));
  byId("step").click();
}

const PATH = [
  ["input", "#seen", "This is all that the network gets: 784 numbers. Move over the image to read them.", () => {}],
  ["input", ".pad-card", "Draw a digit of your own; it is cropped and centred as MNIST’s were, and read at once.", () => {}],
  ["layers", "#network", "The numbers flow from the image to the answer. Each square is a neuron; the blue ones fire.", () => chooseNeuron(0, strongestNeuron(0))],
  ["layers", ".product", "This is the neuron that fires most: its 784 weights, times the image, pixel by pixel.", () => chooseNeuron(0, strongestNeuron(0))],
  ["layers", ".sum", "Add up the products, add the bias, and ReLU keeps the sum if it is positive. Press Play.", () => {}],
  ["layers", "#network", "The last layer does the same with what the others hand on. Its winning sum is the answer.", () => chooseNeuron(layerCount - 1, argmax(pass().p))],
  ["relu", "#matrices", "Take ReLU out, and the matrices multiply into one: depth would be worth nothing.", () => byId("merge").disabled || byId("merge").click()],
  ["count", "#count-rows", "Count the numbers, as the lesson does: rows × columns + biases, layer by layer.", () => {}],
  ["loss", "#logits", "Softmax turns scores into probabilities. The lesson’s own example gives 0.983, not its 0.96.", () => byId("loss-lesson").click()],
  ["loss", "#loss-curve", "The loss is −ln of what the right digit got: cheap to be right, dear to be sure and wrong.", () => {}],
  ["input", "#gallery", "Now look at a mistake: this image is among those it gets most confidently wrong.", () => showImage(0)],
  ["backward", "#blame", "p − y says what each logit should have been: too high is blue, too low is orange.", () => {}],
  ["backward", "#factors", "Each factor of the chain is something you have seen already: W₃, W₂, zeros and ones, x.", () => {}],
  ["backward", "#weight-formula", "One weight’s gradient is just two numbers multiplied; nudging the weight gives the same slope.", () => byId("weight-steepest").click()],
  ["update", "#step-text", "Take one small step against the gradient, and the loss of this image falls.", () => takeStep(-3)],
  ["update", "#train-curve", "From random weights the page learns before your eyes. Press Random weights, then Train.", () => {}],
  ["evidence", "#confusion", "Back to the trained weights, and the only score that counts: images it never learned from. Open a cell.", () => state.altered && byId("now-reset").click()],
];

function buildTour() {
  const tour = byId("tour");
  let at = 0;
  const unmark = () => document.querySelector(".pointed-at")?.classList.remove("pointed-at");
  const go = (to) => {
    at = Math.max(0, Math.min(PATH.length - 1, to));
    const [section, target, sentence, act] = PATH[at];
    unmark();
    act();
    const element = byId(section).querySelector(target);
    element.classList.add("pointed-at");
    const block = element.offsetHeight > innerHeight / 2 ? "start" : "center";
    element.scrollIntoView({ block, behavior: calm() ? "auto" : "smooth" });
    byId("tour-text").textContent = sentence;
    byId("tour-count").textContent = `${at + 1} of ${PATH.length}`;
    byId("tour-back").disabled = at === 0;
    byId("tour-next").textContent = at === PATH.length - 1 ? "Done" : "Next";
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
  byId("tour-next").addEventListener("click", () => (at === PATH.length - 1 ? close() : go(at + 1)));
  byId("tour-back").addEventListener("click", () => go(at - 1));
  byId("tour-close").addEventListener("click", close);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !tour.hidden) close();
  });
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// The strip that goes along

function followReader() {
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
          bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2 + link.clientWidth / 2 });
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
    const { p } = pass();
    const { index, pixels } = shown();
    const said = argmax(p);
    drawThumbnail(byId("now-image"), pixels);
    byId("now-text").replaceChildren(
      index === null ? "your drawing " : `image ${index} `, "reads ", el("b", {}, String(said)), ` · ${percent(p[said])} · label `, el("b", {}, String(state.label)),
    );
    byId("now-reset").hidden = !state.altered;
    byId("now-reset").title = `Changed: ${state.altered}. Put the trained weights back.`;
  });
  visible.add(body);
}

function goTo(id, behavior = calm() ? "auto" : "smooth") {
  const section = byId(id);
  section.scrollIntoView({ behavior, block: "start" });
  // What is drawn on the way may move it.
  addEventListener("scrollend", () => section.scrollIntoView({ block: "start" }), { once: true });
  const title = section.querySelector("h2");
  title.tabIndex = -1;
  title.focus({ preventScroll: true });
}

function commands() {
  const { index } = shown();
  const image = index === null ? `--image FILE --label ${state.label}` : `--index ${index}`;
  const texts = {
    trace: `mnist-mlp trace RUN ${image} --json`,
    step: `mnist-mlp trace RUN ${image} --learning-rate ${Number(byId("rate").value) ? Number((10 ** byId("rate").value).toPrecision(4)) : 1} --json`,
    eval: "mnist-mlp eval RUN --json",
  };
  for (const code of document.querySelectorAll("code.command")) code.textContent = texts[code.dataset.command];
}

function main() {
  readTheme();
  byId("run-name").textContent = data.run;
  byId("parameter-total").textContent = counted(parameterCount);
  const step = readAddress();
  if (!new URLSearchParams(location.hash.slice(1)).has("neuron")) {
    state.neuron = strongestNeuron(0);
    state.input = strongestInput();
  }

  const panels = [inputPanel, layersPanel, reluPanel, countPanel, lossPanel, backwardPanel, updatePanel, evidencePanel];
  for (const panel of panels) panel();
  watch(document.body, ["image", "label", "rate"], commands);
  followReader();
  buildTour();

  // Panels are drawn when they come near; for a printer, all of them
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
    if (innerWidth !== width) changed("size"); // not where a phone's address bar comes and goes
    width = innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readTheme();
    changed("size");
  });
  addEventListener("hashchange", () => {
    const to = readAddress();
    if (to) goTo(to, "auto");
  });

  visible.add(byId("input"));
  redraw();
  document.documentElement.dataset.ready = "yes";
  performance.mark("first-picture");
  setTimeout(() => {
    redraw(true); // so that every panel has its height before the reader scrolls
    if (step && step !== "input") goTo(step, "auto");
    earnBadge().then(() => changed("weights")); // and tell the time of one look anew
  }, 30); // after the first picture

  // For the reader's console, and for tests
  globalThis.explorer = {
    data, state, examples, see, luminance, greyOf, forward, crossEntropy, pass, blame, shown, showImage,
    chooseNeuron, chooseLabel, showDrawing, trained, network: () => net,
  };
}

main();

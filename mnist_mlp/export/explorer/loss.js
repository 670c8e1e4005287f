// Panel 5: ten logits to drag, their softmax, and the loss.

const LESSON_LOGITS = [1.2, 0.3, -0.5, 0.1, 3.8, 0.2, -0.1, 8.1, 0.4, 0.9];
const LESSON_PRINTED = [0.01, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.96, 0.0, 0.01];
const LESSON_LABEL = 7;

/** The panel's logits and label, from the lesson, the image, or by hand. */
const chosenLogits = { logits: LESSON_LOGITS.slice(), label: LESSON_LABEL, from: "lesson" };

function lossPanel() {
  const section = byId("loss");
  const chosen = chosenLogits;
  const holder = byId("logits");
  holder.append(
    el("div", { class: "logit head", "aria-hidden": "true" }, ...["", "logit z", "", "eᶻ", "softmax", ""].map((t) => el("span", {}, t))),
  );
  const rows = Array.from({ length: CLASSES }, (_, digit) => {
    const slider = el("input", { type: "range", min: -15, max: 25, step: 0.1, "aria-label": `Logit of the digit ${digit}`, "data-digit": digit });
    const label = el("button", { type: "button", class: "digit", "aria-label": `The true label is ${digit}`, onclick: () => {
      chosen.label = digit;
      if (chosen.from === "image") chooseLabel(digit);
      changed("logits");
    } }, String(digit));
    const [value, exponential, probability] = ["value", "value exp", "value"].map((c) => el("span", { class: c }));
    const bar = el("span", { class: "bar" });
    slider.addEventListener("input", () => {
      chosen.logits[digit] = Number(slider.value);
      chosen.from = "hand";
      changed("logits");
    });
    const row = el("div", { class: "logit" }, label, slider, value, exponential, el("span", { class: "track" }, bar), probability);
    holder.append(row);
    return { slider, label, value, exponential, bar, probability, row };
  });

  const preset = (id, from, logits, label) =>
    byId(id).addEventListener("click", () => {
      Object.assign(chosen, { from, logits: Array.from(logits()), label: label() });
      changed("logits");
    });
  preset("loss-lesson", "lesson", () => LESSON_LOGITS, () => LESSON_LABEL);
  preset("loss-image", "image", () => forwardPass().logits, () => state.label);
  preset("loss-flat", "hand", () => new Array(CLASSES).fill(0), () => chosen.label);
  watch(section, ["image", "weights", "label"], () => {
    if (chosen.from !== "image") return;
    chosen.logits = Array.from(forwardPass().logits);
    chosen.label = state.label;
    changed("logits");
  });

  watch(section, ["logits"], () => {
    const p = softmax(chosen.logits);
    const low = Math.min(-15, ...chosen.logits);
    const high = Math.max(25, ...chosen.logits);
    const best = argmax(p);
    rows.forEach(({ slider, label, value, exponential, bar, probability, row }, i) => {
      [slider.min, slider.max] = [Math.floor(low), Math.ceil(high)];
      slider.value = chosen.logits[i];
      value.textContent = fixed(chosen.logits[i], 1);
      exponential.textContent = number(Math.exp(chosen.logits[i]));
      bar.style.transform = `scaleX(${p[i]})`;
      probability.textContent = fixed(p[i], 3);
      label.setAttribute("aria-pressed", i === chosen.label);
      row.classList.toggle("best", i === best);
      row.classList.toggle("true", i === chosen.label);
      slider.setAttribute("aria-valuetext", `${fixed(chosen.logits[i], 1)}, probability ${fixed(p[i], 3)}`);
    });
    byId("loss-lesson").setAttribute("aria-pressed", chosen.from === "lesson");
    byId("loss-image").setAttribute("aria-pressed", chosen.from === "image");
    byId("logit-sum").textContent = `The ten probabilities add up to ${fixed(p.reduce((s, v) => s + v, 0), 3)}. Click a digit to make it the true label.`;
    const known = chosen.label !== null; // a drawing has no label until one is chosen
    const loss = known ? crossEntropy(chosen.logits, chosen.label) : null;
    const q = known ? p[chosen.label] : null;
    byId("loss-formula").replaceChildren(
      ...(known ? [`loss = −ln p[${chosen.label}] = −ln ${q < 0.001 ? number(q) : fixed(q, 3)} = `, el("b", {}, fixed(loss, 4))] : ["The loss needs the true digit: click it."]),
    );
    drawLossCurve(q, loss);
    byId("loss-note").replaceChildren(...note(chosen, p, loss));
  });
}

function note({ from, label }, p, loss) {
  if (from === "lesson" && label === LESSON_LABEL) {
    return [
      el("b", {}, "The lesson prints 0.96 here, but the softmax of these logits is "), el("b", {}, fixed(p[7], 3)), ". ",
      `It prints [${LESSON_PRINTED.map((v) => fixed(v, 2)).join(", ")}]; the correct values are [${Array.from(p, (v) => fixed(v, 2)).join(", ")}]. `,
      `So the loss is ${fixed(loss, 4)}, not −ln 0.96 = 0.04. The method and the predicted digit, 7, are correct.`,
    ];
  }
  if (from === "image")
    return [`These are the logits of the image in step 1 with the current weights. ${label === null ? "The drawing has no label yet." : `The true label is ${label}.`}`];
  return ["Only differences between logits matter: adding a constant to all ten changes no probability. Equal logits give 1/10 each and a loss of ln 10 = 2.303, about that of an untrained network."];
}

function drawLossCurve(p, loss) {
  const most = 5;
  const plot = chart(byId("loss-curve"), {
    height: 280,
    x: [0, 1],
    y: [0, most],
    xText: "probability of the true digit",
    yText: "loss −ln p",
    label: `The curve of −ln p.${p === null ? "" : ` Here p is ${number(p)} and the loss is ${number(loss)}.`}`,
  });
  const points = Array.from({ length: 201 }, (_, i) => {
    const v = Math.exp(-most) + (1 - Math.exp(-most)) * (i / 200) ** 2;
    return [v, -Math.log(v)];
  });
  plot.line(points, { class: "line" });
  const mark = (v, text, dx, dy, anchor = "start") => {
    plot.add("circle", { cx: plot.sx(v), cy: plot.sy(-Math.log(v)), r: 4, class: "mark" });
    plot.add("text", { x: plot.sx(v) + dx, y: plot.sy(-Math.log(v)) + dy, "text-anchor": anchor }, text);
  };
  mark(0.1, "0.10 = 1/10, a guess: 2.303", 10, 4);
  mark(0.96, "the lesson’s 0.96: 0.041", -2, -34, "end");
  plot.add("line", { x1: plot.sx(0.96), x2: plot.sx(0.96) - 4, y1: plot.sy(0.041) - 6, y2: plot.sy(0.041) - 30, class: "gridline" });
  if (p === null) return;
  const [x, y] = [plot.sx(p), plot.sy(Math.min(most, loss))];
  plot.add("line", { x1: x, x2: x, y1: y, y2: plot.sy(0), class: "drop" });
  plot.add("line", { x1: plot.left, x2: x, y1: y, y2: y, class: "drop" });
  plot.add("circle", { cx: x, cy: y, r: 6, class: "dot" });
  if (loss > most) plot.add("text", { x: x + 10, y: y + 12 }, `off the chart: ${fixed(loss, 1)}`);
}

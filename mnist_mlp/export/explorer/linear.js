// Panels 3 and 4: merging the layers without the activation function, and counting the parameters.

function reluPanel() {
  const section = byId("relu");
  let merged = 0; // the number of matrices multiplied so far; 0: none
  let timer = null;
  const sizes = trained.sizes;

  /** The matrices that remain after merging, the last layer's first. */
  const factors = () => {
    const blocks = [];
    const from = merged ? layerCount - merged : layerCount; // the layers from `from` on are merged
    if (merged) blocks.push({ name: Array.from({ length: merged }, (_, i) => `W${sub(layerCount - i)}`).join(""), rows: sizes.at(-1), columns: sizes[from] });
    for (let k = from - 1; k >= 0; k--) blocks.push({ name: `W${sub(k + 1)}`, rows: sizes[k + 1], columns: sizes[k], k });
    return blocks;
  };

  const drawMatrices = () => {
    const blocks = factors();
    const side = (n) => `${Math.round(16 + (byId("matrices").clientWidth > 800 ? 11 : 6.2) * Math.sqrt(n))}px`;
    const parts = [el("span", { class: "operator" }, "z ="), ];
    blocks.forEach((block, i) => {
      const canvas = el("canvas", { width: block.columns, height: block.rows, "aria-hidden": "true" });
      paint(canvas, weightsOf(block), block.columns);
      canvas.style.width = side(block.columns);
      canvas.style.height = side(block.rows);
      const first = i === 0 && merged;
      const figure = el("figure", { class: first ? "matrix merged" : "matrix" }, canvas, el("figcaption", {}, el("b", {}, block.name), ` ${block.rows} × ${block.columns}`));
      if (i > 0) parts.push(el("span", { class: "operator" }, merged ? "·" : `${word.name}(`));
      parts.push(figure);
    });
    parts.push(el("span", { class: "operator" }, `x ${merged ? "" : ")".repeat(layerCount - 1)} + biases`));
    byId("matrices").replaceChildren(...parts);
  };

  const weightsOf = (block) => {
    if (block.k !== undefined) return net.W[block.k];
    const from = layerCount - merged;
    return mergedLayer({ sizes: sizes.slice(from), W: net.W.slice(from), b: net.b.slice(from) }).W;
  };

  const show = () => {
    drawMatrices();
    const whole = merged === layerCount;
    byId("merge").disabled = merged > 0;
    byId("merge-undo").disabled = merged === 0;
    byId("merge-result").hidden = !whole && hidden > 0;
    if (!hidden) return drawTemplates(net.W[0]);
    if (!whole) {
      byId("merge-text").textContent = merged
        ? "The product of two matrices is one matrix that replaces both."
        : activation === "identity"
          ? ""
          : `Between the ${layerCount} matrices, ${word.name} prevents merging them: what it does to a sum depends on the image.`;
      return;
    }
    const one = mergedLayer(net);
    const { x } = shown();
    const stack = forward(net, x, "identity").logits;
    const single = linear(one.W, one.b, x);
    const real = forwardPass().logits;
    const difference = largest(stack.map((v, i) => v - single[i]));
    const without = activation === "identity" ? "layers" : `layers without ${word.name}`;
    const row = (cells, kind = "td") => el("tr", {}, ...cells.map((c, i) => el(i && kind === "td" ? "td" : "th", { scope: kind === "th" ? "col" : "row" }, c)));
    byId("merge-table").replaceChildren(
      el("thead", {}, row(["digit", without, "merged layer", "difference", `with ${word.name}`], "th")),
      el("tbody", {}, ...Array.from({ length: CLASSES }, (_, i) =>
        row([String(i), fixed(stack[i], 3), fixed(single[i], 3), number(stack[i] - single[i], 1), fixed(real[i], 3)]))),
    );
    const rightMerged = countRight(({ x: each }) => linear(one.W, one.b, each));
    byId("merge-text").textContent =
      `The ${layerCount} ${without} and the merged layer agree to ${number(difference, 1)}, which is rounding error. ` +
      `Of ${data.random} test images chosen at random, the network classifies ${rightNow()} correctly with ${word.name} and ${rightMerged} merged.`;
    drawTemplates(one.W);
  };

  const go = () => {
    merged = merged ? merged + 1 : 2;
    if (merged > layerCount || reducedMotion()) merged = layerCount;
    show();
    if (merged < layerCount) timer = setTimeout(go, Math.min(1400, 4200 / hidden));
  };
  byId("merge").addEventListener("click", () => {
    merged = 1;
    go();
    byId("merge-undo").focus();
  });
  byId("merge-undo").addEventListener("click", () => {
    clearTimeout(timer);
    merged = 0;
    show();
    byId("merge").focus();
  });
  byId("merge-buttons").hidden = byId("merge-outputs").hidden = !hidden;
  watch(section, ["image", "weights"], show);
}

/** Shows the ten rows of a 10 × 784 matrix as images. */
function drawTemplates(W) {
  const most = largest(W);
  byId("templates").replaceChildren(
    ...Array.from({ length: CLASSES }, (_, i) => {
      const canvas = el("canvas", { width: 84, height: 84, role: "img", "aria-label": `Template of the digit ${i}` });
      paint(canvas, W.subarray(784 * i, 784 * (i + 1)), SIDE, { most: most * 0.6 });
      return el("figure", {}, canvas, el("figcaption", {}, String(i)));
    }),
  );
}

function countPanel() {
  const section = byId("count");
  const canvas = byId("all-numbers");
  const total = parameterCount;
  const names = trained.W.map((W, k) => ({ rows: outputsOf(trained, k), columns: inputsOf(trained, k), k }));
  const most = Math.max(...names.map(({ rows, columns }) => rows * columns));
  byId("count-rows").replaceChildren(
    ...names.map(({ rows, columns, k }) => {
      const bar = el("span", { class: "count-bar" });
      bar.style.width = `${Math.max(0.6, (100 * rows * columns) / most)}%`;
      const text = `${counted(rows)} × ${counted(columns)} + ${counted(rows)} = `;
      return el("div", { class: "count-row" }, el("b", {}, `Layer ${k + 1}`), el("span", { class: "formula" }, text, el("b", {}, counted(rows * columns + rows))), el("span", { class: "count-track", "aria-hidden": "true" }, bar));
    }),
    el("div", { class: "count-row total" }, el("b", {}, "Total"), el("span", { class: "formula" }, el("b", { id: "count-total" }, counted(total)), " parameters")),
  );
  const untrainedWeights = data.never_lit.length * outputsOf(trained, 0);
  byId("count-still-text").textContent = "Highlight the weights whose gradient was always 0";
  byId("count-note").textContent = data.never_lit.length
    ? `The lesson says that every parameter was learned. That is not quite true: ${data.never_lit.length} pixels are 0 in all ${counted(data.training_images)} training images, so the gradient of their ${data.never_lit.length} × ${outputsOf(trained, 0)} = ${counted(untrainedWeights)} weights was exactly 0 at every update.`
    : "";

  let unfolded = 0; // the number of parameters drawn so far
  let frame = null;
  let flat = null;
  const columns = () => Math.max(280, Math.min(784, Math.floor(canvas.parentElement.clientWidth - 40)));
  const neverLit = new Set(data.never_lit);

  const draw = () => {
    if (canvas.hidden) return;
    const width = columns();
    const height = Math.ceil(total / width);
    [canvas.width, canvas.height] = [width, height];
    const image = new ImageData(width, height);
    const mark = byId("count-still").checked;
    let at = 0;
    net.W.forEach((W, k) => {
      const strongest = largest(W) * 0.5;
      const put = (values, weights) => values.forEach((v, i) => {
        if (at >= unfolded) return;
        const dull = mark && !(k === 0 && weights && neverLit.has(i % 784));
        const [r, g, b] = mark ? (dull ? theme.line : theme.accent) : diverging(v, strongest);
        image.data.set([r, g, b, 255], 4 * at++);
      });
      put(W, true);
      put(net.b[k], false);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `All ${counted(total)} parameters as coloured dots, layer by layer`);
  };

  const unfold = () => {
    canvas.hidden = false;
    if (reducedMotion()) unfolded = total;
    const start = performance.now() - 1;
    const tick = (time) => {
      unfolded = Math.min(total, Math.max(unfolded === total ? total : 0, Math.round((total * (time - start)) / 2500)));
      byId("count-text").textContent = unfolded < total ? `${counted(unfolded)} of ${counted(total)}` : `All ${counted(total)} parameters, one dot each. Point at a dot to see its value.`;
      draw();
      if (unfolded < total) frame = requestAnimationFrame(tick);
    };
    cancelAnimationFrame(frame);
    tick(start);
  };
  byId("count-unfold").addEventListener("click", () => {
    unfolded = 0;
    unfold();
  });
  byId("count-still").addEventListener("change", () => {
    if (canvas.hidden) {
      unfolded = total;
      canvas.hidden = false;
    }
    draw();
    if (byId("count-still").checked)
      byId("count-text").textContent = `${counted(untrainedWeights)} of ${counted(total)} parameters always had a gradient of 0: ${percent(untrainedWeights / total)}`;
  });

  /** The parameter under the pointer, or null. */
  const which = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
    let at = y * canvas.width + x;
    for (let k = 0; k < layerCount; k++) {
      const width = inputsOf(net, k);
      if (at < net.W[k].length) return { k, row: Math.floor(at / width), column: at % width, value: net.W[k][at] };
      at -= net.W[k].length;
      if (at < net.b[k].length) return { k, row: at, column: null, value: net.b[k][at] };
      at -= net.b[k].length;
    }
    return null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const found = which(event);
    if (!found) return;
    const { k, row, column, value } = found;
    const name = column === null ? `layer${k + 1}.bias[${row}]` : `layer${k + 1}.weight[${row}, ${column}]`;
    byId("count-text").textContent = `${name} = ${number(value, 4)}`;
  });
  canvas.addEventListener("click", (event) => {
    const found = which(event);
    if (!found) return;
    chooseNeuron(found.k, found.row);
    if (found.column !== null) state.input = found.column;
    changed("input");
  });
  watch(section, ["weights"], draw);
}

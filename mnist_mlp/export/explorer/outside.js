// The same numbers outside this page: for each step, a command and a line of Python. After the three
// lines that load the exported weights, each step's line, in their order, gives the page's number.

function outside() {
  const exported = JSON.stringify(`${data.run}.safetensors`);
  const load = `model.load_state_dict(load_file(${exported}))`;
  byId("load-torch").textContent = [
    "import mnist_mlp, torch; from torch.nn import functional as F; from safetensors.torch import load_file",
    `model = mnist_mlp.build_mlp([${data.sizes.join(", ")}], "${activation}").double(); ${load}`,
    `test = mnist_mlp.load_dataset(${data.dataset === "mnist" ? '"mnist", "data"' : `"${data.dataset}"`}).test`,
  ].join("\n");
  const layers = trained.W.map((_, k) => k + 1);
  // W3 @ W2 @ W1 @ x, plus each bias multiplied by the later layers' weights
  const through = (k) => layers.slice(k).map((layer) => `W${layer} @ `).reverse().join("");
  const merged = [`${through(0)}x`, ...layers.map((layer) => `${through(layer)}b${layer}`)].join(" + ");

  const lines = () => {
    const { index, pixels } = shown();
    const { layer: k, neuron: i, input: j, label } = state;
    const hex = (v) => v.toString(16).padStart(2, "0");
    const image = index === null
      ? `torch.tensor(list(bytes.fromhex("${Array.from(pixels, hex).join("")}"))).div(255)`
      : `test.images[${index}]`;
    const upTo = layers.slice(0, k + 1).map((n) => {
      const z = `z${n} = model.layer${n}(${n > 1 ? `a${n - 1}` : "x"}); `;
      return n < layerCount ? `${z}a${n} = model.${activation}${n}(z${n}); ` : z;
    });
    const lossOf = (logits, y = label) => `F.cross_entropy(${logits}, torch.tensor(${y}))`;
    const labelled = (line) => (label === null ? "# choose the drawing’s label first" : line);
    const model = "model(x[None])[0]";
    const { from, logits, label: y } = chosenLogits;
    return {
      input: `x = ${image}.double(); x[${state.pixel}].item()`,
      layers: `${upTo.join("")}${k + 1 < layerCount ? `z${k + 1}[${i}].item(), a${k + 1}[${i}].item()` : `z${k + 1}[${i}].item()`}`,
      relu: `${layers.map((layer) => `W${layer}, b${layer}`).join(", ")} = model.parameters(); (${merged}).tolist()`,
      count: "sum(p.numel() for p in model.parameters())",
      loss: from === "image"
        ? labelled(`${lossOf(model)}.item()`)
        : `${lossOf(`torch.tensor([${logits.join(", ")}], dtype=torch.float64)`, y)}.item()`,
      backward: labelled(`model.zero_grad(); ${lossOf(model)}.backward(); model.layer${k + 1}.weight.grad[${i}, ${j}].item()`),
      update: labelled(`torch.optim.SGD(model.parameters(), lr=${learningRate()}).step(); ${lossOf(model)}.item()`),
      evidence: `${load}; (model(test.images.double()).argmax(1) == test.labels).double().mean().item()`,
    };
  };

  const commands = () => {
    const { index } = shown();
    const labelled = state.label === null ? "" : ` --label ${state.label}`;
    const image = index === null ? `--image FILE${labelled}` : `--index ${index}`;
    return {
      trace: `mnist-mlp trace RUN ${image} --json`,
      step: `mnist-mlp trace RUN ${image} --learning-rate ${learningRate()} --json`,
      count: `mnist-mlp count-params 'model.layer_sizes=[${data.sizes.join(",")}]'`,
      eval: "mnist-mlp eval RUN --json",
    };
  };

  watch(document.body, ["image", "label", "rate", "neuron", "input", "pixel", "logits", "weights"], () => {
    const { index, label } = shown();
    const relabelled = index !== null && state.label !== label;
    for (const [kind, texts] of Object.entries({ torch: lines(), command: commands() }))
      for (const code of document.querySelectorAll(`code.${kind}`)) {
        const name = code.dataset[kind];
        const notes = [];
        if (state.broken.length && !["input", "count", "eval", "evidence"].includes(name)) notes.push("the trained weights, not this page’s");
        if (relabelled && ["trace", "step"].includes(name)) notes.push(`the image’s own label, ${label}`);
        code.textContent = texts[name];
        code.dataset.note = notes.length ? `  # with ${notes.join("; ")}` : ""; // shown, and not copied
      }
  });
}

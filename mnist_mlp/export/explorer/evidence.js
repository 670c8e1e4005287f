// Panel 8: the confusion matrix with its images, the training curves, and the run's details.

function evidencePanel() {
  const section = byId("evidence");
  const right = data.confusion.reduce((s, row, i) => s + row[i], 0);
  byId("evidence-summary").textContent =
    `This network classifies ${counted(right)} of ${counted(testImages)} test images correctly: ${((100 * right) / testImages).toFixed(2)}%.`;

  // The confusion matrix
  const cellImages = (truth, predicted) =>
    examples.map((e, i) => ({ ...e, place: i })).filter((e) => e.label === truth && e.predicted === predicted).map((e) => e.place);
  const worst = Math.max(...data.confusion.flatMap((row, i) => row.filter((_, j) => j !== i)));
  const table = byId("confusion");
  const heads = Array.from({ length: CLASSES }, (_, i) => el("th", { scope: "col" }, String(i)));
  const choose = (truth, predicted) => {
    for (const button of table.querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.dataset.cell === `${truth}${predicted}`);
    const places = cellImages(truth, predicted);
    buildGallery(byId("confusion-images"), places);
    const all = data.confusion[truth][predicted];
    byId("confusion-text").textContent =
      `${counted(all)} images with label ${truth} were predicted as ${predicted}; ${places.length === all ? "all" : places.length || "none"} of them ${places.length === 1 ? "is" : "are"} in this page.`;
    if (places.length && truth !== predicted) showImage(places[0]);
  };
  table.append(
    el("thead", {}, el("tr", {}, el("td", {}), ...heads)),
    el("tbody", {}, ...data.confusion.map((row, truth) =>
      el("tr", {}, el("th", { scope: "row" }, String(truth)), ...row.map((count, predicted) => {
        const button = el("button", {
          type: "button", "data-cell": `${truth}${predicted}`, "aria-pressed": "false", tabindex: truth || predicted ? -1 : 0,
          class: truth === predicted ? "right" : count ? "wrong" : "none",
          "aria-label": `${count} images with label ${truth}, predicted ${predicted}`,
          onclick: () => choose(truth, predicted),
        }, count ? String(count) : "·");
        button.style.setProperty("--strength", truth === predicted ? 0 : Math.sqrt(count / (worst || 1)));
        return el("td", {}, button);
      })))),
  );
  roving(table, () => CLASSES);
  watch(section, ["image"], () => {
    for (const button of byId("confusion-images").querySelectorAll("button"))
      button.setAttribute("aria-pressed", Number(button.dataset.place) === state.image);
  });

  // Curves
  const curves = (id, title, series, floor) => {
    const rows = data.rows;
    const values = series.flatMap(({ key }) => rows.map((r) => r[key])).filter((v) => v !== null);
    if (!values.length) return;
    const low = floor === 0 ? 0 : Math.floor(Math.min(...values.filter((v) => v > 0.5)) * 20) / 20;
    const high = floor === 0 ? Math.max(...values) * 1.03 : 1;
    const plot = chart(byId(id), {
      height: 210, x: [0, Math.max(1, rows.at(-1).epoch)], y: [low, high], xText: "epoch", yText: title,
      label: `${title} by epoch. ${series.map(({ key, name }) => `${name}: ${number(rows.at(-1)[key] ?? NaN, 4)} at the end`).join(", ")}.`,
    });
    let place = 0;
    for (const { key, name, kind } of series) {
      const points = rows.filter((r) => r[key] !== null && r[key] >= low).map((r) => [r.epoch, r[key]]);
      if (!points.length) continue;
      plot.line(points, { class: `line ${kind}` });
      for (const [x, y] of points.length < 3 ? points : []) plot.add("circle", { cx: plot.sx(x), cy: plot.sy(y), r: 4, class: `fill-${kind}` });
      const y = floor === 0 ? 26 + 16 * place : plot.height - plot.bottom - 8 - 16 * place;
      plot.add("line", { x1: plot.width - 104, x2: plot.width - 84, y1: y - 4, y2: y - 4, class: `line ${kind}` });
      plot.add("text", { x: plot.width - 78, y }, name);
      place++;
    }
  };
  const kinds = [["train", "one"], ["validation", "two"], ["test", "three"]];
  const series = (what) => kinds.map(([name, kind]) => ({ key: `${name}_${what}`, name, kind }));
  watch(section, [], () => {
    curves("curve-loss", "loss", series("loss"), 0);
    curves("curve-accuracy", "accuracy", series("accuracy"), 0.5);
  });
  byId("curves-text").textContent = data.rows.length
    ? "Epoch 0 is the untrained network, with a loss of about ln 10 = 2.303. Accuracies below 0.5 are not shown."
    : "There are no curves, because this checkpoint has no metrics.jsonl.";

  // The run's details
  const last = data.rows.at(-1);
  const facts = {
    run: data.run,
    network: `${data.sizes.join("-")}${hidden ? `, ${word.name}` : ""}, ${counted(parameterCount)} parameters`,
    "data set": `${data.dataset}, ${counted(data.training_images)} training images, ${counted(testImages)} test images`,
    training: `${data.epoch} epochs, ${counted(data.update)} updates${last ? `, ${last.seconds.toFixed(1)}\u00a0s` : ""}`,
    seed: data.seed,
    versions: Object.entries(data.environment.versions ?? {}).map(([name, v]) => `${name} ${v}`).join(", "),
    weights_sha256: data.weights_sha256,
  };
  list(byId("facts"), facts);
  byId("config").textContent = data.config;
  const { versions, ...rest } = data.environment;
  list(byId("environment"), rest);
}

function list(holder, values) {
  for (const [name, value] of Object.entries(values))
    holder.append(el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value))));
}

// Panel 1: turns a drawing, a photo or a test image into 784 numbers and shows the prediction.

const REDUCED_PIXELS = 4_000_000; // pictures with more pixels are scaled down first
const PAD = 200; // pixels of the drawing pad's side
const LENS = 5; // pixels of the lens's side
const PEN = 15; // line width in pad pixels, about that of MNIST's strokes

function inputPanel() {
  const pad = byId("pad");
  const context = pad.getContext("2d", { willReadFrequently: true });
  const source = { photo: null }; // the selected photo in grey; null: use the pad

  const blank = () => {
    state.padBlank = true;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, PAD, PAD);
  };
  blank();

  /** Preprocesses the pad or the photo. `readSoon` does so at most once a frame. */
  const read = () => {
    read.waiting = null;
    const grey = source.photo ?? luminance(context.getImageData(0, 0, PAD, PAD));
    const prepared = prepare(grey, byId("centring").checked, !source.photo);
    byId("pad-status").textContent = !prepared
      ? "No ink found. Draw something, or choose another picture."
      : (prepared.refusal ?? (prepared.leftOut.length ? `Left out: ${prepared.leftOut.join(", ")}.` : ""));
    if (!prepared || (prepared.refusal && source.photo)) return;
    source.prepared = prepared;
    showDrawing(prepared.pixels);
  };
  const readSoon = () => (read.waiting ??= requestAnimationFrame(read));

  const clear = () => {
    blank();
    source.photo = null;
    byId("pad-hint").hidden = false;
    byId("pad-status").textContent = "The pad is empty. The last image stays selected until you draw.";
  };

  const begin = () => {
    if (source.photo) {
      source.photo = null;
      blank();
    }
    byId("pad-hint").hidden = true;
    context.strokeStyle = context.fillStyle = "#000";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN;
  };

  const stroke = (from, to) => {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0], to[1] + 0.01); // makes a dot if there was no movement
    context.stroke();
    readSoon();
  };

  // Mouse, pen and finger
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * PAD,
      ((event.clientY - box.top) / box.height) * PAD,
    ];
  };
  let last = null;
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    begin();
    last = at(event);
    stroke(last, last);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) {
      stroke(last, at(move));
      last = at(move);
    }
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (last = null));

  // Keyboard: the arrow keys move the pen; Space puts it down or lifts it
  const pen = { x: PAD / 2, y: 40, down: false };
  pad.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const from = [pen.x, pen.y];
    if (event.key === " ") pen.down = !pen.down;
    else {
      pen.x = Math.min(PAD - 10, Math.max(10, pen.x + move[0]));
      pen.y = Math.min(PAD - 10, Math.max(10, pen.y + move[1]));
    }
    if (pen.down) {
      begin();
      stroke(from, [pen.x, pen.y]);
    }
    byId("pad-status").textContent = `Pen ${pen.down ? "down" : "up"} at ${pen.x}, ${pen.y} of ${PAD}.`;
  });

  // Photos: chosen, or dropped onto the page
  const readPhoto = async (file) => {
    if (!file) return;
    try {
      source.photo = await readGrey(file);
    } catch {
      byId("pad-status").textContent = "This browser cannot read this file as a picture.";
      return;
    }
    blank();
    const { data: grey, height, width } = source.photo;
    const copy = new ImageData(width, height);
    grey.forEach((v, i) => copy.data.set([255 * v, 255 * v, 255 * v, 255], 4 * i));
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [width, height];
    whole.getContext("2d").putImageData(copy, 0, 0);
    const by = PAD / Math.max(width, height);
    context.drawImage(whole, (PAD - width * by) / 2, (PAD - height * by) / 2, width * by, height * by);
    byId("pad-hint").hidden = true;
    read();
  };
  byId("photo").addEventListener("change", (event) => {
    readPhoto(event.target.files[0]);
    event.target.value = "";
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    readPhoto(event.dataTransfer.files[0]);
  });

  byId("pad-clear").addEventListener("click", clear);
  byId("centring").addEventListener("change", () => {
    if (source.prepared) read();
    else changed("centring");
  });

  // The input vector
  const seen = byId("seen");
  const choosePixel = (cell) => {
    state.pixel = cell;
    changed("pixel");
  };
  const grid = () => ({ columns: SIDE, count: SIDE * SIDE });
  const { pointed } = gridCanvas(seen, grid, () => state.pixel, choosePixel);
  for (const kind of ["pointermove", "pointerdown"])
    seen.addEventListener(kind, (event) => pointed(event) >= 0 && choosePixel(pointed(event)));

  watch(byId("input"), ["image", "pixel", "centring"], () => {
    const { x } = shown();
    const { pixel } = state;
    paint(seen, x, SIDE, { grey: true, mark: pixel });
    const [row, column] = [Math.floor(pixel / SIDE), pixel % SIDE];
    byId("pixel-text").textContent =
      `row ${row}, column ${column}: x[${pixel}] = ${fixed(x[pixel], 2)}`;
    const from = Math.max(0, Math.min(784 - 9, pixel - 4));
    const window = Array.from(x.subarray(from, from + 9), (v, i) =>
      el(from + i === pixel ? "b" : "span", {}, fixed(v, 2)),
    );
    byId("vector").replaceChildren(
      "x = [ ", from ? "… " : "", ...window.flatMap((e) => [e, " "]), from + 9 < 784 ? "… ]" : "]",
    );
    byId("lens").replaceChildren(
      ...Array.from({ length: LENS * LENS }, (_, n) => {
        const y = row + Math.floor(n / LENS) - (LENS >> 1);
        const x_ = column + (n % LENS) - (LENS >> 1);
        const inside = y >= 0 && y < SIDE && x_ >= 0 && x_ < SIDE;
        const v = inside ? x[y * SIDE + x_] : 0;
        const cell = el("span", { class: n === (LENS * LENS) >> 1 ? "centre" : "" }, inside ? fixed(v, 2).replace("0.", ".") : "");
        cell.style.backgroundColor = inside ? css(greyscale(v)) : "transparent";
        cell.style.color = v > 0.46 ? "#000" : "#fff"; // both have a contrast of at least 4.5
        return cell;
      }),
    );
    const drawn = state.image < 0 && source.prepared?.pixels === state.pixels;
    byId("stage-ink").hidden = !drawn;
    if (drawn) drawInk(source.prepared);
    byId("centring-why").textContent = byId("centring").checked
      ? "In MNIST each digit was cropped, scaled to fit 20 × 20 and centred by its centre of mass. Your drawing is processed in the same way. To see why, switch this off and draw a small digit in a corner."
      : "Switched off: the whole pad is scaled to 28 × 28. The network was trained on centred digits only, and each weight belongs to a fixed pixel: a seven in a corner activates other inputs.";
  });

  // The prediction
  const bars = probabilityBars(byId("input-bars"));
  watch(byId("input"), ["image", "weights", "label"], () => {
    const { p } = forwardPass();
    const { index } = shown();
    const label = index === null ? state.label : shown().label;
    bars(p, label);
    const predicted = argmax(p);
    byId("input-verdict").textContent =
      `${index === null ? "" : `Test image ${index}, label ${label}. `}Prediction: ${predicted} (${percent(p[predicted])})${label === null || predicted === label ? "." : ", a mistake."}`;
    byId("drawing-labels").hidden = index !== null;
    byId("inference-time").textContent = `${fixed(Math.max(cache.milliseconds, 0.1), 1)} ms`;
  });

  labelChooser(byId("input"), byId("drawing-label"));
  buildGallery(byId("gallery"), galleryPlaces);
  watch(byId("input"), ["image"], () => {
    for (const button of byId("gallery").children)
      button.setAttribute("aria-pressed", Number(button.dataset.place) === state.image);
  });
}

/** Decodes a picture file, upright and in grey. */
async function readGrey(file) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options);
  const { width, height } = bitmap;
  // Large photos are scaled down first to save memory, as in mnist_mlp/pictures/read.py.
  const by = width * height > REDUCED_PIXELS ? (2 * WORKING_SIDE) / Math.max(width, height) : 1;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height].map((v) => Math.max(1, Math.round(v * by)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return luminance(context.getImageData(0, 0, canvas.width, canvas.height));
}

/** Draws the ink and its bounding box. */
function drawInk({ ink, box }) {
  const canvas = byId("ink");
  const longer = Math.max(ink.width, ink.height);
  [canvas.width, canvas.height] = [ink.width, ink.height];
  const context = canvas.getContext("2d");
  const image = new ImageData(ink.width, ink.height);
  ink.data.forEach((v, i) => image.data.set([255 * v, 255 * v, 255 * v, 255], 4 * i));
  context.putImageData(image, 0, 0);
  context.strokeStyle = css(theme.accent);
  context.lineWidth = Math.max(2, longer / 60);
  context.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
}

/** Adds ten bars to a list; returns the function that updates them. */
function probabilityBars(list) {
  const rows = Array.from({ length: CLASSES }, (_, digit) => {
    const bar = el("span", { class: "bar" });
    const value = el("span", { class: "value" });
    list.append(el("li", {}, el("b", {}, String(digit)), el("span", { class: "track" }, bar), value));
    return { bar, value };
  });
  return (p, label) => {
    const best = argmax(p);
    rows.forEach(({ bar, value }, digit) => {
      bar.style.transform = `scaleX(${p[digit]})`;
      value.textContent = fixed(p[digit], 3);
      const item = list.children[digit];
      item.classList.toggle("best", digit === best);
      item.classList.toggle("true", digit === label);
    });
  };
}

/** Fills a gallery with thumbnails, which select their image when clicked. */
function buildGallery(holder, places) {
  holder.replaceChildren(
    ...places.map((place, i) => {
      const { label, predicted, index } = examples[place];
      const canvas = el("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" });
      drawThumbnail(canvas, examples[place].pixels);
      const wrong = predicted !== label;
      const name = `Test image ${index}, label ${label}${wrong ? `, predicted ${predicted}` : ""}`;
      return el(
        "button",
        {
          type: "button",
          class: wrong ? "thumbnail wrong" : "thumbnail",
          "data-place": place,
          "aria-label": name,
          "aria-pressed": "false",
          title: name,
          tabindex: i ? -1 : 0,
          onclick: () => showImage(place),
        },
        canvas,
      );
    }),
  );
  if (!holder.dataset.roving) {
    holder.dataset.roving = "yes";
    roving(holder, inFirstRow);
  }
}

function drawThumbnail(canvas, pixels) {
  const image = new ImageData(SIDE, SIDE);
  pixels.forEach((v, i) => image.data.set([v, v, v, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

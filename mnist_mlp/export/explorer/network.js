// The lesson's mathematics, as in mnist_mlp/steps/backprop.py, for one image at a time in float64.
// A network is {sizes, activation, W, b}: W[k] is the weight matrix of layer k+1 (outputs × inputs,
// row-major) and b[k] its bias vector.

const outputsOf = (net, k) => net.sizes[k + 1];
const inputsOf = (net, k) => net.sizes[k];

/** A deep copy. */
function copyNetwork(net) {
  return {
    ...net,
    W: net.W.map((W) => W.slice()),
    b: net.b.map((b) => b.slice()),
  };
}

/** Steps 2-3: z = W·a + b. Inputs of 0 are skipped. */
function linear(W, b, a) {
  const width = a.length;
  const nonzero = [];
  for (let j = 0; j < width; j++) if (a[j] !== 0) nonzero.push(j);
  const z = new Float64Array(b.length);
  for (let i = 0; i < b.length; i++) {
    let sum = 0;
    const row = i * width;
    for (let n = 0; n < nonzero.length; n++) sum += W[row + nonzero[n]] * a[nonzero[n]];
    z[i] = sum + b[i];
  }
  return z;
}

/**
 * erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (1·3·…·(2n+1)): Abramowitz and Stegun, 7.1.6. All terms have
 * one sign, so no digits are lost; beyond 6 it rounds to ±1.
 */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [term, sum] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const sigmoid = (z) => 1 / (1 + Math.exp(-z));
const normalShare = (z) => (1 + erf(z / Math.SQRT2)) / 2; // Φ(z), the normal distribution's share below z

/** Step 3's functions, by their name in the config: a = of(z), and the slope ∂a/∂z. */
const ACTIVATIONS = {
  relu: { of: (z) => (z > 0 ? z : 0), slope: (z) => (z > 0 ? 1 : 0) },
  identity: { of: (z) => z, slope: () => 1 },
  tanh: { of: Math.tanh, slope: (z) => 1 - Math.tanh(z) ** 2 },
  sigmoid: { of: sigmoid, slope: (z) => sigmoid(z) * sigmoid(-z) },
  gelu: {
    of: (z) => z * normalShare(z),
    slope: (z) => normalShare(z) + (z * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI),
  },
};

/** Step 4. Subtracting the largest logit first avoids overflow. */
function softmax(z) {
  const most = Math.max(...z);
  const e = z.map((v) => Math.exp(v - most));
  const sum = e.reduce((s, v) => s + v, 0);
  return e.map((v) => v / sum);
}

/** Step 5: −ln p[label], computed from the logits so that p cannot round to 0. */
function crossEntropy(z, label) {
  const most = Math.max(...z);
  return Math.log(z.reduce((s, v) => s + Math.exp(v - most), 0)) + most - z[label];
}

/** The forward pass of one image: a[0] is x, a[k] is the input of layer k+1 and z[k] its sums. */
function forward(net, x, activation = net.activation) {
  const { of } = ACTIVATIONS[activation];
  const a = [x];
  const z = [];
  net.W.forEach((W, k) => {
    z.push(linear(W, net.b[k], a[k]));
    if (k < net.W.length - 1) a.push(z[k].map(of));
  });
  const logits = z[z.length - 1];
  return { a, z, logits, p: softmax(logits) };
}

/** Gradients of 0 for every parameter. */
function zeroGradients(net) {
  return {
    W: net.W.map((W) => new Float64Array(W.length)),
    b: net.b.map((b) => new Float64Array(b.length)),
  };
}

/**
 * Step 6: the chain rule, backward from p − y. Adds this image's gradients, times `scale`, to
 * `gradients` and returns ∂L/∂z of each layer.
 */
function backward(net, pass, label, gradients, scale = 1) {
  const last = net.W.length - 1;
  const dz = new Array(last + 1);
  dz[last] = pass.p.map((p, i) => (p - (i === label ? 1 : 0)) * scale);
  for (let k = last; k >= 0; k--) {
    const a = pass.a[k];
    const width = a.length;
    const W = net.W[k];
    const dW = gradients.W[k];
    const nonzero = [];
    for (let j = 0; j < width; j++) if (a[j] !== 0) nonzero.push(j);
    for (let i = 0; i < dz[k].length; i++) {
      const d = dz[k][i];
      if (d === 0) continue;
      gradients.b[k][i] += d; // ∂z/∂b is 1
      const row = i * width;
      for (let n = 0; n < nonzero.length; n++) dW[row + nonzero[n]] += d * a[nonzero[n]]; // ∂z/∂W is a
    }
    if (k > 0) {
      const slopes = pass.z[k - 1].map(ACTIVATIONS[net.activation].slope);
      const open = []; // the neurons that pass a gradient back
      slopes.forEach((slope, j) => slope !== 0 && open.push(j));
      const da = new Float64Array(width);
      for (let i = 0; i < dz[k].length; i++) {
        const d = dz[k][i];
        if (d === 0) continue;
        const row = i * width;
        for (let n = 0; n < open.length; n++) da[open[n]] += d * W[row + open[n]]; // ∂z/∂a is W
      }
      dz[k - 1] = da.map((v, j) => v * slopes[j]);
    }
  }
  return dz;
}

/** Mean loss and mean gradients of a batch [{x, label}]. */
function batchGradients(net, examples) {
  const gradients = zeroGradients(net);
  let loss = 0;
  for (const { x, label } of examples) {
    const pass = forward(net, x);
    loss += crossEntropy(pass.logits, label) / examples.length;
    backward(net, pass, label, gradients, 1 / examples.length);
  }
  return { loss, gradients };
}

/** Step 7: W ← W − learning rate × ∂L/∂W, and the same for b. */
function descend(net, gradients, learningRate) {
  for (const kind of ["W", "b"]) {
    net[kind].forEach((values, k) => {
      const slope = gradients[kind][k];
      for (let i = 0; i < values.length; i++) values[i] -= learningRate * slope[i];
    });
  }
}

/** ‖gradient‖². To first order, a step lowers the loss by learning rate × this. */
function squaredNorm(gradients) {
  let sum = 0;
  for (const tensor of [...gradients.W, ...gradients.b]) for (const v of tensor) sum += v * v;
  return sum;
}

/**
 * One weight's gradient by central difference: (L(w + h) − L(w − h)) / 2h. `kink` is true if a
 * ReLU neuron is active on one side only: the loss then has no derivative in between.
 */
function finiteDifference(net, x, label, k, position, h = 1e-5) {
  const W = net.W[k];
  const value = W[position];
  const losses = [];
  const firing = [];
  for (const w of [value + h, value - h]) {
    W[position] = w;
    const pass = forward(net, x);
    losses.push(crossEntropy(pass.logits, label));
    firing.push(pass.a.slice(1).map((a) => Array.from(a, (v) => (v > 0 ? 1 : 0)).join("")).join());
  }
  W[position] = value;
  const kink = net.activation === "relu" && firing[0] !== firing[1];
  return { slope: (losses[0] - losses[1]) / (2 * h), kink };
}

/** The single layer {W, b} that equals all layers without activations: W₃W₂W₁ and W₃(W₂b₁ + b₂) + b₃. */
function mergedLayer(net) {
  let W = net.W[0];
  let b = net.b[0];
  const width = net.sizes[0];
  for (let k = 1; k < net.W.length; k++) {
    const [rows, inner] = [outputsOf(net, k), inputsOf(net, k)];
    const product = new Float64Array(rows * width);
    for (let i = 0; i < rows; i++) {
      for (let n = 0; n < inner; n++) {
        const w = net.W[k][i * inner + n];
        for (let j = 0; j < width; j++) product[i * width + j] += w * W[n * width + j];
      }
    }
    b = linear(net.W[k], net.b[k], b);
    W = product;
  }
  return { W, b };
}

/** A seeded random number generator, uniform in [0, 1): mulberry32. */
function randomStream(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** An untrained network, initialised as by nn.Linear: uniform within ±1/√inputs. */
function randomNetwork({ sizes, activation }, seed) {
  const random = randomStream(seed);
  const net = { sizes, activation, W: [], b: [] };
  for (let k = 0; k < sizes.length - 1; k++) {
    const bound = 1 / Math.sqrt(sizes[k]);
    const draw = () => (2 * random() - 1) * bound;
    net.W.push(Float64Array.from({ length: sizes[k] * sizes[k + 1] }, draw));
    net.b.push(Float64Array.from({ length: sizes[k + 1] }, draw));
  }
  return net;
}

const argmax = (values) => values.reduce((best, v, i) => (v > values[best] ? i : best), 0);
const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

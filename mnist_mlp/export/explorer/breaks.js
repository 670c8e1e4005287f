// Ways to break the network. A link holds them in their order, each as a word such as noise0.1.

const BREAKS = {
  biases: { text: () => "all biases set to 0", apply: (net) => net.b.forEach((b) => b.fill(0)) },
  noise: {
    text: (by) => `noise of up to ±${by} added to every weight`,
    takes: (by) => by > 0 && by <= 0.5,
    apply: (net, by, seed) => {
      const random = randomStream(seed);
      for (const W of net.W) for (let i = 0; i < W.length; i++) W[i] += (2 * random() - 1) * by;
    },
  },
  zero: {
    text: (layer) => `every weight of layer ${layer} set to 0`,
    takes: (layer) => trained.W[layer - 1] !== undefined,
    apply: (net, layer) => net.W[layer - 1].fill(0),
  },
  random: {
    text: () => "all weights random, as before training",
    takes: (seed) => Number.isInteger(seed),
    apply: (net, seed) => Object.assign(net, randomNetwork(net, seed)),
  },
  trained: { text: () => "steps taken in this page", apply: () => {} }, // a link cannot hold these
};

/** Splits "noise0.1" into its kind and number; null if the page has no such break. */
function parseBreak(token) {
  const [, kind, digits] = token.match(/^([a-z]+)((?:\d+(?:\.\d+)?)?)$/) ?? [];
  if (!Object.hasOwn(BREAKS, kind)) return null;
  const { takes } = BREAKS[kind];
  return (takes ? digits && takes(Number(digits)) : !digits) ? { ...BREAKS[kind], kind, by: Number(digits) } : null;
}

/** The breaks in force after one more. Noise adds up; others make the same one before them vain. */
function withBreak(broken, token) {
  const { kind } = parseBreak(token);
  if (kind === "random") return [token];
  if (kind === "noise") return [...broken, token];
  return [...broken.filter((other) => other !== token), token];
}

/** Applies the last of the breaks to a network; the noise depends only on how often noise was added. */
function applyLast(net, broken) {
  const { apply, by } = parseBreak(broken.at(-1));
  apply(net, by, broken.filter((token) => token.startsWith("noise")).length);
}

/** The trained network with these breaks. */
function brokenNetwork(broken) {
  const made = copyNetwork(trained);
  broken.forEach((_, i) => applyLast(made, broken.slice(0, i + 1)));
  return made;
}

/** Everything in force that differs from the trained network and a sensible learning rate, in words. */
function inForce() {
  const found = state.broken.map(parseBreak).map(({ text, by }) => text(by));
  if (learningRate() >= 10) found.push(`a learning rate of ${learningRate()}`);
  return found.join("; ");
}

/** Takes a network with these breaks in place of the present one. */
function replaceNetwork(next, broken) {
  net = next;
  state.broken = broken;
  changed("weights", "replaced");
}

/** Breaks the present network in one more way. */
function breakNetwork(token) {
  const next = copyNetwork(net);
  const broken = withBreak(state.broken, token);
  applyLast(next, broken);
  replaceNetwork(next, broken);
}

// What the page says about this network's activation function; without hidden layers, that it has none.

const hidden = layerCount - 1;
const activation = data.activation;

const WORDS = {
  relu: {
    name: "ReLU",
    does: "a negative sum becomes 0",
    formula: (z) => `max(0, ${z})`,
    back: "An inactive neuron passes no gradient back, because the derivative of ReLU is 0 there.",
    slopes: "zeros and ones from ReLU",
  },
  identity: {
    name: "identity",
    does: "the sum is passed on as it is",
    formula: (z) => z,
    back: "Every neuron passes its gradient back unchanged, because the derivative of the identity is 1.",
    slopes: "the identity’s ones",
  },
  tanh: {
    name: "tanh",
    does: "the sum is squeezed to between −1 and 1",
    formula: (z) => `tanh(${z})`,
    back: "Each neuron passes back a share of its gradient, the slope of tanh: 1 where the sum is 0, close to 0 where it is large.",
    slopes: "the slopes of tanh",
  },
  sigmoid: {
    name: "sigmoid",
    does: "the sum is squeezed to between 0 and 1",
    formula: (z) => `1 / (1 + exp(−(${z})))`,
    back: "Each neuron passes back a share of its gradient, the slope of the sigmoid: at most 1/4, so gradients shrink from layer to layer.",
    slopes: "the slopes of the sigmoid",
  },
  gelu: {
    name: "GELU",
    does: "the sum is multiplied by Φ(z), the normal distribution’s share below it, so a positive sum mostly stays and a negative one mostly vanishes",
    formula: (z) => `${z} · Φ(${z})`,
    back: "Each neuron passes back a share of its gradient, the slope of GELU: about 1 for large sums, about 0 for very negative ones.",
    slopes: "the slopes of GELU",
  },
};

const word = hidden
  ? WORDS[activation]
  : { name: "activation", back: "", does: "", slopes: "" };

/** Fills the page's own sentences: each element with data-words. */
function fillWords() {
  const matrices = counted(layerCount);
  const sentences = {
    name: word.name,
    step2: hidden ? `multiply, add, apply ${word.name}` : "multiply and add",
    colour: ["identity", "tanh", "gelu"].includes(activation) && hidden ? "; an orange one’s is negative" : "",
    neuron: hidden
      ? `; then it applies ${word.name}: ${word.does}. The last layer applies nothing.`
      : ". This network has no hidden layer: its sums are the logits, and no activation function is applied.",
    step3: hidden ? `Without ${word.name}, the layers collapse into one` : "Without an activation function, layers collapse into one",
    claim: !hidden
      ? "This network has no hidden layer. It is a single layer already: there is no activation function to remove and nothing to merge. What a single layer can do is in the ten templates below."
      : activation === "identity"
        ? `The activation function of this network is the identity, which does nothing. So its ${matrices} layers can do no more than one, and merging them changes no logit.`
        : `Check it with your own weights: remove ${word.name} and multiply the matrices into one, which replaces all the layers.`,
    merge: activation === "identity" ? "Merge the layers" : `Remove ${word.name} and merge`,
    unmerge: activation === "identity" ? "Separate the layers" : `Restore ${word.name}`,
    templates: hidden ? "The merged layer: ten templates" : "The only layer: ten templates",
    matrix: hidden ? "The merged matrix" : "The matrix",
    back: word.back,
  };
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = sentences[element.dataset.words];
}

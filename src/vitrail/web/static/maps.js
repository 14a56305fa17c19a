// The maps: what each one is called, what it means and does not mean, what it needs, and where its values come from.

import { cosines, extent } from "./numbers.js";

const similarity = {
  id: "similarity",
  name: "Similarity",
  group: "From a patch",
  needs: ["patch"],
  unit: "cosine",
  meaning:
    "How alike the model finds each patch to the chosen one: the cosine of their final features. " +
    "Alike to the model is not the same object, and every feature already mixes in its surroundings.",
  key: (view) => `${view.source.id}/${view.source.place(view.asked)}`,
  // In the same model features compare across pictures; two models speak different languages.
  now({ encoding, source, asked }) {
    if (!encoding.features || !source.features) return null;
    const { dim } = source.features;
    const at = (source.place(asked) - source.prefix) * dim;
    const values = cosines(encoding.features.values, dim, source.features.values.subarray(at, at + dim));
    const [low, high] = extent(values);
    return { values, height: encoding.rows, width: encoding.columns, low, high };
  },
  async ask(view) {
    await Promise.all([view.encoding.askFeatures(), view.source.askFeatures()]);
    return similarity.now(view);
  },
};

const attention = {
  id: "attention",
  name: "Attention",
  group: "From a patch",
  needs: ["query", "layer"],
  unit: "share",
  meaning:
    "Where this token looked in one layer: a row of softmax(QKᵀ/⁠√d). It shows what was mixed in here, not what " +
    "decided the answer; heads with nothing to do leave their weight on a few idle patches.",
  key: ({ encoding, query, layer, head }) => `${layer}/${encoding.place(query, layer)}/${head}`,
  now: ({ encoding, query, layer, head }) => encoding.rowNow(layer, encoding.place(query, layer), head),
  ask: ({ encoding, query, layer, head }) => encoding.row(layer, encoding.place(query, layer), head),
};

const positions = {
  id: "positions",
  name: "Positions",
  group: "From a patch",
  needs: ["patch"],
  unit: "cosine",
  meaning:
    "How alike the model's position embeddings are to the one of this place. The picture plays no part: " +
    "it shows what the model knows about where things are, before it sees anything.",
  key: ({ encoding, query }) => encoding.place(query),
  now: () => null,
  ask: ({ encoding, query }) => encoding.positions(encoding.place(query)),
};

const rollout = {
  id: "rollout",
  name: "Rollout",
  group: "Whole picture",
  needs: ["query", "uniform"],
  unit: "share",
  meaning:
    "Attention followed through all layers, half of each step going straight on. A summary of possible paths to the " +
    "chosen token, not a cause: it knows nothing of values and MLPs.",
  key: ({ encoding, query }) => encoding.place(query),
  now: () => null,
  ask: ({ encoding, query }) => encoding.map("rollout", { query: encoding.place(query) }),
};

const pca = {
  id: "pca",
  name: "PCA colours",
  group: "Whole picture",
  needs: [],
  unit: "",
  meaning:
    "The three strongest directions of the patch features as red, green and blue. Like colours mean like features, " +
    "in this picture (or this pair) only; a colour is not the name of anything.",
  key: ({ other }) => other?.id ?? "",
  now: () => null,
  ask: ({ encoding, other }) => encoding.colours(other),
};

const norms = {
  id: "norms",
  name: "Token norms",
  group: "Whole picture",
  needs: [],
  unit: "length",
  meaning:
    "The length of every patch's final token. Bright loners in dull places are patches that the model uses as " +
    "scratch paper; they are no important objects, and registers make them go away.",
  key: () => "",
  now: () => null,
  ask: ({ encoding }) => encoding.normField(),
};

const classMap = (id, name, meaning, needs) => ({
  id,
  name,
  group: "For a class",
  needs: ["class", ...needs],
  unit: "relative",
  meaning,
  key: ({ class: chosen }) => chosen,
  now: () => null,
  ask: ({ encoding, class: chosen }) => encoding.map(id, chosen < 0 ? {} : { class: chosen }),
});

export const MAPS = [
  similarity,
  attention,
  positions,
  rollout,
  pca,
  norms,
  classMap(
    "grad_rollout",
    "Grad rollout",
    "Rollout in which every weight counts by how much the score of the class reacts to it. " +
      "A first-order account of this model's score, not an outline of the object.",
    ["uniform"],
  ),
  classMap(
    "relevance",
    "Relevance",
    "Attention times its gradient, positive parts gathered through all layers (Chefer et al. 2021): what speaks for " +
      "the class. What speaks against it is cut off, so a wrong class gets a map too.",
    ["uniform"],
  ),
  classMap(
    "grad_cam",
    "Grad-CAM",
    "Late patch features, weighted by how the score of the class reacts to each channel. " +
      "Coarse: it shows where the evidence stands, not that the answer is right.",
    [],
  ),
];

export const mapOf = (id) => MAPS.find((map) => map.id === id) ?? similarity;

/** Why a map cannot be had of a model, or "". */
export function obstacle(map, model) {
  if (map.needs.includes("class") && (!model.gradients || !model.classes)) return "needs a model with a classifier";
  if (map.needs.includes("layer") && !model.layers) return "needs attention layers";
  if (map.needs.includes("uniform") && !model.uniform) return "needs one patch grid in all layers";
  return "";
}

// What the classifier would say after each block.

import { make } from "./dom.js";

const percent = (share) => (share >= 0.1 ? `${(100 * share).toFixed(0)} %` : `${(100 * share).toFixed(1)} %`);

/** Fills the panel; a press on a class makes it the class of the class maps. */
export function showStrip(panel, answer, choose) {
  if (!answer.layers) {
    panel.replaceChildren(make("p", { className: "hint", textContent: answer.reason ?? "This model has no classifier." }));
    return;
  }
  const final = answer.layers[answer.layers.length - 1][0].name;
  const rows = answer.layers.map((classes, layer) => {
    const [first] = classes;
    const all = classes.map(({ name, p }) => `${name} ${percent(p)}`).join(", ");
    const meter = make("span", { className: "meter" }, make("i", {}));
    meter.firstChild.style.width = `${100 * first.p}%`;
    const row = make(
      "button",
      { type: "button", title: all, "aria-label": `After block ${layer + 1}: ${all}` },
      make("span", { className: "count", textContent: layer + 1 }),
      make("span", { className: "what", textContent: first.name }),
      meter,
      make("span", { className: "share", textContent: percent(first.p) }),
    );
    row.classList.toggle("same", first.name === final);
    row.addEventListener("click", (event) => choose(first.name, event));
    return row;
  });
  panel.replaceChildren(
    make("div", { className: "strip" }, ...rows),
    make("p", {
      className: "hint",
      textContent: "The last norm and the classifier, laid on the tokens after every block. They were trained for the last one only.",
    }),
  );
}

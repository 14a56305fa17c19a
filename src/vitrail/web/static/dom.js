// Small helpers for making elements.

export const find = (id) => document.getElementById(id);

/** An element with properties and children: `make("button", {type: "button"}, "Save")`. */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** The same for SVG, where everything is an attribute. */
export function draw(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Fills a select; options are `[value, label]` or `{label, options}` for a group. */
export function fillSelect(select, options, chosen) {
  const option = ([value, label]) => make("option", { value, textContent: label });
  select.replaceChildren(
    ...options.map((entry) =>
      Array.isArray(entry) ? option(entry) : make("optgroup", { label: entry.label }, ...entry.options.map(option)),
    ),
  );
  select.value = chosen;
}

/**
 * One tab stop for many elements; arrow keys go between them by `place(element) → [x, y]`.
 * The element that was focused last keeps the tab stop.
 */
export function rove(container, selector, place) {
  container.addEventListener("focusin", (event) => {
    const chosen = event.target.closest(selector);
    if (!chosen) return;
    for (const other of container.querySelectorAll(selector)) other.setAttribute("tabindex", other === chosen ? 0 : -1);
  });
  container.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = event.target.closest(selector);
    if (!step || !here) return;
    event.preventDefault();
    event.stopPropagation();
    nearest(container.querySelectorAll(selector), place, place(here), step)?.focus();
  });
}

/** The nearest element in a direction; sideways distance counts double. */
function nearest(elements, place, [x, y], [dx, dy]) {
  let best = null, least = Infinity;
  for (const element of elements) {
    const [ex, ey] = place(element);
    const along = (ex - x) * dx + (ey - y) * dy;
    const aside = Math.abs((ex - x) * dy) + Math.abs((ey - y) * dx);
    const distance = along + 2 * aside;
    if (along > 1e-6 && distance < least) [best, least] = [element, distance];
  }
  return best;
}

// The keyboard: everything the pointer can do on the stage.

import { find } from "./dom.js";
import { MAPS, obstacle } from "./maps.js";
import { clamp } from "./numbers.js";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Whether the element keeps its keys for itself. */
const keepsKeys = (target) => target instanceof Element && target.closest("input, select, textarea, dialog");

export function listenToKeys(explorer, { theme, help }) {
  const heads = () => explorer.model().heads[explorer.layer];

  function step(event) {
    const { encoding } = explorer.asking, [down, across] = STEPS[event.key];
    if (!encoding) return;
    const stride = event.shiftKey ? 5 : 1;
    const { query } = explorer;
    const middle = { row: encoding.rows >> 1, column: encoding.columns >> 1 };
    const from = !query || "token" in query ? middle : query;
    const row = clamp(from.row + down * stride, 0, encoding.rows - 1);
    const column = clamp(from.column + across * stride, 0, encoding.columns - 1);
    explorer.update({ query: `${row}.${column}`, pinned: 1 }, event);
  }

  function otherPicture(event) {
    const [first, second] = explorer.views;
    if (!second.encoding || second.figure.hidden) return;
    const to = explorer.asking === first ? second : first;
    const { query } = explorer;
    if (!query) return;
    const row = "row" in query ? clamp(query.row, 0, to.encoding.rows - 1) : 0;
    const column = "row" in query ? clamp(query.column, 0, to.encoding.columns - 1) : 0;
    const same = "token" in query ? explorer.state.query : `${row}.${column}`;
    explorer.update({ from: to.number, query: same, pinned: 1 }, event);
    to.frame.focus();
  }

  function nextRegister(event) {
    const { prefix_names: names } = explorer.model(), { query } = explorer;
    const first = names[0] === "class" ? 1 : 0, count = names.length - first;
    if (count < 1) return;
    const next = query && "token" in query ? ((query.token + 1 - first) % count) + first : first;
    explorer.update({ query: `t${next}`, pinned: 1 }, event);
  }

  function nextHead(event) {
    const { head } = explorer.state;
    const next = /^\d+$/.test(head) ? (Number(head) + 1) % heads() : 0;
    explorer.update({ head: String(next) }, event);
  }

  const layer = (by) => (event) => {
    explorer.update({ layer: clamp(explorer.layer + by, 0, explorer.model().layers - 1) }, event);
  };
  const opacity = (by) => (event) => {
    explorer.update({ opacity: clamp(explorer.state.opacity + by, 0, 100) }, event);
  };
  const actions = {
    Enter: (event) => explorer.update({ pinned: explorer.state.pinned ? 0 : 1 }, event),
    Escape: (event) => explorer.update({ pinned: 0 }, event),
    c: (event) => explorer.model().prefix_names[0] === "class" && explorer.update({ query: "t0", pinned: 1 }, event),
    r: nextRegister,
    ",": layer(-1),
    ".": layer(1),
    h: nextHead,
    m: (event) => explorer.update({ head: "mean" }, event),
    s: (event) => explorer.update({ look: explorer.state.look === "smooth" ? "patches" : "smooth" }, event),
    "-": opacity(-10),
    "+": opacity(10),
    "=": opacity(10),
    b: otherPicture,
    t: theme,
    "?": help,
  };

  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || keepsKeys(event.target)) return;
    if (!explorer.server || find("sheet").open) return;
    if (event.key in STEPS) {
      event.preventDefault();
      step(event);
      return;
    }
    const button = event.target instanceof Element && event.target.closest("button, label, a, [role=button]");
    if (event.key === "Enter" && button) return;
    const map = /^[1-9]$/.test(event.key) && MAPS[Number(event.key) - 1];
    if (map) {
      if (!obstacle(map, explorer.model())) explorer.update({ map: map.id }, event);
    } else if (Object.hasOwn(actions, event.key)) actions[event.key](event);
  });
}

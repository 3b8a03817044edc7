// What a page shows instead of content: empty states, loading states and errors.

import { h, svg } from "./dom.js";

const DRAWINGS = {
  search: ["M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14z", "M16.2 16.2 21 21"],
  film: ["M4 5h16v14H4z", "M8 5v14M16 5v14M4 9h4M4 15h4M16 9h4M16 15h4"],
  talk: ["M4 5h16v11H11l-4 4v-4H4z"],
  broken: ["M12 3 2.5 20h19z", "M12 9.5v5M12 17.4v.2"],
};

/** A panel with a title, an explanation and an optional button. */
export function state(drawing, title, text, { bad = false, action = null } = {}) {
  const picture = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" },
    DRAWINGS[drawing].map((d) => svg("path", { d })));
  return h("div", { class: bad ? "state bad" : "state", role: bad ? "alert" : null },
    picture, h("h2", {}, title), h("p", {}, text), action);
}

/** An error, with a button to try again. */
export function failure(error, again = null) {
  const titles = {
    network: "The server does not answer", busy: "The model is busy", not_found: "Not found",
    archive: "The archive cannot be read", model: "The model cannot be opened", invalid: "The request is not valid",
  };
  const action = again ? h("button", { type: "button", class: "quiet", onclick: again }, "Try again") : null;
  return state("broken", titles[error.kind] ?? "Something went wrong", error.message, { bad: true, action });
}

/** The archives of several that take no part, and why; null if all do. */
export function leftOut(archives) {
  if (!archives.length) return null;
  return h("p", { class: "note bad wrap" }, `Left out: ${archives.map((each) => `${each.name} (${each.reason})`).join("; ")}.`);
}

/** Grey shapes where cards will be. */
export function cardsComing(count = 8) {
  const card = () => h("li", {}, h("div", { class: "card" }, h("div", { class: "shot ghost" }),
    h("div", { class: "body" }, h("div", { class: "ghost text" }), h("div", { class: "ghost text", style: { width: "60%" } }))));
  return h("ol", { class: "cards", "aria-hidden": "true" }, Array.from({ length: count }, card));
}

/** Grey shapes where panels will be. */
export function panelsComing(...heights) {
  return h("div", { class: "stack", "aria-hidden": "true" },
    heights.map((height) => h("div", { class: "ghost", style: { height } })));
}

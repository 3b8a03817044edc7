// The archive as a whole: how much there is, how it grew, its jobs, and what failed. Kept up to date.

import { get } from "./api.js";
import { bytes, clock, counted, h, number, svg, when } from "./dom.js";
import { failure, leftOut, panelsComing, state } from "./states.js";

const EVERY_MS = 4000;
// Counts of a run that say how it ran, not what it did.
const HOW = /_s$|^encoders$|^gpus$|real_time$/;
const TAGS = { done: "done", running: "running", some_failed: "warn", failed: "failed", refused: "failed", interrupted: "warn", lost: "failed" };

/** The page. */
export function archivePage() {
  const view = h("div", { class: "stack" }, h("h1", {}, "Archive"), panelsComing("6rem", "15rem", "8rem"));
  let timer = 0;
  let closed = false;
  let before = "";

  async function load() {
    try {
      if (!document.hidden) {
        const now = await get("api/archive");
        const text = JSON.stringify(now);
        // Without a change the page stays as it is, with its focus and open tables.
        if (!closed && text !== before) view.replaceChildren(...filled(now));
        before = text;
      }
    } catch (error) {
      if (closed) return;
      before = "";
      view.replaceChildren(h("h1", {}, "Archive"), failure(error, load));
    }
    clearTimeout(timer);
    if (!closed) timer = setTimeout(load, EVERY_MS);
  }
  load();
  return { view, close: () => { closed = true; clearTimeout(timer); } };
}

function filled(now) {
  const tiles = [
    ["Videos", number(now.videos)], ["Hours", number(now.hours, now.hours < 10 ? 2 : 0)], ["Segments", number(now.segments)],
    ["Memory slots", number(now.memories)], ["Texts", number(now.annotations)], ["Stored", now.stored_bytes === null ? "…" : bytes(now.stored_bytes)],
  ].map(([name, value]) => h("div", { class: "tile panel" }, h("dt", {}, name), h("dd", {}, value)));
  return [
    h("div", { class: "near" }, h("h1", {}, "Archive"), h("p", { class: "small muted wrap" }, `${now.archive} · model ${now.model}`), leftOut(now.left_out)),
    now.notice ? h("p", { class: "note" }, now.notice) : null,
    h("dl", { class: "tiles" }, tiles),
    now.archives.length > 1 ? section("Archives", archives(now.archives)) : null,
    section("Growth", now.growth.length ? chart(now.growth) : state("film", "Nothing stored yet", "Index videos with malmm index, and they show here as they are done.")),
    section("Jobs", now.runs.length ? jobs(now.runs) : h("p", { class: "muted" }, "No job has run yet.")),
    section("Failures", now.failed.length ? failures(now) : h("p", { class: "muted" }, "Nothing has failed.")),
  ].filter(Boolean);
}

/** Each archive, and the places below which its videos may be played. */
function archives(rows) {
  const places = (row) => row.media_roots.length ? row.media_roots.map((root) => h("span", { class: "wrap" }, `${root} `)) : h("span", { class: "muted" }, "nowhere: start the server with --media-root");
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Archives" },
    table(["Archive", "Model", "Videos are played from", "Videos", "Memory slots"], rows.map((row) => [h("span", {}, row.name), row.model, h("span", {}, places(row)), cell(number(row.videos)), cell(number(row.memories))])));
}

function section(title, content) {
  return h("section", { class: "panel near", "aria-label": title }, h("h2", {}, title), content);
}

/** Hours stored over time, as a step by step curve; the same numbers are a table for those who cannot see it. */
function chart(points) {
  const most = Math.max(...points.map((point) => point.hours), 1e-9);
  const first = Date.parse(points[0].at);
  const last = Date.parse(points.at(-1).at);
  const x = (point) => (last > first ? (600 * (Date.parse(point.at) - first)) / (last - first) : 0);
  const y = (point) => 150 - (140 * point.hours) / most;
  // At one moment nothing has grown.
  if (first === last) return h("p", {}, `${counted(points.at(-1).videos, "video")}, ${number(most, 2)} hours, indexed ${when(points[0].at)}`);
  let path = `M0 ${y(points[0]).toFixed(1)}`;
  for (const point of points) path += ` H${x(point).toFixed(1)} V${y(point).toFixed(1)}`;
  path += " H600";
  const end = points.at(-1);
  const summary = `${counted(end.videos, "video")}, ${number(end.hours, 2)} hours by ${when(end.at)}`;
  const rows = points.filter((point, place) => place === 0 || point.videos !== points[place - 1].videos);
  return h("div", { class: "near" },
    svg("svg", { class: "chart", viewBox: "0 0 600 150", preserveAspectRatio: "none", role: "img", "aria-label": `Growth: ${summary}` },
      svg("path", { class: "area", d: `${path} V150 H0 Z` }), svg("path", { class: "curve", d: path })),
    h("div", { class: "axis" }, h("span", {}, when(points[0].at)), h("span", {}, `${number(most, 2)} hours, ${counted(end.videos, "video")}`), h("span", {}, when(end.at))),
    h("details", { class: "small" }, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Growth as a table" },
      table(["When", "Videos", "Hours"], rows.map((row) => [when(row.at), cell(number(row.videos)), cell(number(row.hours, 2))])))));
}

function jobs(runs) {
  const rows = runs.map((run) => {
    const took = (Date.parse(run.ended ?? new Date()) - Date.parse(run.started)) / 1000;
    const counts = Object.entries(run.counts).filter(([name, count]) => count && !HOW.test(name)).map(([name, count]) => `${number(count, 1)} ${name.replaceAll("_", " ")}`).join(", ");
    return [h("span", { class: "job" }, run.job), h("span", { class: `tag ${TAGS[run.status] ?? ""}` }, run.status.replaceAll("_", " ")), when(run.started), cell(clock(took)), counts];
  });
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Jobs" }, table(["Job", "State", "Started", "Took", "Done"], rows));
}

function failures(now) {
  const rows = now.failed.map((row) => [row.name, row.stage, h("span", { class: "wrap" }, row.message), cell(number(row.attempts))]);
  return h("div", { class: "near" },
    now.failures > now.failed.length ? h("p", { class: "small muted" }, `The latest ${number(now.failed.length)} of ${number(now.failures)}.`) : null,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Failures" }, table(["Video", "Stage", "Why", "Attempts"], rows)));
}

function cell(text) {
  return { number: text };
}

function table(heads, rows) {
  const isNumber = (place) => rows.length && typeof rows[0][place] === "object" && "number" in Object(rows[0][place]);
  return h("table", {}, h("thead", {}, h("tr", {}, heads.map((head, place) => h("th", { scope: "col", class: isNumber(place) ? "number" : null }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value) => (value !== null && typeof value === "object" && !(value instanceof Node)
      ? h("td", { class: "number" }, value.number) : h("td", { class: "wrap" }, value)))))));
}

// One video: the player, what its memory holds, what is said of it, and questions to it.

import { asking } from "./answers.js";
import { get } from "./api.js";
import { clock, counted, covers, h, number, span, when } from "./dom.js";
import { oneByOne, recordTracks } from "./moments.js";
import { player } from "./player.js";
import { speech } from "./speech.js";
import { failure, panelsComing, state } from "./states.js";

/** The page; its address holds the time in seconds on the player's clock: t. */
export function videoPage(id, parameters) {
  const view = h("div", { class: "stack" }, panelsComing("2rem", "24rem", "7rem"));
  let page = null;
  let closed = false;

  async function load() {
    view.replaceChildren(panelsComing("2rem", "24rem", "7rem"));
    view.setAttribute("aria-busy", "true");
    try {
      const row = await get(`api/videos/${id}`);
      const [segments, slots, texts, failures, transcripts] = await Promise.all(
        ["segments", "memories", "annotations", "failures", "transcripts"].map((part) => get(`api/videos/${id}/${part}`)));
      if (closed) return;
      page = filled(row, segments, slots, texts, failures, transcripts);
      view.replaceChildren(...page.parts);
      document.title = `${row.name} · malmm`;
      const time = Number(parameters.get("t"));
      if (parameters.has("t") && Number.isFinite(time)) page.seek(time, true);
    } catch (error) {
      if (!closed) view.replaceChildren(h("h1", {}, "Video"), failure(error, load));
    } finally {
      view.removeAttribute("aria-busy");
    }
  }

  load();
  return {
    view,
    moved(wanted) {
      parameters = wanted;
      if (page && wanted.has("t")) page.seek(Number(wanted.get("t")) || 0, true);
    },
    close: () => { closed = true; page?.close(); },
  };
}

function filled(row, segments, slots, rows, failures, transcripts) {
  const texts = oneByOne(rows);
  const timed = recordTracks(row.video_id, texts);
  const start = row.start_s;
  const length = Math.max(row.duration_s, 1e-6);
  const line = timeLine(segments, start, length, go);
  const strip = memoryStrip(slots, start, go);
  const times = segmentTimes(segments, start, go);
  const spoken = transcripts.length ? speech(transcripts, texts, start, length, go) : null;
  const records = timed.length ? speech(timed, texts, start, length, go, { id: "timed", title: "Moments", what: "Moments" }) : null;
  const screen = player(row, (now) => { for (const part of [line, strip, times, spoken, records]) part?.mark(now + start); }, transcripts, timed);
  const questions = asking({ videos: [row.video_id], whole: true, placeholder: "Ask about this video",
    play: (begun, moment) => go(moment.start_s) });

  function go(time) {
    screen.seek(time - start, true);
    // On a narrow page what was chosen may lie far below the player.
    screen.view.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  const facts = [clock(row.duration_s), `${row.width}×${row.height}`, `${row.fps.toFixed(row.fps % 1 ? 2 : 0)} frames a second`, row.codec, `indexed ${when(row.indexed_at)}${row.archive ? ` in ${row.archive}` : ""}`];
  const head = h("div", { class: "near" }, h("h1", {}, row.name), h("p", { class: "small muted wrap" }, facts.join(" · ")),
    row.caption ? h("p", { class: "wrap", id: "whole" }, row.caption) : null);
  const wrong = failures.length ? h("section", { class: "near", "aria-label": "Failures" }, failures.map((each) =>
    h("p", { class: "note bad" }, `${each.stage}: ${each.message}`))) : null;
  const memory = h("section", { class: "panel near", "aria-labelledby": "memory" },
    h("div", { class: "row" }, h("h2", { id: "memory" }, "Memory"), h("span", { class: "muted small" }, held(slots))),
    line.view, slots.length ? bank(slots, start, length) : null, slots.length ? strip.view : h("p", { class: "muted" }, "Nothing is remembered of this video."));
  const said = h("section", { class: "panel near", "aria-labelledby": "captions" }, h("h2", { id: "captions" }, "Captions"),
    segments.length ? times.view : h("p", { class: "muted" }, "No captions."));
  const left = h("div", { class: "stack" }, screen.view, memory, spoken?.view, records?.view,
    h("section", { class: "panel near", "aria-labelledby": "asked" }, h("h2", { id: "asked" }, "Ask this video"), questions.view),
    annotations(texts.filter((row) => row.task !== "transcript"), start, go));
  const similar = h("a", { class: "button quiet", href: `#/?${new URLSearchParams({ video: row.video_id, q: row.caption?.split(",")[0] ?? row.name })}` }, "Search in this video");
  const side = h("aside", { class: "stack", "aria-label": "About this video" }, said, h("div", { class: "row" }, similar));
  return {
    parts: [head, wrong, h("div", { class: "watch" }, left, side)].filter(Boolean),
    seek: (seconds, play) => screen.seek(seconds, play),
    close: () => { screen.close(); questions.close(); },
  };
}

/** Segments side by side, as wide as they are long, with their captions. */
function timeLine(segments, start, length, go) {
  const buttons = segments.map((each) => h("button", { type: "button", style: { flexGrow: String(Math.max(each.end_s - each.start_s, 0.01)), flexBasis: "0" },
    title: each.caption ?? "", "aria-label": `${span(each, start)}: ${each.caption ?? "no caption"}`, onclick: () => go(each.start_s) }, each.caption ?? ""));
  const head = h("div", { class: "head", "aria-hidden": "true", style: { left: "0" } });
  const view = h("div", { class: "line", role: "group", "aria-label": "Captions along the video" }, buttons, head);
  return { view, mark(time) {
    head.style.left = `${Math.min(100, Math.max(0, (100 * (time - start)) / length))}%`;
    mark(buttons, segments, time);
  } };
}

/** How much the slots hold. */
function held(slots) {
  const frames = slots.reduce((sum, slot) => sum + slot.frame_count, 0);
  const merged = slots.filter((slot) => slot.frame_count > 1).length;
  return `${counted(slots.length, "slot")} of ${counted(frames, "frame")}${merged ? `, ${number(merged)} merged of several` : ""}`;
}

/** The slots along the video, each as wide as the time that it covers; merged ones are dark. */
function bank(slots, start, length) {
  const parts = slots.flatMap((slot) => (slot.spans ?? [slot]).map((part) => h("div", { class: slot.frame_count > 1 ? "merged" : null, title: `${span(slot, start)}: ${counted(slot.frame_count, "frame")}`,
    style: { left: `${(100 * (part.start_s - start)) / length}%`, width: `${(100 * (part.end_s - part.start_s)) / length}%` } })));
  return h("div", { class: "bank", "aria-hidden": "true" }, parts);
}

/** Memory slots in a row; the arrows move along it. */
function memoryStrip(slots, start, go) {
  const buttons = slots.map((slot, place) => h("button", { type: "button", tabindex: place ? "-1" : "0",
    "aria-label": `${span(slot, start)}, holds ${counted(slot.frame_count, "frame")}`, onclick: () => go(slot.start_s) },
    h("img", { src: slot.thumbnail, alt: "", loading: "lazy", width: 112, height: 84, onerror: (event) => { event.target.style.visibility = "hidden"; } }),
    h("span", {}, (slot.spans ?? [slot]).map((part) => `${clock(part.start_s - start)} – ${clock(part.end_s - start)}`).join(", ")),
    h("span", { class: "muted" }, counted(slot.frame_count, "frame"), slot.frame_count > 1 ? ", merged" : "")));
  const view = h("div", { class: "strip", role: "group", "aria-label": "Memory slots: the arrow keys move along them" }, buttons);
  view.addEventListener("keydown", (event) => {
    const place = buttons.indexOf(document.activeElement);
    const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 };
    const next = buttons[steps[event.key]];
    if (place < 0 || !next) return;
    event.preventDefault();
    buttons[place].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  let before = -1;
  return { view, mark(time) {
    const now = mark(buttons, slots, time);
    if (now !== before && now >= 0 && !view.contains(document.activeElement)) {
      const button = buttons[now];
      view.scrollTo({ left: button.offsetLeft - view.offsetLeft - view.clientWidth / 2 + button.clientWidth / 2 });
    }
    before = now;
  } };
}

function segmentTimes(segments, start, go) {
  const stamps = segments.map((each) => h("button", { type: "button", class: "stamp", "aria-label": `Play from ${clock(each.start_s - start)}`, onclick: () => go(each.start_s) }, clock(each.start_s - start)));
  const view = h("ol", { class: "times", tabindex: "0", "aria-label": "Captions" }, segments.map((each, place) => h("li", {}, stamps[place], h("span", { class: "wrap" }, each.caption ?? "No caption"))));
  return { view, mark: (time) => mark(stamps, segments, time) };
}

/** Mark the button whose row holds a time; gives its place, -1 for none. */
function mark(buttons, rows, time) {
  const now = rows.findIndex((row) => covers(row, time + 1e-3));
  buttons.forEach((button, place) => {
    if (place === now) button.setAttribute("aria-current", "time");
    else button.removeAttribute("aria-current");
  });
  return now;
}

function annotations(texts, start, go) {
  const groups = Map.groupBy ? Map.groupBy(texts, (row) => row.prompt_name) : grouped(texts);
  const parts = [...groups].map(([name, rows]) => h("details", { class: "prompt", open: groups.size === 1 },
    h("summary", {}, name, h("span", { class: "muted small" }, `  ${rows[0].prompt}`)),
    h("ol", { class: "times", tabindex: "0", "aria-label": `Answers to ${name}` }, rows.map((row) => h("li", {},
      h("button", { type: "button", class: "stamp", "aria-label": `Play ${row.segment_id || row.track_id ? span(row, start) : "whole video"}`, onclick: () => go(row.start_s) }, row.segment_id || row.track_id ? clock(row.start_s - start) : "all"),
      h("span", { class: "wrap" }, row.text || "(no words)", row.score === null ? null : h("span", { class: "tag" }, row.score.toFixed(2)), row.mode === "replay" ? h("span", { class: "tag" }, "replay") : null))))));
  return h("section", { class: "panel", "aria-labelledby": "prompts" }, h("h2", { id: "prompts" }, "Answers by prompt"),
    parts.length ? parts : state("talk", "No texts", "No prompt was put to this video yet."));
}

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) groups.set(row.prompt_name, [...(groups.get(row.prompt_name) ?? []), row]);
  return groups;
}

// What is said in a video, or another track of texts: along its time line, and as a list that follows the player.

import { clock, covers, h } from "./dom.js";

// More marks than this cannot be told apart on a line; cues are joined into as many.
const MOST_MARKS = 120;

/**
 * The panel of a video's transcripts. `texts` are its annotations, `tracks` its transcripts, `start` and `length` its span
 * in seconds; `go` plays from a time. Another kind of track has another title, and id on the page.
 */
export function speech(tracks, texts, start, length, go, { id, title, what } = { id: "speech", title: "Speech", what: "Transcript" }) {
  let cues = [];
  let marks = [];
  let stamps = [];
  let buttons = [];
  const head = h("div", { class: "head", "aria-hidden": "true", style: { left: "0" } });
  const line = h("div", { class: "line spoken", role: "group", "aria-label": `${title} along the video` });
  const list = h("ol", { class: "times", tabindex: "0", "aria-label": what });
  const choice = h("select", { class: "field slim", "aria-label": what, onchange: () => show(choice.value) },
    tracks.map((track) => h("option", { value: track.track_id }, `${track.label} (${track.texts})`)));

  function show(chosen) {
    const track = tracks.find((each) => each.track_id === chosen);
    cues = texts.filter((row) => row.track_id === chosen);
    marks = joined(cues, start, length);
    buttons = marks.map((mark) => h("button", { type: "button", title: mark.text, "aria-label": `${clock(mark.start_s - start)}: ${mark.text}`,
      style: { left: `${(100 * (mark.start_s - start)) / length}%`, width: `${Math.max(0.4, (100 * (mark.end_s - mark.start_s)) / length)}%` },
      onclick: () => go(mark.start_s) }));
    line.replaceChildren(...buttons, head);
    stamps = cues.map((cue) => h("button", { type: "button", class: "stamp", "aria-label": `Play from ${clock(cue.start_s - start)}`, onclick: () => go(cue.start_s) }, clock(cue.start_s - start)));
    list.replaceChildren(...cues.map((cue, place) => h("li", {}, stamps[place],
      h("span", { class: "wrap", lang: track.language || null }, cue.speaker ? h("b", {}, `${cue.speaker}: `) : null, cue.text))));
  }

  show(tracks[0].track_id);
  const view = h("section", { class: "panel near", "aria-labelledby": id },
    h("div", { class: "row" }, h("h2", { id }, title), tracks.length > 1 ? choice : h("span", { class: "muted small" }, tracks[0].label)), line, list);
  return { view, mark(time) {
    head.style.left = `${Math.min(100, Math.max(0, (100 * (time - start)) / length))}%`;
    for (const [parts, rows] of [[buttons, marks], [stamps, cues]]) {
      const now = rows.findIndex((row) => covers(row, time + 1e-3));
      parts.forEach((part, place) => {
        if (place === now) part.setAttribute("aria-current", "time");
        else part.removeAttribute("aria-current");
      });
    }
  } };
}

/** Cues as at most MOST_MARKS spans, with the first words of each. */
function joined(cues, start, length) {
  const found = new Map();
  for (const cue of cues) {
    const place = cues.length <= MOST_MARKS ? found.size : Math.floor((MOST_MARKS * (cue.start_s - start)) / length);
    const mark = found.get(place);
    if (mark) mark.end_s = Math.max(mark.end_s, cue.end_s);
    else found.set(place, { start_s: cue.start_s, end_s: cue.end_s, text: cue.text });
  }
  return [...found.values()];
}

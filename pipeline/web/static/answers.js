// A question and its answers, word by word, with the moments that they are from.

import { ask } from "./api.js";
import { clock, counted, h, span, speak } from "./dom.js";
import { failure, state } from "./states.js";

/**
 * A form and what comes of it. `videos` are ids, or null for the whole archive; `play(begun, moment, answer)` is called
 * when a moment is chosen, `asked(question, where)` when a question is put. With `filtered` the form has a field for a filter.
 */
export function asking({ videos, placeholder, play, asked = () => {}, whole = false, filtered = false }) {
  const field = h("input", { class: "field", type: "text", id: "question", maxlength: 1000, autocomplete: "off", placeholder, "aria-label": "Question" });
  const where = h("input", { class: "field slim wide", id: "where", placeholder: "camera = 'north' and start_s < 600", autocomplete: "off", spellcheck: "false", maxlength: 2000 });
  const button = h("button", { type: "submit" }, "Ask");
  const stop = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => running?.abort() }, "Stop");
  const status = h("p", { class: "muted small", role: "status" });
  const answers = h("div", { class: "answers" });
  let running = null;

  async function put(question, filter = "") {
    running?.abort();
    const mine = running = new AbortController();
    field.value = question;
    where.value = filter;
    asked(question, filter);
    answers.replaceChildren();
    answers.setAttribute("aria-busy", "true");
    status.textContent = "Looking for what the question is about…";
    stop.hidden = false;
    let said = null;
    try {
      for await (const event of ask({ question, video_ids: videos, where: filter || null, k: 3 }, mine.signal)) {
        if (mine !== running) return;
        if (event.event === "queued") status.textContent = `The model is busy: ${counted(event.ahead, "question")} before yours.`;
        else if (event.event === "started") status.textContent = "Looking for what the question is about…";
        else if (event.event === "begun") { status.textContent = "Answering…"; said = begin(event); }
        else if (event.event === "words") said.append(event.text);
        else if (event.event === "answered") finish(said, event.text);
        else if (event.event === "done") done(event);
      }
    } catch (error) {
      if (mine !== running) return;
      if (error.name === "AbortError") status.textContent = "Stopped.";
      else { status.textContent = ""; answers.append(failure(error, () => put(question, filter))); }
    } finally {
      if (mine === running) {
        running = null;
        said?.classList.remove("coming");
        answers.removeAttribute("aria-busy");
        stop.hidden = true;
      }
    }
  }

  function begin(event) {
    const said = h("p", { class: "said coming" });
    const answer = h("article", { class: "answer panel near" }, said);
    const moments = event.moments.map((moment) => h("button", { type: "button", "aria-pressed": "false",
      "aria-label": `Play ${event.name}, ${span(moment, event.video_start_s)}`,
      onclick: (clicked) => {
        for (const other of answers.querySelectorAll(".cites button")) other.setAttribute("aria-pressed", "false");
        clicked.currentTarget.setAttribute("aria-pressed", "true");
        play(event, moment, answer);
      } }, moment.thumbnail && h("img", { src: moment.thumbnail, alt: `A frame of ${event.name} at ${clock(moment.timestamp_s - event.video_start_s)}`,
      onerror: (failed) => failed.target.remove() }),
    h("span", { "aria-hidden": "true" }, "▶"), span(moment, event.video_start_s)));
    const place = event.segment_id ? `${event.name}, ${span(event, event.video_start_s)}` : `${event.name}, whole video`;
    answer.append(h("p", { class: "small muted wrap" }, whole ? "Answered by the whole video. See:" : `From ${place}. See:`), h("div", { class: "cites" }, moments));
    answers.append(answer);
    return said;
  }

  function finish(said, text) {
    said.textContent = text || "(no words)";
    said.classList.remove("coming");
    speak(text);
  }

  function done(event) {
    if (event.found) { status.textContent = ""; return; }
    status.textContent = "";
    const near = event.similarity === null ? "" : ` The nearest moment is ${event.similarity.toFixed(2)} similar, and ${event.threshold.toFixed(2)} is needed.`;
    answers.replaceChildren(state("search", "Nothing relevant found", `No moment ${where.value ? "that passes the filter" : "of the archive"} is about this.${near}`));
    speak("Nothing relevant found");
  }

  const form = h("form", { class: "near", onsubmit: (event) => {
    event.preventDefault();
    if (field.value.trim()) put(field.value.trim(), where.value.trim());
    else field.focus();
  } }, h("div", { class: "searchbox" }, field, button),
  filtered ? h("div", { class: "filters" }, h("label", { for: "where" }, "Filter", where)) : null);
  return { view: h("div", { class: "near" }, form, h("div", { class: "row" }, status, stop), answers), put,
    close: () => { const now = running; running = null; now?.abort(); }, answers };
}

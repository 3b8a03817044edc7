// Asking the whole archive; moments play beneath the answer that cites them.

import { asking } from "./answers.js";
import { h } from "./dom.js";
import { player } from "./player.js";
import { state } from "./states.js";

/** The page; its address holds the question and the filter: q, where. */
export function askPage(parameters) {
  let playing = null;
  const part = asking({
    videos: null,
    placeholder: "Ask the archive, such as “Which way does the red circle move?”",
    filtered: true,
    asked(question, where) {
      playing?.close();
      playing = null;
      history.replaceState(null, "", `#/ask?${new URLSearchParams({ q: question, ...(where ? { where } : {}) })}`);
    },
    play(begun, moment, answer) {
      const start = moment.start_s - begun.video_start_s;
      if (playing?.video !== begun.video_id || !answer.contains(playing.view)) {
        playing?.close();
        playing = { video: begun.video_id, ...player({ video_id: begun.video_id, name: begun.name }) };
        answer.append(playing.view, h("p", { class: "small" }, h("a", { href: `#/video/${begun.video_id}?t=${start.toFixed(2)}` }, `Open ${begun.name}`)));
      }
      playing.seek(start, true);
    },
  });
  const question = parameters.get("q");
  if (question) part.put(question, parameters.get("where") ?? "");
  else part.answers.append(state("talk", "Ask a question", "It is answered from what the archive remembers of its videos, with the moments that the answer is from."));
  return { view: h("div", { class: "stack" }, h("h1", {}, "Ask the archive"), part.view),
    close: () => { part.close(); playing?.close(); } };
}

// A video with its subtitles, and a state of its own for files that are gone or that a browser cannot play.

import { h } from "./dom.js";
import { state } from "./states.js";

/**
 * The player of a video {video_id, name}, with subtitle tracks for its transcripts and timed records. `seek(seconds, play)` goes to a time on the player's own clock; `ontime` is
 * told of the time as it goes on.
 */
export function player(row, ontime = () => {}, transcripts = [], timed = []) {
  const address = `api/videos/${row.video_id}/media`;
  const subtitles = h("track", { kind: "subtitles", src: `api/videos/${row.video_id}/captions.vtt`, srclang: "en", label: "Captions", default: transcripts.length === 0 });
  const spoken = [...transcripts, ...timed].map((track, place) => h("track", { kind: "subtitles", src: track.subtitles, srclang: track.language || "und",
    label: track.label, default: place === 0 && transcripts.length > 0 }));
  const video = h("video", { controls: true, preload: "metadata", playsinline: true, tabindex: "0", "aria-label": `Video ${row.name}`,
    src: address, poster: `api/videos/${row.video_id}/thumbnail` }, spoken, subtitles);
  const screen = h("div", { class: "screen" }, video);
  let wanted = null;

  function arrive() {
    if (wanted === null) return;
    const { seconds, play } = wanted;
    wanted = null;
    video.currentTime = seconds;
    // A browser may refuse to play before somebody has touched the page: then it waits at the moment.
    if (play) video.play().catch(() => {});
  }
  video.addEventListener("loadedmetadata", arrive);
  video.addEventListener("timeupdate", () => ontime(video.currentTime));
  video.addEventListener("seeking", () => ontime(video.currentTime));
  video.addEventListener("error", async () => {
    if (!video.getAttribute("src")) return;
    const told = await fetch(address, { method: "GET", headers: { Range: "bytes=0-0" } }).then(
      async (response) => (response.ok ? null : (await response.json()).message), () => "The server does not answer.");
    const message = told ?? "This browser cannot play the file's format. What the archive remembers of it is below.";
    const again = h("button", { type: "button", class: "quiet", onclick: () => { broken.remove(); video.load(); } }, "Try again");
    const broken = state("film", "The video cannot be played", message, { bad: true, action: again });
    screen.querySelector(".state")?.remove();
    screen.append(broken);
  });

  return {
    view: screen,
    video,
    seek(seconds, play) {
      wanted = { seconds: Math.max(0, seconds), play };
      if (video.readyState >= 1) arrive();
    },
    close() {
      video.pause();
      video.removeAttribute("src");
      video.load();
      screen.remove();
    },
  };
}

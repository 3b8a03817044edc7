// Searching: words in, moments out as cards; without words, the latest videos.

import { get } from "./api.js";
import { clock, counted, h, span, speak, when } from "./dom.js";
import { cardsComing, failure, leftOut, state } from "./states.js";

const PAGE = 24;

/** The page; its address holds what is looked for: q, not (parted by commas), video, since, until, where, by (video). */
export function searchPage(parameters) {
  const query = h("input", { class: "field", type: "search", id: "query", name: "q", maxlength: 500,
    placeholder: "Describe a moment, such as “a red circle moving left”", autocomplete: "off", "aria-label": "Search the archive" });
  const without = h("input", { class: "field slim wide", id: "without", placeholder: "on grass, at night", autocomplete: "off", maxlength: 500 });
  const video = h("input", { class: "field slim wide", id: "video", list: "videos", placeholder: "any video", autocomplete: "off", maxlength: 200 });
  const names = h("datalist", { id: "videos" });
  const since = h("input", { class: "field slim", id: "since", type: "date" });
  const until = h("input", { class: "field slim", id: "until", type: "date" });
  const where = h("input", { class: "field slim wide", id: "where", placeholder: "camera = 'north' and start_s < 600", autocomplete: "off", spellcheck: "false", maxlength: 2000 });
  const by = h("select", { class: "field slim", id: "by" }, h("option", { value: "" }, "moments"), h("option", { value: "video" }, "videos"));
  const wrong = h("p", { class: "note bad", role: "alert", hidden: true });
  const clear = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => go({ q: query.value }) }, "Clear filters");
  const found = h("section", { class: "stack", "aria-label": "Results" });
  const known = new Map();
  let running = new AbortController();
  let watcher = null;

  function go(wanted) {
    const next = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
    const address = next.size ? `#/?${next}` : "#/";
    if (location.hash === address) show(next);
    else location.hash = address;
  }

  async function submit(event) {
    event?.preventDefault();
    wrong.hidden = true;
    let id = known.get(video.value) ?? "";
    if (video.value && !id) {
      const page = await get("api/videos", { text: video.value, limit: 2 }).catch(() => ({ videos: [] }));
      if (page.videos.length !== 1) {
        wrong.textContent = page.videos.length ? `Several videos have “${video.value}” in their name: choose one of the list.` : `No video has “${video.value}” in its name.`;
        wrong.hidden = false;
        return;
      }
      id = page.videos[0].video_id;
    }
    go({ q: query.value.trim(), not: unwanted(without.value).join(", "), video: id, since: since.value, until: until.value, where: where.value.trim(), by: by.value });
  }

  let asked = 0;
  async function suggest() {
    const turn = ++asked;
    const page = await get("api/videos", { text: known.has(video.value) ? "" : video.value, limit: 20 }).catch(() => null);
    if (page === null || turn !== asked) return;
    for (const each of page.videos) known.set(each.name, each.video_id);
    names.replaceChildren(...page.videos.map((each) => h("option", { value: each.name })));
  }
  video.addEventListener("focus", suggest);
  video.addEventListener("input", suggest);
  for (const field of [without, video, since, until, where, by]) field.addEventListener("change", submit);

  async function show(wanted) {
    running.abort();
    running = new AbortController();
    watcher?.disconnect();
    const { signal } = running;
    query.value = wanted.get("q") ?? "";
    without.value = wanted.get("not") ?? "";
    since.value = wanted.get("since") ?? "";
    until.value = wanted.get("until") ?? "";
    where.value = wanted.get("where") ?? "";
    by.value = wanted.get("by") === "video" ? "video" : "";
    const id = wanted.get("video") ?? "";
    if (!id) video.value = "";
    clear.hidden = !(without.value || id || since.value || until.value || where.value);
    if (id && known.get(video.value) !== id) {
      get(`api/videos/${encodeURIComponent(id)}`).then((row) => { known.set(row.name, id); video.value = row.name; }, () => {});
    }
    const text = query.value.trim();
    document.title = `${text || "Search"} · malmm`;
    found.replaceChildren(cardsComing());
    found.setAttribute("aria-busy", "true");
    const filters = { since: since.value, until: until.value && nextDay(until.value), where: where.value };
    const looked = { text, not: unwanted(without.value), video: id, ...filters };
    try {
      if (text && by.value) await videosFound(looked, signal);
      else if (text) await moments({ ...looked, explain: true, limit: PAGE }, signal);
      else await videos({ ...filters, limit: PAGE }, signal);
    } catch (error) {
      if (error.name !== "AbortError") found.replaceChildren(failure(error, () => show(wanted)));
    } finally {
      if (!signal.aborted) found.removeAttribute("aria-busy");
    }
  }

  async function moments(wanted, signal) {
    const first = await get("api/search", wanted, signal);
    if (!first.moments.length) {
      found.replaceChildren(state("search", "Nothing found", "No moment of the archive fits these words and filters. Try other words, or fewer filters."));
      speak("Nothing found");
      return;
    }
    speak(`${counted(first.moments.length, "moment")}${first.next ? " and more" : ""}`);
    const title = h("div", { class: "near" }, h("h2", {}, "Moments"), leftOut(first.left_out));
    endless(title, "api/search", wanted, first, (page) => page.moments.map((row) => momentCard(row, wanted.text)), signal);
    spread(wanted, signal);
  }

  /** Under the results: how they are spread. A value adds its filter to what is looked for. */
  async function spread(wanted, signal) {
    const { explain, limit, ...asked } = wanted;
    const page = await get("api/search/facets", asked, signal).catch(() => null);
    if (!page || signal.aborted || !page.facets.length) return;
    const narrow = (filter) => { where.value = where.value.trim() ? `(${where.value.trim()}) and ${filter}` : filter; submit(); };
    found.append(h("details", { class: "facets" }, h("summary", {}, `Spread of the best ${counted(page.moments, "moment")}`),
      page.facets.map((facet) => h("section", { "aria-label": facet.name }, h("h3", {}, facet.name),
        h("ul", { class: "row" }, facet.values.map((each) => h("li", {}, h("button", { type: "button", class: "quiet", title: each.where, onclick: () => narrow(each.where) },
          `${facet.name === "video" ? each.value.split("/").pop() : each.value} (${each.count})`))))))));
  }

  async function videosFound(wanted, signal) {
    const page = await get("api/search/videos", wanted, signal);
    if (!page.length) {
      found.replaceChildren(state("search", "Nothing found", "No video of the archive fits these words and filters."));
      speak("Nothing found");
      return;
    }
    speak(counted(page.length, "video"));
    found.replaceChildren(h("h2", {}, "Videos"), ...page.map((each) => h("section", { class: "stack", "aria-label": each.name },
      h("h3", {}, h("a", { href: `#/video/${each.video_id}` }, each.name), h("span", { class: "muted small" }, ` ${counted(each.found, "moment")}`)),
      h("ol", { class: "cards" }, each.moments.map((row) => momentCard(row, wanted.text))))));
    spread(wanted, signal);
  }

  async function videos(wanted, signal) {
    const first = await get("api/videos", wanted, signal);
    if (!first.videos.length) {
      const empty = clear.hidden;
      found.replaceChildren(state("film", empty ? "The archive is empty" : "No videos", empty
        ? "Index videos with malmm index, and they appear here as they are done." : "No video passes these filters."));
      return;
    }
    const title = h("div", { class: "row" }, h("h2", {}, "Latest videos"), h("span", { class: "muted small" }, counted(first.total, "video")));
    endless(title, "api/videos", wanted, first, (page) => page.videos.map(videoCard), signal);
  }

  /** Cards that grow as their end comes into view, or as somebody asks for more. */
  function endless(title, path, wanted, first, cards, signal) {
    const list = h("ol", { class: "cards", id: "cards" }, cards(first));
    const more = h("button", { type: "button", class: "quiet" }, "Show more");
    const foot = h("div", { class: "row", hidden: !first.next }, more);
    let next = first.next;
    let loading = false;
    async function load(focus) {
      if (loading || !next) return;
      loading = true;
      more.disabled = true;
      more.textContent = "Loading…";
      try {
        const page = await get(path, { ...wanted, cursor: next }, signal);
        const fresh = cards(page);
        list.append(...fresh);
        next = page.next;
        foot.hidden = !next;
        speak(`${counted(fresh.length, "more result")}`);
        if (focus) fresh[0]?.querySelector("a").focus();
        more.textContent = "Show more";
      } catch (error) {
        if (error.name === "AbortError") return;
        more.textContent = `${error.message} Try again`;
        watcher.disconnect();
      } finally {
        loading = false;
        more.disabled = false;
      }
      // The end may still be in view.
      if (next && watcher) { watcher.unobserve(foot); watcher.observe(foot); }
    }
    more.addEventListener("click", () => load(true));
    watcher = new IntersectionObserver((seen) => { if (seen.some((each) => each.isIntersecting)) load(false); }, { rootMargin: "400px" });
    found.replaceChildren(title, list, foot);
    watcher.observe(foot);
  }

  const form = h("form", { role: "search", class: "near", onsubmit: submit },
    h("div", { class: "searchbox" }, query, h("button", { type: "submit" }, "Search")),
    h("div", { class: "filters" }, h("label", { for: "without" }, "Without", without), h("label", { for: "video" }, "Video", video), names,
      h("label", { for: "since" }, "From", since), h("label", { for: "until" }, "To", until),
      h("label", { for: "where" }, "Filter", where), h("label", { for: "by" }, "Show", by), clear), wrong);
  show(parameters);
  return {
    view: h("div", { class: "stack" }, h("h1", { class: "unseen" }, "Search"), form, found),
    moved: show,
    close: () => { running.abort(); watcher?.disconnect(); },
  };
}

/** What should not be there: texts parted by commas. */
function unwanted(written) {
  return written.split(",").map((each) => each.trim()).filter(Boolean);
}

function nextDay(day) {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + 1);
  return date.toISOString().slice(0, 10);
}

function picture(address) {
  return address ? h("img", { src: address, alt: "", loading: "lazy", onerror: (event) => event.target.remove() }) : null;
}

function momentCard(row, text) {
  const at = row.timestamp_s - row.video_start_s;
  const address = `#/video/${row.video_id}?${new URLSearchParams({ t: Math.max(0, Math.min(at, row.start_s - row.video_start_s)).toFixed(2), q: text, ...whose(row) })}`;
  const said = row.caption || row.text;
  const score = row.similarity === null ? null : h("meter", { min: 0, max: 1, value: Math.max(0, row.similarity).toFixed(3), "aria-label": "Similarity" });
  return h("li", {}, h("article", { class: "card" },
    h("div", { class: "shot" }, picture(row.thumbnail), h("span", { class: "time" }, span(row, row.video_start_s))),
    h("div", { class: "body" },
      h("h3", {}, h("a", { class: "whole", href: address }, row.name)),
      said ? h("p", { class: "clamp" }, said) : h("p", { class: "muted" }, "No caption"),
      h("div", { class: "score" }, score, row.similarity === null ? null : h("span", {}, row.similarity.toFixed(2)),
        row.archive ? h("span", { class: "tag" }, row.archive) : null,
        row.signals.map((signal) => h("span", { class: "tag" }, signal === "text" ? "words" : "picture"))),
      row.explanation ? h("p", { class: "small muted" }, why(row.explanation)) : null)));
}

/** What each signal gave a moment, in words. */
export function why(given) {
  const parts = [];
  if (given.vector_rank !== null) {
    const relevant = given.threshold === null ? "" : `, ${given.is_relevant ? "relevant" : "not relevant"} from ${given.threshold.toFixed(2)} on`;
    parts.push(`No. ${given.vector_rank} by picture (${given.similarity.toFixed(2)}${relevant})`);
  }
  if (given.word_rank !== null) parts.push(`No. ${given.word_rank} by words`);
  return parts.join(", ");
}

/** What a link says of the archive that a video is read from, where there are several. */
function whose(row) {
  return row.archive ? { archive: row.archive } : {};
}

function videoCard(row) {
  return h("li", {}, h("article", { class: "card" },
    h("div", { class: "shot" }, picture(row.thumbnail), h("span", { class: "time" }, clock(row.duration_s))),
    h("div", { class: "body" },
      h("h3", {}, h("a", { class: "whole", href: `#/video/${row.video_id}${row.archive ? `?${new URLSearchParams(whose(row))}` : ""}` }, row.name)),
      row.caption ? h("p", { class: "clamp" }, row.caption) : h("p", { class: "muted" }, "No caption"),
      h("p", { class: "small muted" }, `Indexed ${when(row.indexed_at)}${row.archive ? ` in ${row.archive}` : ""}`))));
}

// Reviewing texts: one after the other, with the keyboard alone if one likes.

import { get, send } from "./api.js";
import { clock, counted, h, number, span, speak, when } from "./dom.js";
import { failure, panelsComing, state } from "./states.js";

const STATES = { unreviewed: "Not reviewed", wrong: "Wrong", right: "Right", all: "All" };
const KEYS = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };

/** The page; its address holds which texts: state, prompt. */
export function reviewPage(parameters) {
  const list = h("ol", { class: "reviews", "aria-label": "Texts to review" });
  const told = h("p", { class: "muted small", id: "review-told" });
  const body = h("div", {}, panelsComing("6rem", "6rem", "6rem"));
  const chosen = h("select", { class: "field", id: "review-state", onchange: () => go({ state: chosen.value }) },
    Object.entries(STATES).map(([value, label]) => h("option", { value, selected: value === (parameters.get("state") ?? "unreviewed") }, label)));
  const prompt = h("input", { class: "field", id: "review-prompt", type: "text", value: parameters.get("prompt") ?? "", maxlength: "64",
    onchange: () => go({ prompt: prompt.value.trim() }) });
  const view = h("div", { class: "stack" }, h("h1", {}, "Review"),
    h("div", { class: "row" }, h("label", { for: "review-state" }, "Texts"), chosen, h("label", { for: "review-prompt" }, "Prompt"), prompt),
    h("p", { class: "muted small" }, "Keys: J and K move, R is right, W is wrong, E corrects (Ctrl+Enter saves, Escape leaves), P plays."), told, body);
  let items = [];
  let mayReview = false;
  let closed = false;

  function go(changed) {
    const wanted = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(changed)) { if (value) wanted.set(name, value); else wanted.delete(name); }
    location.hash = `#/review?${wanted}`;
  }

  async function load() {
    try {
      const asked = { state: parameters.get("state") ?? "unreviewed", prompt: parameters.get("prompt") ?? "", limit: 100 };
      const [session, page] = await Promise.all([get("api/session"), get("api/reviews", asked)]);
      if (closed) return;
      mayReview = session.may_review;
      items = page.items.map((item) => row(item));
      told.textContent = `${counted(page.total, "text")}, lowest score first${page.total > items.length ? `; the first ${items.length} are shown` : ""}${mayReview ? "" : "; this token may read and not review"}.`;
      list.replaceChildren(...items.map((each) => each.view));
      body.replaceChildren(items.length ? list : state("talk", "Nothing to review", "No text is in this state."));
      items[0]?.focusable(true);
    } catch (error) {
      if (!closed) body.replaceChildren(failure(error, load));
    }
  }

  function move(from, step) {
    const next = items[items.indexOf(from) + step];
    if (!next) return;
    from.focusable(false);
    next.focusable(true);
    next.view.focus();
  }

  function row(item) {
    const verdict = h("p", { class: "small" });
    const box = h("textarea", { class: "field", rows: "3", maxlength: "4096", "aria-label": "What it should be" });
    const editor = h("div", { class: "near", hidden: true }, box, h("div", { class: "row" },
      h("button", { type: "button", onclick: () => correct() }, "Save"),
      h("button", { type: "button", class: "quiet", onclick: () => leave() }, "Leave")));
    const wrong = h("p", { class: "note bad", role: "alert", hidden: true });
    const place = item.whole_video ? "whole video" : span(item, item.video_start_s);
    const at = `#/video/${item.video_id}?t=${(item.start_s - item.video_start_s).toFixed(1)}`;
    const actions = h("div", { class: "row" },
      h("button", { type: "button", class: "quiet", disabled: !mayReview, onclick: () => say("right") }, "Right"),
      h("button", { type: "button", class: "quiet", disabled: !mayReview, onclick: () => say("wrong") }, "Wrong"),
      h("button", { type: "button", class: "quiet", disabled: !mayReview, onclick: () => edit() }, "Correct"),
      h("a", { class: "button quiet", href: at }, `Play from ${clock(item.start_s - item.video_start_s)}`));
    const view = h("li", { class: "panel near", tabindex: "-1" },
      h("p", { class: "small muted wrap" }, `${item.name}, ${place}. ${item.prompt_name}: ${item.prompt}`),
      h("div", { class: "row" }, h("img", { src: item.thumbnail, alt: "", loading: "lazy", width: 112, height: 84, onerror: (event) => { event.target.hidden = true; } }),
        h("p", { class: "wrap" }, item.text || "(no words)", item.score === null ? null : h("span", { class: "tag" }, number(item.score, 2)))),
      verdict, actions, editor, wrong);
    const self = { view, focusable: (on) => view.setAttribute("tabindex", on ? "0" : "-1") };

    function shown() {
      verdict.textContent = item.verdict
        ? `${item.verdict === "right" ? "Right" : "Wrong"}${item.correction ? `, it should be: ${item.correction}` : ""} (${item.reviewer}, ${when(item.reviewed_at)})` : "";
    }

    async function say(word, correction = undefined) {
      if (!mayReview) return;
      try {
        item = await send("POST", "api/reviews", { annotation_id: item.annotation_id, verdict: word, ...(correction ? { correction } : {}) });
        wrong.hidden = true;
        shown();
        speak(verdict.textContent);
        editor.hidden = true;
        if (view.contains(document.activeElement)) { view.focus(); move(self, 1); }
      } catch (error) {
        wrong.textContent = error.message;
        wrong.hidden = false;
      }
    }

    function edit() {
      if (!mayReview) return;
      box.value = item.correction ?? item.text;
      editor.hidden = false;
      box.focus();
    }

    function leave() {
      editor.hidden = true;
      view.focus();
    }

    function correct() {
      const text = box.value.trim();
      if (text === item.text) say("right");
      else if (text) say("wrong", text);
    }

    view.addEventListener("keydown", (event) => {
      if (event.target === box) {
        if (event.key === "Escape") leave();
        else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) correct();
        else return;
        event.preventDefault();
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const actions = { r: () => say("right"), w: () => say("wrong"), e: () => edit(), p: () => { location.hash = at; } };
      if (event.key in KEYS) move(self, KEYS[event.key]);
      else if (event.key in actions) actions[event.key]();
      else return;
      event.preventDefault();
    });
    view.addEventListener("focusin", () => { for (const each of items) each.focusable(each === self); });
    shown();
    return self;
  }

  load();
  return { view, close: () => { closed = true; } };
}

// Which page is shown: the address after the number sign says, so that one file serves all of them.

import { send, get } from "./api.js";
import { h, speak } from "./dom.js";
import { archivePage } from "./archive.js";
import { askPage } from "./ask.js";
import { reviewPage } from "./review.js";
import { searchPage } from "./search.js";
import { signIn } from "./door.js";
import { state } from "./states.js";
import { videoPage } from "./video.js";

const main = document.getElementById("main");
const leaveButton = document.getElementById("leave");
let close = () => {};
let shown = null;

function route() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query);
  const video = path.match(/^\/video\/([0-9a-f]{24})$/);
  if (path === "" || path === "/") return { name: "Search", at: "#/", make: () => searchPage(parameters) };
  if (path === "/ask") return { name: "Ask", at: "#/ask", make: () => askPage(parameters) };
  if (path === "/review") return { name: "Review", at: "#/review", key: location.hash, make: () => reviewPage(parameters) };
  if (path === "/archive") return { name: "Archive", at: "#/archive", make: () => archivePage() };
  if (video) return { name: "Video", at: "", key: path, make: () => videoPage(video[1], parameters) };
  return { name: "Not found", at: "", make: () => ({ view: h("div", { class: "stack" }, h("h1", {}, "Not found"),
    state("search", "There is no such page", "The address may be cut short.",
      { action: h("a", { class: "button quiet", href: "#/" }, "Search the archive") })) }) };
}

function show() {
  if (location.hash.startsWith("#token=")) { enter(); return; }
  const next = route();
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.getAttribute("href") === next.at) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // Where only the place within a page changes, such as another moment, the page is not rebuilt.
  if (shown?.moved && shown.key === (next.key ?? next.at)) {
    shown.moved(new URLSearchParams(location.hash.split("?")[1] ?? ""));
    return;
  }
  const first = shown === null;
  close();
  const page = next.make();
  shown = { key: next.key ?? next.at, moved: page.moved };
  close = page.close ?? (() => {});
  main.replaceChildren(page.view);
  document.title = `${next.name} · malmm`;
  if (!first) { main.focus(); window.scrollTo(0, 0); speak(next.name); }
}

function lock() {
  close();
  close = () => {};
  shown = null;
  leaveButton.hidden = true;
  document.title = "Sign in · malmm";
  main.replaceChildren(signIn(open));
}

async function open() {
  leaveButton.hidden = false;
  shown = null;
  show();
}

async function enter() {
  const token = decodeURIComponent(location.hash.slice("#token=".length));
  // The token leaves the address at once: it would stay in the history.
  history.replaceState(null, "", "#/");
  try {
    await send("POST", "api/session", { token });
    await open();
  } catch {
    lock();
  }
}

leaveButton.addEventListener("click", async () => {
  await send("DELETE", "api/session").catch(() => {});
  lock();
});
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
document.addEventListener("locked", lock);
document.addEventListener("keydown", (event) => {
  // The slash goes to the search box, as on other sites, unless somebody is writing.
  if (event.key === "/" && !event.target.closest("input, textarea") && !event.ctrlKey && !event.metaKey) {
    const box = document.querySelector("input[type=search]");
    if (box) { event.preventDefault(); box.focus(); box.select(); }
  }
});
window.addEventListener("hashchange", show);

try {
  const session = await get("api/session");
  if (session.open || location.hash.startsWith("#token=")) {
    leaveButton.hidden = !session.token_needed;
    show();
  } else {
    lock();
  }
} catch {
  show();
}

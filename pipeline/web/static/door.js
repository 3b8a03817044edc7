// Signing in.

import { send } from "./api.js";
import { h } from "./dom.js";

/** A form that asks for the token and calls `open` once it is right. */
export function signIn(open) {
  const field = h("input", { class: "field", type: "password", name: "token", autocomplete: "current-password",
    required: true, autofocus: true, id: "token", "aria-describedby": "token-wrong" });
  const wrong = h("p", { class: "note bad", id: "token-wrong", role: "alert", hidden: true });
  const button = h("button", { type: "submit" }, "Open the archive");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await send("POST", "api/session", { token: field.value });
      await open();
    } catch (error) {
      wrong.textContent = error.message;
      wrong.hidden = false;
      field.select();
      field.focus();
    } finally {
      button.disabled = false;
    }
  } }, h("label", { for: "token" }, "Token"), field, wrong, button);
  return h("div", { class: "door panel stack" }, h("div", { class: "near" }, h("h1", {}, "Sign in"),
    h("p", { class: "muted" }, "This archive needs a token. Ask whoever started the server for it.")), form);
}

// The API key: entered in a dialog, kept by the browser for this tab's session and nowhere else.

import { key } from "./api.js";
import { $ } from "./dom.js";

let afterwards = () => {};

/** Open the dialog; `done` is called when a key was given. */
export function askForKey(done) {
  afterwards = done;
  $("key").value = key.get();
  $("key-forget").hidden = !key.get();
  $("key-note").textContent = "";
  $("key-dialog").showModal();
  $("key").focus();
}

/** @param onChange called after the key was set or forgotten */
export function wireKeys(onChange) {
  $("key-button").addEventListener("click", () => askForKey(() => {}));
  $("key-cancel").addEventListener("click", () => $("key-dialog").close());
  $("key-forget").addEventListener("click", () => {
    key.set("");
    $("key-dialog").close();
    onChange();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const entered = $("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(entered)) {
      $("key-note").textContent = "A key is one word of letters, digits and signs.";
      return;
    }
    key.set(entered);
    $("key-dialog").close();
    onChange();
    afterwards();
  });
}

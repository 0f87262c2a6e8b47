// The API key: entered in a dialog, stored by the browser for this tab's session only.

import { key } from "./api.js";
import { $ } from "./dom.js";

let afterwards = () => {};

/** Open the dialog; `done` is called when a key was entered. */
export function askForKey(done) {
  afterwards = done;
  $("key").value = key.get();
  $("key-forget").hidden = !key.get();
  $("key-note").textContent = "";
  $("key-dialog").showModal();
  $("key").focus();
}

/** @param onChange called after the key was set or removed */
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
      $("key-note").textContent = "A key consists of letters, digits and symbols, without spaces.";
      return;
    }
    key.set(entered);
    $("key-dialog").close();
    onChange();
    afterwards();
  });
}

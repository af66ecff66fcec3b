// Asks for the key of a server that requires one.
import {Failure, key} from "./api.js";
import {byId, make} from "./dom.js";

const FIRST = "Enter the key that the operator of the server gave you. This browser keeps it.";

const note = make("p", {className: "note"});
const input = make("input", {type: "password", autocomplete: "off", spellcheck: false, required: true});
const dialog = make("dialog", {ariaLabel: "Key"}, make("form", {method: "dialog"},
  make("h2", {textContent: "This server requires a key"}), note, make("label", {}, "Key ", input),
  make("p", {className: "bar"},
    make("button", {type: "submit", value: "save", textContent: "Use this key"}),
    make("button", {type: "button", className: "quiet", textContent: "Cancel", onclick: () => dialog.close("")}))));
document.body.append(dialog);

let entering = null;

/** Asks for a key. Resolves when one was entered, rejects with the failure if not. */
export function askForKey(failure) {
  if (entering) return entering;
  note.textContent = key.get() || failure.status !== 401 ? `${failure.message} Enter another key.` : FIRST;
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  entering = new Promise((resolve, reject) => {
    dialog.onclose = () => {
      entering = null;
      const given = input.value.trim();
      if (dialog.returnValue !== "save" || !given) { reject(failure); return; }
      if (!/^[\x21-\x7e]+$/.test(given)) {
        resolve(askForKey({message: "A key has no spaces and no letters with accents."}));
        return;
      }
      key.set(given);
      byId("change-key").hidden = false;
      resolve();
    };
  });
  return entering;
}

byId("change-key").hidden = !key.get();

/** Lets people change the key; calls `changed` when they did. */
export function mayChangeKey(changed = () => {}) {
  byId("change-key").onclick = () => askForKey(new Failure("A key is stored.")).then(changed, () => {});
}

// Asks for the key of a server that requires one.
import {Failure, key} from "./api.js";
import {byId} from "./dom.js";

let entering = null;

/** Asks for a key. Resolves when one was entered, rejects with the failure if not. */
export function askForKey(failure) {
  if (entering) return entering;
  const dialog = byId("key-dialog");
  byId("key-note").textContent = key.get() || failure.status !== 401
    ? `${failure.message} Enter another key.`
    : "Enter the key that the operator of the server gave you. This browser keeps it.";
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  entering = new Promise((resolve, reject) => {
    dialog.onclose = () => {
      entering = null;
      const given = byId("key").value.trim();
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
byId("key-cancel").onclick = () => byId("key-dialog").close("");
/** Lets people change the key; calls `changed` when they did. */
export function mayChangeKey(changed = () => {}) {
  byId("change-key").onclick = () => askForKey(new Failure("A key is stored.")).then(changed, () => {});
}

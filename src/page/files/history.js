// Transcripts and recordings in the browser's own database. Nothing of them is stored on the server.

const STORE = "transcripts";
/** The sound of a larger file is not kept, only its text. */
const LARGEST_FILE = 64 * 1024 * 1024;

const open = new Promise((resolve, reject) => {
  const request = indexedDB.open("uttera-stt", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(STORE, {keyPath: "id"});
    request.result.createObjectStore("audio");
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
open.catch(() => {});

async function transaction(mode, work) {
  const database = await open;
  return new Promise((resolve, reject) => {
    const running = database.transaction([STORE, "audio"], mode);
    const request = work(running.objectStore(STORE), running.objectStore("audio"));
    running.oncomplete = () => resolve(request?.result);
    running.onerror = running.onabort = () => reject(running.error);
  });
}

/** All transcripts, the newest first. */
export async function all() {
  const found = await transaction("readonly", store => store.getAll());
  return found.sort((one, other) => other.created - one.created);
}

/** Keeps a transcript. Returns whether its audio is kept as well: that of a recording of any size, for there is no other. */
export async function keep(transcript, audio) {
  const withAudio = audio && (transcript.isRecording || audio.size <= LARGEST_FILE);
  // Ask the browser not to delete it by itself.
  navigator.storage?.persist?.().catch(() => {});
  try {
    await transaction("readwrite", (store, sounds) => {
      if (withAudio) sounds.put(audio, transcript.id);
      return store.put(transcript);
    });
    return withAudio;
  } catch {
    // No space for the audio: the text alone.
    await transaction("readwrite", store => store.put(transcript));
    return false;
  }
}

export const update = transcript => transaction("readwrite", store => store.put(transcript));

export const audioOf = id => transaction("readonly", (_, sounds) => sounds.get(id));

export const forget = id => transaction("readwrite", (store, sounds) => { sounds.delete(id); return store.delete(id); });

export const forgetAll = () => transaction("readwrite", (store, sounds) => { sounds.clear(); return store.clear(); });

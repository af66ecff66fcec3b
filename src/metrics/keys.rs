//! Series per key, labelled with its name. The set of names is small: those of the configured keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{counter, describe_counter, describe_gauge, gauge};

const REQUESTS: &str = "uttera_stt_key_requests_total";
const AUDIO_SECONDS: &str = "uttera_stt_key_audio_seconds_total";

const FILE_OK: &str = "uttera_stt_key_file_ok";

/// Values of the label `status_class`.
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// Records the status of a request that needed a key.
pub fn record_request(name: &Arc<str>, status: u16) {
    let [success, client, server] = CLASSES;
    let class = match status {
        ..400 => success,
        400..500 => client,
        500.. => server,
    };
    counter!(REQUESTS, "key" => Arc::clone(name), "status_class" => class).increment(1);
}

/// Sums of audio in milliseconds. Counters are whole numbers, so adding whole seconds would lose short
/// clips.
#[derive(Debug, Default)]
pub(super) struct AudioByKey(Mutex<BTreeMap<Arc<str>, u64>>);

impl AudioByKey {
    pub(super) fn add(&self, name: &Arc<str>, seconds: f64) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(Arc::clone(name)).or_default();
        *sum += (seconds * 1000.0) as u64;
        counter!(AUDIO_SECONDS, "key" => Arc::clone(name)).absolute(*sum / 1000);
    }
}

/// Records whether the keys could be read the last time.
pub fn record_reload(worked: bool) {
    gauge!(FILE_OK).set(f64::from(u8::from(worked)));
}

pub(super) fn describe() {
    describe_gauge!(
        FILE_OK,
        "1 if the keys (API_KEYS_FILE, API_KEYS) could be read the last time; 0 after a failed reload, when the keys before it stay valid."
    );
    describe_counter!(
        REQUESTS,
        "Requests on paths that need a key, by key name and status class; anonymous: without a valid key."
    );
    describe_counter!(
        AUDIO_SECONDS,
        "Seconds of audio in answered requests, by the key's name."
    );
}

/// Creates the series of these keys.
pub fn register<'a>(names: impl Iterator<Item = &'a str>) {
    for name in names {
        for class in CLASSES {
            let _ = counter!(REQUESTS, "key" => name.to_owned(), "status_class" => class);
        }
        let _ = counter!(AUDIO_SECONDS, "key" => name.to_owned());
    }
}

//! What each key did, by its name. The names are those of configured keys, so there are few.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{counter, describe_counter};

const REQUESTS: &str = "uttera_stt_key_requests_total";
const AUDIO_SECONDS: &str = "uttera_stt_key_audio_seconds_total";

/// Classes of status that answers have.
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// A request that a key was asked for ended with this status.
pub fn record_request(name: &Arc<str>, status: u16) {
    let [success, client, server] = CLASSES;
    let class = match status {
        ..400 => success,
        400..500 => client,
        500.. => server,
    };
    counter!(REQUESTS, "key" => Arc::clone(name), "status_class" => class).increment(1);
}

/// Sums of audio in milliseconds: counters are whole numbers, and so many short clips would be lost in
/// seconds.
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

pub(super) fn describe() {
    describe_counter!(
        REQUESTS,
        "Requests on paths that need a key, by the key's name and the status's class; anonymous: without a valid key."
    );
    describe_counter!(
        AUDIO_SECONDS,
        "Seconds of audio in answered requests, by the key's name."
    );
}

/// Makes the series of these keys exist.
pub fn register<'a>(names: impl Iterator<Item = &'a str>) {
    for name in names {
        for class in CLASSES {
            let _ = counter!(REQUESTS, "key" => name.to_owned(), "status_class" => class);
        }
        let _ = counter!(AUDIO_SECONDS, "key" => name.to_owned());
    }
}

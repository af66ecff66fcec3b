//! An `f64` that one actor writes and any thread reads; NaN while it is unknown.

use std::sync::atomic::{AtomicU64, Ordering};

/// An optional `f64` in an atomic.
#[derive(Debug)]
pub struct AtomicF64(AtomicU64);

impl Default for AtomicF64 {
    /// An unknown value.
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl AtomicF64 {
    /// A known value.
    pub fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    /// Sets the value; `None`: unknown.
    pub fn set(&self, value: Option<f64>) {
        let bits = value.unwrap_or(f64::NAN).to_bits();
        self.0.store(bits, Ordering::Relaxed);
    }

    /// The value, if it is known.
    pub fn get(&self) -> Option<f64> {
        let value = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!value.is_nan()).then_some(value)
    }

    /// Updates a rolling mean: moves it towards `newest` by `weight`; the first value becomes the mean.
    pub fn roll(&self, newest: f64, weight: f64) {
        self.set(Some(match self.get() {
            Some(old) => old + weight * (newest - old),
            None => newest,
        }));
    }
}

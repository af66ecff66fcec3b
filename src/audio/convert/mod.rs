//! Conversion to what the models take: several channels to one (`mono`), any sample rate to 16 kHz (`resample`).

pub(super) mod mono;
pub(super) mod resample;

//! Conversion to what the models take: several channels to one (`mono`), any sample rate to 16 kHz (`resample`), and a
//! filter against hum and rumble (`high_pass`). `pcm` does both for uncompressed samples.

pub(super) mod high_pass;
pub(super) mod mono;
pub(super) mod pcm;
pub(super) mod resample;

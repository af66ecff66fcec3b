//! What this node presents to Redis, and whose certificates it trusts.

use super::files::{Pair, PemFile, TlsError};
use crate::redis::RedisPem;
use crate::settings::RedisTlsSettings;

/// The files that `REDIS_CA`, `REDIS_CERT` and `REDIS_KEY` name.
#[derive(Clone, Debug, Default)]
pub struct RedisFiles {
    /// The only trusted authorities.
    pub ca: Option<PemFile>,
    /// The certificate of this node, and its key.
    pub pair: Option<(PemFile, PemFile)>,
}

impl RedisFiles {
    /// The files of the settings.
    pub fn of(settings: &RedisTlsSettings) -> Self {
        let ca = settings.ca.as_deref();
        let pair = settings.certificate.as_deref().zip(settings.key.as_deref());
        Self {
            ca: ca.map(|path| PemFile::new("REDIS_CA", path)),
            pair: pair.map(|(certificate, key)| {
                (
                    PemFile::new("REDIS_CERT", certificate),
                    PemFile::new("REDIS_KEY", key),
                )
            }),
        }
    }

    /// Whether the settings name none.
    pub fn is_empty(&self) -> bool {
        self.ca.is_none() && self.pair.is_none()
    }

    /// Reads and checks the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(&self) -> Result<RedisPem, TlsError> {
        let mut read = RedisPem::default();
        if let Some(file) = &self.ca {
            file.authorities()?;
            read.ca = Some(file.bytes()?);
        }
        if let Some((certificate, key)) = &self.pair {
            Pair::read(certificate, key)?;
            read.pair = Some((certificate.bytes()?, key.bytes()?));
        }
        Ok(read)
    }
}

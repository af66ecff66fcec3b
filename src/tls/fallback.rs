//! What this node presents to the fallback node, and whose certificates it trusts.

use super::files::{Pair, PemFile, TlsError, Validity, validity};
use crate::metrics::tls as metrics;
use crate::settings::FallbackTlsSettings;

/// The files that `FALLBACK_CA`, `FALLBACK_CERT` and `FALLBACK_KEY` name.
#[derive(Clone, Debug, Default)]
pub struct FallbackFiles {
    /// The only trusted authorities.
    pub ca: Option<PemFile>,
    /// The certificate of this node, and its key.
    pub pair: Option<(PemFile, PemFile)>,
}

/// The content of the files, in PEM format.
#[derive(Clone, Default)]
pub struct FallbackPem {
    /// The only trusted authorities; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// The certificate of this node, with its chain, and its key.
    pub pair: Option<(Vec<u8>, Vec<u8>)>,
    ca_validity: Option<Validity>,
    own_validity: Option<Validity>,
}

impl FallbackFiles {
    /// The files of the settings.
    pub fn of(settings: &FallbackTlsSettings) -> Self {
        let ca = settings.ca.as_deref();
        let pair = settings.certificate.as_deref().zip(settings.key.as_deref());
        Self {
            ca: ca.map(|path| PemFile::new("FALLBACK_CA", path)),
            pair: pair.map(|(certificate, key)| {
                (
                    PemFile::new("FALLBACK_CERT", certificate),
                    PemFile::new("FALLBACK_KEY", key),
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
    pub fn read(&self) -> Result<FallbackPem, TlsError> {
        let mut read = FallbackPem::default();
        if let Some(file) = &self.ca {
            file.authorities()?;
            read.ca_validity = Some(validity(&file.certificates()?, file)?);
            read.ca = Some(file.bytes()?);
        }
        if let Some((certificate, key)) = &self.pair {
            let pair = Pair::read(certificate, key)?;
            read.own_validity = Some(validity(&pair.chain, certificate)?);
            read.pair = Some((certificate.bytes()?, key.bytes()?));
        }
        Ok(read)
    }
}

impl FallbackPem {
    /// That this node's certificate can be used now.
    ///
    /// # Errors
    /// It has expired, or is not valid yet.
    pub fn check_now(&self) -> Result<(), TlsError> {
        self.own_validity
            .map_or(Ok(()), |validity| validity.check_now("FALLBACK_CERT"))
    }

    /// Sets the metrics of the times until which the certificates are valid.
    pub fn record_expiry(&self) {
        if let Some(validity) = self.ca_validity {
            metrics::record_expiry(metrics::Certificates::FallbackCa, validity);
        }
        if let Some(validity) = self.own_validity {
            metrics::record_expiry(metrics::Certificates::Fallback, validity);
        }
    }
}

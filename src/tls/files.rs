//! Certificates and private keys in PEM files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys, RootCertStore};
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::provider;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// A certificate that expires sooner should be renewed.
pub const RENEW_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Why a file of certificates or keys cannot be used: one line, for people.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TlsError {
    /// The file is missing, unreadable or has the wrong content.
    #[error("{variable}: {} {problem}", path.display())]
    File {
        /// The variable that names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key are of different pairs.
    #[error("{key}: the key does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The variable that names the certificate's file.
        certificate: &'static str,
        /// The variable that names the key's file.
        key: &'static str,
    },
    /// The certificate is of no use any more.
    #[error("{variable}: the certificate expired on {date}")]
    Expired {
        /// The variable that names the file.
        variable: &'static str,
        /// The date.
        date: String,
    },
    /// The certificate is of no use yet.
    #[error("{variable}: the certificate is valid only from {date} on; is the clock right?")]
    NotYetValid {
        /// The variable that names the file.
        variable: &'static str,
        /// The date.
        date: String,
    },
}

/// A PEM file that a setting names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFile {
    /// The variable.
    pub variable: &'static str,
    /// The path.
    pub path: PathBuf,
}

impl PemFile {
    /// The file that this variable names.
    pub fn new(variable: &'static str, path: &Path) -> Self {
        let path = path.to_path_buf();
        Self { variable, path }
    }

    /// The certificates in the file, at least one.
    ///
    /// # Errors
    /// The file cannot be read, or has none.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.bytes()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| self.problem(format!("is not valid PEM: {error}")))?;
        if found.is_empty() {
            return Err(self.problem("contains no certificate in PEM format"));
        }
        Ok(found)
    }

    /// The certificates in the file, as authorities.
    ///
    /// # Errors
    /// The file cannot be read, or one of its certificates cannot be one of an authority.
    pub fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            let added = roots.add(certificate);
            added.map_err(|error| self.problem(format!("has an invalid certificate: {error}")))?;
        }
        Ok(roots)
    }

    /// The first private key in the file.
    ///
    /// # Errors
    /// The file cannot be read, or has none.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let bytes = self.bytes()?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
            let is_encrypted = String::from_utf8_lossy(&bytes).contains("ENCRYPTED");
            self.problem(match error {
                _ if is_encrypted => {
                    "is protected by a password, which the server cannot enter".to_owned()
                }
                PemError::NoItemsFound => {
                    "contains no private key in PEM format (PKCS#8, RSA or EC)".to_owned()
                }
                error => format!("is not valid PEM: {error}"),
            })
        })
    }

    /// The content.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>, TlsError> {
        let unreadable = |error: std::io::Error| self.problem(format!("cannot be read: {error}"));
        // Reading a pipe would block.
        if !self.path.metadata().map_err(unreadable)?.is_file() {
            return Err(self.problem("is not a regular file"));
        }
        let mut bytes = Vec::new();
        let file = File::open(&self.path).map_err(unreadable)?;
        let mut file = file.take(MAX_BYTES + 1);
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(self.problem(format!("is larger than {MAX_BYTES} bytes")));
        }
        Ok(bytes)
    }

    /// Whether every user of the machine can read the file.
    pub fn is_world_readable(&self) -> bool {
        let metadata = self.path.metadata();
        metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }

    fn problem(&self, problem: impl Into<String>) -> TlsError {
        TlsError::File {
            variable: self.variable,
            path: self.path.clone(),
            problem: problem.into(),
        }
    }
}

/// A certificate with its chain, and its private key.
#[derive(Debug)]
pub struct Pair {
    /// The certificate, and the chain up to an authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl Pair {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// A file cannot be used, or they do not belong together.
    pub fn read(certificate: &PemFile, key_file: &PemFile) -> Result<Self, TlsError> {
        let chain = certificate.certificates()?;
        let key = key_file.key()?;
        validity(&chain, certificate)?;
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
            Ok(_) => Ok(Self { chain, key }),
            Err(RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(TlsError::Mismatch {
                    certificate: certificate.variable,
                    key: key_file.variable,
                })
            }
            Err(RustlsError::InvalidCertificate(error)) => {
                Err(certificate.problem(format!("has an invalid certificate: {error}")))
            }
            Err(error) => Err(key_file.problem(format!(
                "has a key that cannot be used (RSA of 2048 bits or more, EC P-256 and P-384, Ed25519 can): {error}"
            ))),
        }
    }
}

/// The time in which certificates are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// When the last of them becomes valid.
    pub begins: SystemTime,
    /// When the first of them expires.
    pub ends: SystemTime,
}

impl Validity {
    /// That certificates can be used now. `variable`: the one that names their file.
    ///
    /// # Errors
    /// One of them has expired, or is not valid yet.
    pub fn check_now(&self, variable: &'static str) -> Result<(), TlsError> {
        let now = SystemTime::now();
        if self.ends <= now {
            let date = date(self.ends);
            return Err(TlsError::Expired { variable, date });
        }
        if self.begins > now {
            let date = date(self.begins);
            return Err(TlsError::NotYetValid { variable, date });
        }
        Ok(())
    }

    /// The end in Unix seconds.
    pub fn ends_unix(&self) -> f64 {
        let since = self.ends.duration_since(UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    }
}

/// The time in which all of these certificates are valid. `file`: where they come from.
///
/// # Errors
/// One of them is no certificate.
pub fn validity(certificates: &[CertificateDer<'_>], file: &PemFile) -> Result<Validity, TlsError> {
    let far = UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
    let mut all = Validity {
        begins: UNIX_EPOCH,
        ends: far,
    };
    for der in certificates {
        let parsed = Certificate::from_der(der);
        let parsed =
            parsed.map_err(|error| file.problem(format!("has an invalid certificate: {error}")))?;
        let validity = parsed.tbs_certificate.validity;
        all.begins = all.begins.max(validity.not_before.to_system_time());
        all.ends = all.ends.min(validity.not_after.to_system_time());
    }
    Ok(all)
}

/// A day as people write it in this project.
pub fn date(at: SystemTime) -> String {
    time::OffsetDateTime::from(at).date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_can_be_used_between_its_two_dates() {
        let day = Duration::from_secs(24 * 3600);
        let now = SystemTime::now();
        let check = |begins, ends| Validity { begins, ends }.check_now("TLS_CERT");
        assert_eq!(check(now - day, now + day), Ok(()));
        let expired = check(now - 2 * day, now - day);
        assert!(matches!(expired, Err(TlsError::Expired { .. })));
        let early = check(now + day, now + 2 * day);
        assert!(matches!(early, Err(TlsError::NotYetValid { .. })));
    }
}

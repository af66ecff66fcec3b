//! What the server presents to its clients, and which certificates it demands of them.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tracing::{error, info, warn};

use super::files::{Pair, PemFile, RENEW_BEFORE, TlsError, Validity, date, validity};
use super::{HTTP_1_1, provider};
use crate::metrics::tls as metrics;
use crate::settings::TlsSettings;

const CERTIFICATE: &str = "TLS_CERT";
const CLIENT_CA: &str = "TLS_CLIENT_CA";

/// The certificates in force. Connections keep those that they began with.
#[derive(Clone, Debug)]
pub struct ServerCertificates {
    files: Arc<Files>,
    now: Arc<ArcSwap<Configs>>,
}

#[derive(Debug)]
struct Files {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

#[derive(Debug)]
struct Configs {
    /// For clients on other machines.
    others: Arc<ServerConfig>,
    /// For clients on this machine, which may ask for the server's health without a certificate.
    this_machine: Arc<ServerConfig>,
    /// When the server's certificate is valid.
    server: Validity,
    /// When the authorities of clients are valid.
    client_ca: Option<Validity>,
}

impl ServerCertificates {
    /// Reads the files of the settings; `None` if the server speaks plain HTTP.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn load(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let Some(files) = Files::of(settings) else {
            return Ok(None);
        };
        let configs = files.read()?;
        Ok(Some(Self {
            files: Arc::new(files),
            now: Arc::new(ArcSwap::from_pointee(configs)),
        }))
    }

    /// Warns of what expires soon, and sets the metrics.
    pub fn report(&self) {
        metrics::record_reload(metrics::Certificates::Server, true);
        self.now.load().report();
    }

    /// Reads the files again. If anything is wrong with them, the current certificates stay.
    pub fn reload(&self) {
        let read = self.files.read().and_then(Configs::valid_now);
        metrics::record_reload(metrics::Certificates::Server, read.is_ok());
        match read {
            Ok(configs) => {
                let until = date(configs.server.ends);
                configs.report();
                self.now.store(Arc::new(configs));
                // Logged after the exchange, so that a reader of the log can rely on it.
                info!(until, "the certificate was reloaded");
            }
            Err(reason) => error!(
                %reason,
                "the certificate could not be reloaded; the current one stays in use"
            ),
        }
    }

    /// The configuration for a new connection. `is_this_machine`: the client runs on this machine.
    pub fn config(&self, is_this_machine: bool) -> Arc<ServerConfig> {
        let now = self.now.load();
        Arc::clone(if is_this_machine {
            &now.this_machine
        } else {
            &now.others
        })
    }

    /// Whether clients need a certificate.
    pub fn demands_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }
}

impl Configs {
    /// Itself, if the certificate can be used now.
    fn valid_now(self) -> Result<Self, TlsError> {
        self.server.check_now(CERTIFICATE)?;
        Ok(self)
    }

    fn report(&self) {
        metrics::record_expiry(metrics::Certificates::Server, self.server);
        if let Some(validity) = self.client_ca {
            metrics::record_expiry(metrics::Certificates::ClientCa, validity);
        }
        let soon = SystemTime::now() + RENEW_BEFORE;
        let own = Some((CERTIFICATE, self.server));
        let of_clients = self.client_ca.map(|validity| (CLIENT_CA, validity));
        for (variable, validity) in [own, of_clients].into_iter().flatten() {
            if validity.ends <= soon {
                let until = date(validity.ends);
                warn!(variable, until, "a certificate has expired or expires soon");
            }
        }
    }
}

impl Files {
    fn of(settings: &TlsSettings) -> Option<Self> {
        Some(Self {
            certificate: PemFile::new(CERTIFICATE, settings.certificate.as_deref()?),
            key: PemFile::new("TLS_KEY", settings.key.as_deref()?),
            client_ca: (settings.client_ca.as_deref()).map(|path| PemFile::new(CLIENT_CA, path)),
        })
    }

    fn read(&self) -> Result<Configs, TlsError> {
        let pair = Pair::read(&self.certificate, &self.key)?;
        let of_clients = self.client_ca.as_ref();
        let client_ca = of_clients.map(|file| validity(&file.certificates()?, file));
        Ok(Configs {
            others: Arc::new(self.config(&pair, true)?),
            this_machine: Arc::new(self.config(&pair, false)?),
            server: validity(&pair.chain, &self.certificate)?,
            client_ca: client_ca.transpose()?,
        })
    }

    /// `is_required`: whether clients need a certificate at once, if they need one at all.
    fn config(&self, pair: &Pair, is_required: bool) -> Result<ServerConfig, TlsError> {
        let failed = |error: &dyn std::fmt::Display| TlsError::File {
            variable: self.certificate.variable,
            path: self.certificate.path.clone(),
            problem: format!("cannot be used: {error}"),
        };
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| failed(&error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(file.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = if is_required {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                let verifier = verifier.build().map_err(|error| failed(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(pair.chain.clone(), pair.key.clone_key());
        let mut config = config.map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(config)
    }
}

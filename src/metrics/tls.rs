//! Series of certificates and of refused connections.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::tls::files::Validity;

const EXPIRY: &str = "uttera_stt_tls_certificate_expiry_seconds";
const RELOAD_FAILED: &str = "uttera_stt_tls_reload_failed";
const REFUSED: &str = "uttera_stt_refused_connections_total";

/// Certificates that the settings name; values of the label `certificate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// That of the server (`TLS_CERT`), with its chain.
    Server,
    /// The authorities of clients (`TLS_CLIENT_CA`).
    ClientCa,
    /// That of this node as a client of the fallback (`FALLBACK_CERT`).
    Fallback,
    /// The authorities of the fallback (`FALLBACK_CA`).
    FallbackCa,
}

impl Certificates {
    fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::ClientCa => "client_ca",
            Self::Fallback => "fallback",
            Self::FallbackCa => "fallback_ca",
        }
    }
}

/// A protocol that connections are accepted for; values of the label `protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, with or without TLS.
    Http,
    /// Wyoming.
    Wyoming,
    /// HAProxy's agent check.
    AgentCheck,
}

impl Protocol {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Wyoming => "wyoming",
            Self::AgentCheck => "agent_check",
        }
    }
}

/// Why a connection was refused; values of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client's address is not in `ALLOWED_NETWORKS`.
    Address,
    /// The client presented no certificate, or one of another authority.
    ClientCertificate,
    /// The client did not complete the handshake in time.
    HandshakeTimeout,
    /// The handshake failed.
    Handshake,
}

impl Refusal {
    const OF_TLS: [Self; 3] = [
        Self::ClientCertificate,
        Self::HandshakeTimeout,
        Self::Handshake,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::ClientCertificate => "client_certificate",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake => "handshake",
        }
    }
}

/// Records when certificates expire.
pub fn record_expiry(certificates: Certificates, validity: Validity) {
    gauge!(EXPIRY, "certificate" => certificates.as_str()).set(validity.ends_unix());
}

/// Records whether the files could be read when they were read last.
pub fn record_reload(certificates: Certificates, succeeded: bool) {
    gauge!(RELOAD_FAILED, "certificate" => certificates.as_str())
        .set(f64::from(u8::from(!succeeded)));
}

/// Records a connection that was refused.
pub fn record_refused(protocol: Protocol, refusal: Refusal) {
    refused(protocol, refusal).increment(1);
}

fn refused(protocol: Protocol, refusal: Refusal) -> metrics::Counter {
    counter!(REFUSED, "protocol" => protocol.as_str(), "reason" => refusal.as_str())
}

pub(super) fn describe() {
    describe_gauge!(
        EXPIRY,
        "Unix time at which a configured certificate, or the first of its chain, expires, in seconds."
    );
    describe_gauge!(
        RELOAD_FAILED,
        "1 if the certificates could not be read when they were reloaded last: the earlier ones are in use."
    );
    describe_counter!(
        REFUSED,
        "Connections that were refused before a request: by the client's address, or in the TLS handshake."
    );
}

/// Creates the series that do not depend on the settings.
pub(super) fn register() {
    for protocol in [Protocol::Http, Protocol::Wyoming, Protocol::AgentCheck] {
        let _ = refused(protocol, Refusal::Address);
    }
    for refusal in Refusal::OF_TLS {
        let _ = refused(Protocol::Http, refusal);
    }
}

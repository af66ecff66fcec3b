//! Certificates and keys in files: of the server, and for the fallback node and Redis.

use std::time::SystemTime;

use super::finding::Finding;
use crate::settings::Settings;
use crate::tls::fallback::FallbackFiles;
use crate::tls::files::{Pair, PemFile, RENEW_BEFORE, TlsError, Validity, date, validity};
use crate::tls::redis::RedisFiles;
use crate::tls::server::ServerCertificates;

const CHECK: &str = "tls";
const STOPS: &str = "the server does not start, and a running one keeps its earlier certificates";

/// Findings about all files that the settings name.
pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let tls = &settings.tls;
    let own = tls.certificate.as_deref().zip(tls.key.as_deref());
    let own = own.map(|(certificate, key)| {
        (
            PemFile::new("TLS_CERT", certificate),
            PemFile::new("TLS_KEY", key),
        )
    });
    let client_ca = tls.client_ca.as_deref();
    let client_ca = client_ca.map(|path| PemFile::new("TLS_CLIENT_CA", path));
    let fallback = FallbackFiles::of(&settings.fallback_tls);
    let redis = RedisFiles::of(&settings.redis_tls);
    let mut findings = Vec::new();
    for (certificate, key) in own.iter().chain(&fallback.pair).chain(&redis.pair) {
        findings.push(of_pair(certificate, key, SystemTime::now()));
        findings.extend(of_readers(key));
    }
    for file in client_ca.iter().chain(&fallback.ca).chain(&redis.ca) {
        findings.push(of_authorities(file, SystemTime::now()));
    }
    // What only shows when all files are used together.
    let is_fine = findings
        .iter()
        .all(|finding| finding.severity < super::Severity::Error);
    if let Err(error) = ServerCertificates::load(tls)
        && is_fine
    {
        findings.push(failed(&error));
    }
    findings
}

fn of_pair(certificate: &PemFile, key: &PemFile, now: SystemTime) -> Finding {
    let checked = Pair::read(certificate, key).and_then(|pair| validity(&pair.chain, certificate));
    match checked {
        Ok(validity) => of_validity(certificate, validity, now),
        Err(error) => failed(&error),
    }
}

fn of_authorities(file: &PemFile, now: SystemTime) -> Finding {
    let checked = (file.authorities()).and_then(|_| validity(&file.certificates()?, file));
    match checked {
        Ok(validity) => of_validity(file, validity, now),
        Err(error) => failed(&error),
    }
}

fn of_validity(file: &PemFile, validity: Validity, now: SystemTime) -> Finding {
    let named = format!("{}={}", file.variable, file.path.display());
    let (from, until) = (date(validity.begins), date(validity.ends));
    let renew = "renew it, then systemctl reload uttera-stt, or kill -HUP the server";
    let refused = "the other side refuses the connection";
    if validity.ends <= now {
        let what = format!("{named}: the certificate expired on {until}");
        Finding::error(CHECK, what, refused).mended_by(renew)
    } else if validity.begins > now {
        let what = format!("{named}: the certificate is not valid before {from}");
        Finding::error(CHECK, what, refused).mended_by("set the clock of this machine: timedatectl")
    } else if validity.ends <= now + RENEW_BEFORE {
        let what = format!("{named}: the certificate expires on {until}");
        Finding::warning(CHECK, what, "from then on, every connection is refused").mended_by(renew)
    } else {
        Finding::ok(CHECK, format!("{named}: valid until {until}"))
    }
}

/// Whether others can read a private key.
fn of_readers(key: &PemFile) -> Option<Finding> {
    let path = key.path.display();
    key.is_world_readable().then(|| {
        let what = format!(
            "every user of this machine can read {path} ({})",
            key.variable
        );
        let why = "each of them can pretend to be this server";
        Finding::warning(CHECK, what, why).mended_by(format!("chmod o-rwx {path}"))
    })
}

fn failed(error: &TlsError) -> Finding {
    let finding = Finding::error(CHECK, error.to_string(), STOPS);
    match error {
        TlsError::File { path, .. } => finding.mended_by(format!(
            "name a PEM file that the server's user can read: ls -l {0}; for the service of the system, chgrp \
             uttera-stt {0} and chmod 640 {0}",
            path.display()
        )),
        TlsError::Mismatch { certificate, key } => {
            finding.mended_by(format!("set {certificate} and {key} to files of one pair"))
        }
        TlsError::Expired { .. } => finding.mended_by("renew it"),
        TlsError::NotYetValid { .. } => {
            finding.mended_by("set the clock of this machine: timedatectl")
        }
    }
}

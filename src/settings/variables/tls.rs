//! TLS by the server itself.

use std::path::PathBuf;

use super::{Variable, row};

pub const ROWS: &[Variable] = &[
    row(
        "TLS_CERT",
        "",
        "File with the server's certificate and its chain (PEM): the server speaks HTTPS; empty: plain HTTP.",
        |s, v| {
            s.tls.certificate = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "TLS_KEY",
        "",
        "File with the private key of TLS_CERT (PEM: PKCS#8, RSA or EC).",
        |s, v| {
            s.tls.key = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "TLS_CLIENT_CA",
        "",
        "File with certificate authorities (PEM): clients need a certificate of one of them.",
        |s, v| {
            s.tls.client_ca = Some(PathBuf::from(v));
            Ok(())
        },
    ),
];

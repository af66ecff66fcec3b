//! Other servers: LibreTranslate, and Redis for registration.

use std::path::PathBuf;

use super::{Variable, row, secret};
use crate::settings::read::{
    libretranslate_url, node_host, node_id, number, positive_seconds, redis_url,
};

pub const ROWS: &[Variable] = &[
    // The URL may contain a password.
    secret(row(
        "LIBRETRANSLATE_URL",
        "",
        "Base address of a LibreTranslate server for translations.",
        libretranslate_url,
    )),
    secret(row(
        "LIBRETRANSLATE_API_KEY",
        "",
        "API key of the LibreTranslate server.",
        |s, v| {
            s.libretranslate_api_key = Some(v.into());
            Ok(())
        },
    )),
    row(
        "LIBRETRANSLATE_TIMEOUT_S",
        "30",
        "Time limit, in seconds, for the translation of one transcript.",
        |s, v| {
            s.libretranslate_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    // The URL may contain a password.
    secret(row(
        "REDIS_URL",
        "",
        "Redis server in which the node registers itself.",
        redis_url,
    )),
    row(
        "REDIS_CA",
        "",
        "File with the only certificate authorities (PEM) whose certificates are accepted of Redis; empty: those of the system.",
        |s, v| {
            s.redis_tls.ca = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "REDIS_CERT",
        "",
        "File with the certificate and its chain (PEM) that this node presents to Redis.",
        |s, v| {
            s.redis_tls.certificate = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "REDIS_KEY",
        "",
        "File with the private key of REDIS_CERT (PEM).",
        |s, v| {
            s.redis_tls.key = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "NODE_ID",
        "",
        "Name of the node in Redis; empty: host:port.",
        node_id,
    ),
    row(
        "NODE_HOST",
        "",
        "Host that the node registers; empty: the address from which it reaches Redis.",
        node_host,
    ),
    row(
        "NODE_PORT",
        "",
        "Port that the node registers; empty: PORT.",
        |s, v| {
            let port = number(v, 1, u16::MAX, "a port from 1 to 65535")?;
            s.node_port = Some(port);
            Ok(())
        },
    ),
];

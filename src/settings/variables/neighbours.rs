//! Other servers: who translates, and where the node makes itself known.

use super::{Variable, row, secret};
use crate::settings::read::{libretranslate_url, number, positive_seconds, redis_url};

pub const ROWS: &[Variable] = &[
    // May carry a password.
    secret(row(
        "LIBRETRANSLATE_URL",
        "",
        "Translation through this LibreTranslate server.",
        libretranslate_url,
    )),
    secret(row("LIBRETRANSLATE_API_KEY", "", "Its key.", |s, v| {
        s.libretranslate_api_key = Some(v.into());
        Ok(())
    })),
    row(
        "LIBRETRANSLATE_TIMEOUT_S",
        "30",
        "Seconds that it may take for one transcript.",
        |s, v| {
            s.libretranslate_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    // May carry a password.
    secret(row(
        "REDIS_URL",
        "",
        "Where the node registers itself.",
        redis_url,
    )),
    row(
        "NODE_ID",
        "",
        "The node's name; empty: host:port.",
        |s, v| {
            s.node_id = Some(v.to_owned());
            Ok(())
        },
    ),
    row("NODE_HOST", "localhost", "The advertised host.", |s, v| {
        v.clone_into(&mut s.node_host);
        Ok(())
    }),
    row(
        "NODE_PORT",
        "",
        "The advertised port; empty: PORT.",
        |s, v| {
            let port = number(v, 1, u16::MAX, "a port from 1 to 65535")?;
            s.node_port = Some(port);
            Ok(())
        },
    ),
];

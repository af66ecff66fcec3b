//! Address and ports of the server, and its pages.

use super::{Variable, row};
use crate::settings::read::{flag, number};

pub const ROWS: &[Variable] = &[
    row("HOST", "127.0.0.1", "Address to listen on.", |s, v| {
        let parsed = if v == "localhost" { "127.0.0.1" } else { v }.parse();
        s.host = parsed.map_err(|_| "expected an IP address".to_owned())?;
        Ok(())
    }),
    row("PORT", "9005", "Port to listen on.", |s, v| {
        s.port = number(v, 0, u16::MAX, "a port from 0 to 65535")?;
        Ok(())
    }),
    row(
        "AGENT_CHECK_PORT",
        "",
        "Port for the agent check of HAProxy, on the address HOST; empty: none.",
        |s, v| {
            let port = number(v, 0, u16::MAX, "a port from 0 to 65535")?;
            s.agent_check_port = Some(port);
            Ok(())
        },
    ),
    row(
        "BOARD",
        "1",
        "0: neither the page at / nor the board at /board nor /v1/status.",
        |s, v| {
            s.board = flag(v)?;
            Ok(())
        },
    ),
];

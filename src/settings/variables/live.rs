//! Live sessions, and the Wyoming protocol.

use super::{Variable, row};
use crate::language;
use crate::settings::read::{flag, number, positive_seconds, wyoming_name, wyoming_uri};

pub const ROWS: &[Variable] = &[
    row(
        "MAX_LIVE_SESSIONS",
        "64",
        "Maximum number of live sessions at the same time.",
        |s, v| {
            s.max_live_sessions = number(v, 0, 10_000, "a whole number from 0 to 10000")?;
            Ok(())
        },
    ),
    row(
        "LIVE_IDLE_TIMEOUT",
        "120",
        "Seconds without audio or a request after which a live session is ended.",
        |s, v| {
            s.live_idle_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "REALTIME_SESSION_SECONDS",
        "3600",
        "Seconds after which a realtime session is ended.",
        |s, v| {
            s.realtime_session = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "WYOMING_PORT",
        "",
        "Port for the Wyoming protocol, on the address HOST; usual is 10300; empty: none.",
        |s, v| {
            let port = number(v, 0, u16::MAX, "a port from 0 to 65535")?;
            s.wyoming.port = Some(port);
            Ok(())
        },
    ),
    row(
        "WYOMING_URI",
        "",
        "Comma-separated further addresses for the Wyoming protocol: tcp://host:port, unix:///path.",
        wyoming_uri,
    ),
    row(
        "WYOMING_LANGUAGES",
        "",
        "Comma-separated languages that Wyoming clients may choose; empty: all that the model knows.",
        |s, v| {
            s.wyoming.languages.clear();
            for text in v.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                let language = language::parse(text)
                    .ok_or("expected comma-separated language codes such as en,de")?;
                let code = language.code().to_owned();
                if !s.wyoming.languages.contains(&code) {
                    s.wyoming.languages.push(code);
                }
            }
            Ok(())
        },
    ),
    row(
        "WYOMING_NAME",
        "",
        "Name under which the server announces its Wyoming port in the local network (mDNS); empty: no announcement.",
        wyoming_name,
    ),
    row(
        "WYOMING_PARTIALS",
        "false",
        "true: Wyoming clients get text while the utterance is spoken.",
        |s, v| {
            s.wyoming.partials = flag(v)?;
            Ok(())
        },
    ),
];

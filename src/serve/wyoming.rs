//! The Wyoming server beside HTTP: it shares the tree and the limits per client.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::warn;

use crate::http::AppState;
use crate::settings::Settings;
use crate::wyoming::{Callers, Failure, Sockets, Wyoming};

/// Callers by their addresses, under the limits that HTTP applies to callers without a key.
struct Addresses(AppState);

impl Callers for Addresses {
    fn admit(&self, address: Option<IpAddr>) -> Result<(), Failure> {
        self.0.admit_address(address).map_err(|error| Failure {
            code: error.code(),
            text: error.to_string(),
        })
    }

    fn charge(&self, address: Option<IpAddr>, seconds: f64) {
        self.0.charge_address(address, seconds);
    }
}

/// Starts the Wyoming server, if there are sockets for it.
pub(super) fn start(
    sockets: Option<Sockets>,
    settings: &Settings,
    state: AppState,
) -> std::io::Result<Option<Wyoming>> {
    let start = |sockets: Sockets| {
        let is_open = state.allow_list.is_open();
        for address in sockets.open_to_others().filter(|_| is_open) {
            warn!(
                %address,
                "anyone who reaches this address can use Wyoming, which has no keys: set ALLOWED_NETWORKS, or protect it with a firewall"
            );
        }
        let (stt, allow_list) = (state.stt.clone(), state.allow_list.for_another_port());
        Wyoming::start(
            sockets,
            settings,
            stt,
            Arc::new(Addresses(state)),
            allow_list,
        )
    };
    sockets.map(start).transpose()
}

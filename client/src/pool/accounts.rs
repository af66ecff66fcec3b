//! State of a pool's servers, and the choice of the next one. Plain decisions: the caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// Later than any time at which a server becomes available.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// When and for how long the pool ejects a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Number of consecutive failures after which the pool ejects a server. Default: 3. A server that
    /// refuses connections is ejected at once.
    pub after: u32,
    /// Duration of the first ejection. Default: 1 s. It doubles with each further one, until a request
    /// succeeds.
    pub base: Duration,
    /// Maximum duration. Default: 60 s.
    pub cap: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            after: 3,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
        }
    }
}

/// How an ejected server returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// After the ejection, the pool asks the server whether it is ready (`/readyz`, or `/v1/health` if that
    /// path does not exist). No request is at risk.
    #[default]
    Probe,
    /// After the ejection, the pool sends one request to the server, and further ones only if it succeeds.
    Trial,
}

/// State of a server in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// The server gets requests.
    Active,
    /// The server named a retry time and gets no requests until then.
    Resting,
    /// The server failed and gets no requests.
    Ejected,
    /// The server's record says that it takes no requests.
    Declining,
}

/// What a server's record says about it. A server without a record is listed, idle, and takes requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Listing {
    /// Whether there is a record.
    pub is_listed: bool,
    /// Whether the server takes requests.
    pub accepts: bool,
    /// Its load, from 0 to 1.
    pub load: f64,
}

impl Default for Listing {
    fn default() -> Self {
        Self {
            is_listed: true,
            accepts: true,
            load: 0.0,
        }
    }
}

impl Listing {
    fn is_usable(self) -> bool {
        self.is_listed && self.accepts
    }
}

/// The load, in thousandths, that the pool assumes for each request that runs on a server by its own doing, because the
/// record is up to a second old.
const LOAD_OF_A_REQUEST: u64 = 50;

#[derive(Debug, Default)]
pub(super) struct Account {
    pub listing: Listing,
    pub in_flight: u32,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    resting_until: Option<Instant>,
    on_trial: bool,
    last_picked: u64,
}

impl Account {
    /// How busy the server is, in thousandths of a full load.
    fn business(&self) -> u64 {
        let load = (self.listing.load.clamp(0.0, 1.0) * 1000.0) as u64;
        load + u64::from(self.in_flight) * LOAD_OF_A_REQUEST
    }
}

/// The state of all servers.
#[derive(Debug)]
pub(super) struct Accounts {
    pub all: Vec<Account>,
    ejection: Ejection,
    recovery: Recovery,
    picks: u64,
    /// Whether two random servers are compared, not all: programs that read the same records would all pick the same
    /// best one.
    pub draws: bool,
}

impl Accounts {
    pub fn new(servers: usize, ejection: Ejection, recovery: Recovery) -> Self {
        Self {
            all: (0..servers).map(|_| Account::default()).collect(),
            ejection,
            recovery,
            picks: 0,
            draws: false,
        }
    }

    /// Picks the least busy available server (or the less busy of two random ones, see [`Self::draws`]), if possible one
    /// that was not tried; if none is available, the one that becomes available first. A server that takes no requests,
    /// or has lost its record, is the last resort. The second value says whether the request is a trial.
    pub fn pick(&mut self, tried: &[usize], now: Instant) -> (usize, bool) {
        let class = |index: &usize| {
            let account = &self.all[*index];
            let free_at = self.free_at(account, now);
            let is_free = free_at <= now;
            (
                !account.listing.is_usable(),
                !account.listing.is_listed,
                !is_free,
                tried.contains(index),
                if is_free { now } else { free_at },
            )
        };
        let best = (0..self.all.len()).map(|index| class(&index)).min();
        let mut candidates: Vec<usize> = (0..self.all.len())
            .filter(|index| Some(class(index)) == best)
            .collect();
        if self.draws {
            fastrand::shuffle(&mut candidates);
            candidates.truncate(2);
        }
        let busy = |index: &usize| (self.all[*index].business(), self.all[*index].last_picked);
        let index = candidates.into_iter().min_by_key(busy).unwrap_or_default();
        self.picks += 1;
        let account = &mut self.all[index];
        account.last_picked = self.picks;
        account.in_flight += 1;
        let is_trial = account.ejected_until.is_some() && !account.on_trial;
        account.on_trial |= is_trial;
        (index, is_trial)
    }

    /// Whether a server that was not tried is available now. If no server is available, an ejected one counts
    /// as available, but not one that named a retry time.
    pub fn has_another(&self, tried: &[usize], now: Instant) -> bool {
        let free =
            |account: &Account| account.listing.is_usable() && self.free_at(account, now) <= now;
        let none_free = !self.all.iter().any(free);
        let mut all = self.all.iter().enumerate();
        all.any(|(index, account)| {
            let last_resort = none_free
                && account.listing.is_usable()
                && account.resting_until.is_none_or(|until| until <= now);
            !tried.contains(&index) && (free(account) || last_resort)
        })
    }

    /// When a server becomes available. During a trial it is not available.
    fn free_at(&self, account: &Account, now: Instant) -> Instant {
        let ejected = account.ejected_until.map(|until| match self.recovery {
            Recovery::Probe => until.max(now + Duration::from_nanos(1)),
            Recovery::Trial if account.on_trial => now + FAR,
            Recovery::Trial => until,
        });
        ejected.max(account.resting_until).unwrap_or(now)
    }

    /// Records that a request has ended, in whichever way.
    pub fn leave(&mut self, index: usize, was_trial: bool) {
        let account = &mut self.all[index];
        account.in_flight = account.in_flight.saturating_sub(1);
        account.on_trial &= !was_trial;
    }

    /// Records the result of an attempt. Returns the end of the ejection, if one begins.
    pub fn over(
        &mut self,
        index: usize,
        was_trial: bool,
        error: Option<&Error>,
        now: Instant,
    ) -> Option<Instant> {
        let after = self.ejection.after.max(1);
        let account = &mut self.all[index];
        let weight = match verdict(error) {
            Verdict::Well => {
                *account = Account {
                    listing: account.listing,
                    in_flight: account.in_flight,
                    last_picked: account.last_picked,
                    ..Account::default()
                };
                return None;
            }
            Verdict::Busy(wait) => {
                account.resting_until = now.checked_add(wait);
                return None;
            }
            Verdict::Nothing => return None,
            Verdict::Failed => 1,
            Verdict::Gone => after,
        };
        account.failures = account.failures.saturating_add(weight);
        let is_out = account.ejected_until.is_some() && !was_trial;
        if is_out || (account.failures < after && !was_trial) {
            return None;
        }
        self.eject(index, now)
    }

    /// Ejects a server, for longer each time. Returns the end of the ejection.
    pub fn eject(&mut self, index: usize, now: Instant) -> Option<Instant> {
        let Ejection { base, cap, .. } = self.ejection;
        let account = &mut self.all[index];
        let doublings = account.ejections.min(31);
        account.ejections += 1;
        account.failures = 0;
        let time = base.saturating_mul(1 << doublings).min(cap);
        account.ejected_until = Some(now.checked_add(time).unwrap_or(now));
        account.ejected_until
    }

    /// Ends an ejection after a successful probe. The number of ejections is kept until a request succeeds.
    pub fn readmit(&mut self, index: usize) {
        let account = &mut self.all[index];
        account.ejected_until = None;
        account.failures = 0;
    }

    /// Whether a server is still in the same ejection.
    pub fn is_ejected_until(&self, index: usize, until: Instant) -> bool {
        self.all[index].ejected_until == Some(until)
    }

    pub fn standing(&self, index: usize, now: Instant) -> Standing {
        let account = &self.all[index];
        if account.ejected_until.is_some() {
            Standing::Ejected
        } else if account.resting_until.is_some_and(|until| until > now) {
            Standing::Resting
        } else if !account.listing.is_usable() {
            Standing::Declining
        } else {
            Standing::Active
        }
    }
}

/// What the result of an attempt says about the server.
enum Verdict {
    Well,
    Busy(Duration),
    Failed,
    Gone,
    Nothing,
}

fn verdict(error: Option<&Error>) -> Verdict {
    match error {
        None => Verdict::Well,
        Some(Error::Connect(_)) => Verdict::Gone,
        Some(Error::Status(status)) if status.is_busy() => {
            Verdict::Busy(status.retry_after.unwrap_or_default())
        }
        // An error within a stream whose head was successful.
        Some(Error::Status(status))
            if status.status < 300 && status.kind.as_deref() == Some("server_error") =>
        {
            Verdict::Failed
        }
        // An error in the audio or the request: another server would return the same.
        Some(Error::Status(status)) if !status.is_retryable() => Verdict::Well,
        Some(
            Error::Status(_) | Error::Interrupted(_) | Error::BadReply(_) | Error::Timeout { .. },
        ) => Verdict::Failed,
        Some(Error::Source(_) | Error::Invalid(_)) => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests;

//! What a pool knows about its servers, and whom it asks next. Plain decisions: the time is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// Later than any server that can be asked.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// When a server is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row after which a server is left out (3). One that refuses connections is at
    /// once.
    pub after: u32,
    /// The first time is this long (1 s), and each one after it twice as long, until a request
    /// succeeds.
    pub base: Duration,
    /// No time is longer (60 s).
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

/// How a server that was left out comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// When its time is over, it is asked whether it is ready (`/readyz`, or `/v1/health` where there
    /// is no such thing). No request is risked for it.
    #[default]
    Probe,
    /// When its time is over, one request is sent to it, and others only if that succeeds.
    Trial,
}

/// How a server stands in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It is asked.
    Active,
    /// It said when to come back.
    Resting,
    /// It failed, and is left out.
    Ejected,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub in_flight: u32,
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    resting_until: Option<Instant>,
    on_trial: bool,
    last_picked: u64,
}

/// The accounts of all.
#[derive(Debug)]
pub(super) struct Accounts {
    pub all: Vec<Account>,
    ejection: Ejection,
    recovery: Recovery,
    picks: u64,
}

impl Accounts {
    pub fn new(servers: usize, ejection: Ejection, recovery: Recovery) -> Self {
        Self {
            all: (0..servers).map(|_| Account::default()).collect(),
            ejection,
            recovery,
            picks: 0,
        }
    }

    /// The one to ask: the least busy of those that can be, none of the tried if there is another.
    /// If none can be, the one that is soonest to. The second part says whether this is a trial.
    pub fn pick(&mut self, tried: &[usize], now: Instant) -> (usize, bool) {
        let key = |index: &usize| {
            let account = &self.all[*index];
            let free_at = self.free_at(account, now);
            let is_free = free_at <= now;
            (
                !is_free,
                tried.contains(index),
                if is_free { now } else { free_at },
                account.in_flight,
                account.last_picked,
            )
        };
        let index = (0..self.all.len()).min_by_key(key).unwrap_or_default();
        self.picks += 1;
        let account = &mut self.all[index];
        account.last_picked = self.picks;
        account.in_flight += 1;
        let is_trial = account.ejected_until.is_some() && !account.on_trial;
        account.on_trial |= is_trial;
        (index, is_trial)
    }

    /// Whether one that was not tried can be asked now. If none at all can be, even one that is left
    /// out is worth trying; one that said when to come back is not.
    pub fn has_another(&self, tried: &[usize], now: Instant) -> bool {
        let free = |account: &Account| self.free_at(account, now) <= now;
        let none_free = !self.all.iter().any(free);
        let mut all = self.all.iter().enumerate();
        all.any(|(index, account)| {
            let last_resort = none_free && account.resting_until.is_none_or(|until| until <= now);
            !tried.contains(&index) && (free(account) || last_resort)
        })
    }

    /// From when a server can be asked. One on probation is not while that lasts.
    fn free_at(&self, account: &Account, now: Instant) -> Instant {
        let ejected = account.ejected_until.map(|until| match self.recovery {
            Recovery::Probe => until.max(now + Duration::from_nanos(1)),
            Recovery::Trial if account.on_trial => now + FAR,
            Recovery::Trial => until,
        });
        ejected.max(account.resting_until).unwrap_or(now)
    }

    /// A request is no longer under way, however it ended.
    pub fn leave(&mut self, index: usize, was_trial: bool) {
        let account = &mut self.all[index];
        account.in_flight = account.in_flight.saturating_sub(1);
        account.on_trial &= !was_trial;
    }

    /// What an attempt says about its server. Gives the end of an ejection that begins.
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

    /// Leaves a server out, longer each time. Gives the end of that.
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

    /// A server answered a probe. How often it was left out is remembered until a request succeeds.
    pub fn readmit(&mut self, index: usize) {
        let account = &mut self.all[index];
        account.ejected_until = None;
        account.failures = 0;
    }

    /// Whether a server is left out since the same failure.
    pub fn is_ejected_until(&self, index: usize, until: Instant) -> bool {
        self.all[index].ejected_until == Some(until)
    }

    pub fn standing(&self, index: usize, now: Instant) -> Standing {
        let account = &self.all[index];
        if account.ejected_until.is_some() {
            Standing::Ejected
        } else if account.resting_until.is_some_and(|until| until > now) {
            Standing::Resting
        } else {
            Standing::Active
        }
    }
}

/// What an attempt's end says about the server.
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
        // Told within a stream, whose head was fine.
        Some(Error::Status(status))
            if status.status < 300 && status.kind.as_deref() == Some("server_error") =>
        {
            Verdict::Failed
        }
        // The audio or the request is to blame: another server would say the same.
        Some(Error::Status(status)) if !status.is_retryable() => Verdict::Well,
        Some(
            Error::Status(_) | Error::Interrupted(_) | Error::BadReply(_) | Error::Timeout { .. },
        ) => Verdict::Failed,
        Some(Error::Source(_) | Error::Invalid(_)) => Verdict::Nothing,
    }
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;

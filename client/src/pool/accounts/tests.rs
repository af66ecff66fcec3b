use proptest::prelude::*;

use super::*;
use crate::headers::ServerHeaders;
use crate::status::{Advice, StatusError};

fn gone() -> Error {
    Error::Connect(String::new())
}

fn status(status: u16, retry_after: Option<u64>) -> Error {
    let mut error = StatusError::of(status, ServerHeaders::default(), Advice::default(), b"");
    error.retry_after = retry_after.map(Duration::from_secs);
    Error::Status(Box::new(error))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn accounts(servers: usize, recovery: Recovery) -> (Accounts, Instant) {
    let accounts = Accounts::new(servers, Ejection::default(), recovery);
    (accounts, Instant::now())
}

/// Picks a server and ends the attempt with this result.
fn ask(accounts: &mut Accounts, error: Option<&Error>, now: Instant) -> (usize, Option<Instant>) {
    let (index, is_trial) = accounts.pick(&[], now);
    let until = accounts.over(index, is_trial, error, now);
    accounts.leave(index, is_trial);
    (index, until)
}

#[test]
fn of_two_random_servers_the_less_busy_one_is_picked() {
    let (mut accounts, now) = accounts(3, Recovery::Trial);
    accounts.draws = true;
    for (account, load) in accounts.all.iter_mut().zip([0.1, 0.5, 0.9]) {
        account.listing.load = load;
    }
    let mut picks = [0; 3];
    for _ in 0..300 {
        picks[ask(&mut accounts, None, now).0] += 1;
    }
    let [idle, middle, busy] = picks;
    // In two pairs of three, the first one is drawn, and else the second one wins.
    assert!(idle > 150 && middle > 50 && busy == 0, "{picks:?}");
    let last = accounts.pick(&[0, 1], now).0;
    assert_eq!(last, 2, "the others were tried");
}

#[test]
fn the_least_busy_server_is_picked_and_equal_ones_take_turns() {
    let (mut accounts, now) = accounts(3, Recovery::Trial);
    let first: Vec<_> = (0..6).map(|_| accounts.pick(&[], now).0).collect();
    assert_eq!(first, [0, 1, 2, 0, 1, 2]);
    accounts.leave(1, false);
    assert_eq!(accounts.pick(&[], now).0, 1);
    assert_eq!(accounts.pick(&[0], now).0, 2);
    let idle: Vec<_> = (0..2).map(|_| ask(&mut accounts, None, now).0).collect();
    assert_eq!(idle, [0, 1]);
}

#[test]
fn an_unreachable_server_is_ejected_for_longer_each_time_and_gets_one_trial() {
    let (mut accounts, begin) = accounts(2, Recovery::Trial);
    let (index, until) = ask(&mut accounts, Some(&gone()), begin);
    assert_eq!((index, until), (0, Some(begin + seconds(1))));
    for _ in 0..5 {
        assert_eq!(ask(&mut accounts, None, begin).0, 1);
    }
    let mut now = begin;
    for length in [1, 2, 4, 8, 16, 32, 60, 60] {
        now += seconds(length);
        assert_eq!(accounts.standing(0, now), Standing::Ejected);
        // One trial at a time: other requests go elsewhere.
        let (index, is_trial) = accounts.pick(&[1], now);
        assert_eq!((index, is_trial), (0, true), "after {length} s");
        assert_eq!(accounts.pick(&[], now), (1, false));
        accounts.leave(1, false);
        let next = accounts
            .over(0, true, Some(&gone()), now)
            .expect("is left out");
        accounts.leave(0, true);
        let longer = (2 * length).min(60);
        assert_eq!(next, now + seconds(longer), "after {length} s");
    }
    now += seconds(60);
    let (index, is_trial) = accounts.pick(&[1], now);
    assert_eq!(accounts.over(index, is_trial, None, now), None);
    accounts.leave(index, is_trial);
    assert_eq!(accounts.standing(0, now), Standing::Active);
    // A success resets the state.
    accounts.pick(&[1], now);
    assert_eq!(
        accounts.over(0, false, Some(&gone()), now),
        Some(now + seconds(1))
    );
}

#[test]
fn an_abandoned_trial_allows_another() {
    let (mut accounts, now) = accounts(2, Recovery::Trial);
    ask(&mut accounts, Some(&gone()), now);
    let later = now + seconds(1);
    assert_eq!(accounts.pick(&[1], later), (0, true));
    accounts.leave(0, true);
    assert_eq!(accounts.pick(&[1], later), (0, true));
}

#[test]
fn consecutive_failures_count_and_client_errors_do_not() {
    let (mut accounts, now) = accounts(1, Recovery::Trial);
    let failed = status(500, None);
    for (errors, is_out) in [
        (vec![Some(&failed), Some(&failed)], false),
        (vec![None, Some(&failed), Some(&failed)], false),
        (
            vec![Some(&status(400, None)), Some(&failed), Some(&failed)],
            false,
        ),
        (vec![Some(&failed)], true),
    ] {
        let ends = errors
            .into_iter()
            .map(|error| ask(&mut accounts, error, now).1);
        assert_eq!(ends.flatten().count() > 0, is_out);
    }
}

#[test]
fn a_server_that_named_a_retry_time_rests_until_then() {
    let (mut accounts, now) = accounts(2, Recovery::Probe);
    ask(&mut accounts, Some(&status(429, Some(30))), now);
    assert_eq!(accounts.standing(0, now), Standing::Resting);
    for _ in 0..3 {
        assert_eq!(ask(&mut accounts, None, now + seconds(29)).0, 1);
    }
    // Not even if the other server fails.
    assert!(!accounts.has_another(&[1], now + seconds(29)));
    assert!(accounts.has_another(&[1], now + seconds(30)));
    assert_eq!(accounts.pick(&[], now + seconds(30)).0, 0);
}

#[test]
fn if_all_servers_are_ejected_each_is_tried() {
    let (mut accounts, now) = accounts(2, Recovery::Probe);
    assert_eq!(ask(&mut accounts, Some(&gone()), now).0, 0);
    assert!(accounts.has_another(&[0], now));
    assert_eq!(ask(&mut accounts, Some(&gone()), now + seconds(1)).0, 1);
    assert!(accounts.has_another(&[0], now + seconds(1)));
    assert!(!accounts.has_another(&[0, 1], now + seconds(1)));
    let found_well = ask(&mut accounts, None, now + seconds(1));
    assert_eq!(found_well.0, 0);
    assert_eq!(accounts.standing(0, now), Standing::Active);
}

#[test]
fn with_probes_an_ejected_server_gets_no_request_before_a_successful_probe() {
    let (mut accounts, now) = accounts(2, Recovery::Probe);
    ask(&mut accounts, Some(&gone()), now);
    let late = now + seconds(3600);
    assert_eq!(ask(&mut accounts, None, late).0, 1);
    assert_eq!(ask(&mut accounts, None, late).0, 1);
    accounts.readmit(0);
    assert_eq!(ask(&mut accounts, None, late).0, 0);
}

proptest! {
    /// In every sequence, finished requests are not counted, and available servers are preferred.
    #[test]
    fn accounts_balance(steps in prop::collection::vec((0_u8..5, any::<bool>()), 1..200), trial in any::<bool>()) {
        let recovery = if trial { Recovery::Trial } else { Recovery::Probe };
        let (mut accounts, mut now) = accounts(3, recovery);
        let mut held = Vec::new();
        for (kind, leaves) in steps {
            now += Duration::from_millis(300);
            let active = (0..3).any(|index| accounts.standing(index, now) == Standing::Active);
            let before = accounts.all.iter().map(|a| a.ejected_until).collect::<Vec<_>>();
            let (index, is_trial) = accounts.pick(&[], now);
            if active && before[index].is_some() {
                prop_assert!(trial && is_trial && before[index] <= Some(now));
            }
            held.push((index, is_trial));
            if leaves {
                let (index, is_trial) = held.remove(0);
                let error = match kind {
                    0 | 1 => None,
                    2 => Some(gone()),
                    3 => Some(status(500, None)),
                    _ => Some(status(503, Some(1))),
                };
                accounts.over(index, is_trial, error.as_ref(), now);
                accounts.leave(index, is_trial);
            }
            let counted: u32 = accounts.all.iter().map(|account| account.in_flight).sum();
            prop_assert_eq!(counted as usize, held.len());
        }
    }
}

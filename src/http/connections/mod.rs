//! At most so many connections: each that is opened takes a seat and keeps it until it is closed. Those
//! beyond may ask how the server is, and are told to come back with anything else.

pub mod guard;
mod idle;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::http::reply::error::ApiError;
use crate::http::request_log::PROBES;
use idle::{Attendance, Attended, UnderWay};

/// Connections beyond the seats, for those who ask how the server is. More than these wait to be
/// accepted.
const STANDING: usize = 32;
/// Files of the process that are no connections: sockets of workers, pipes of ffmpeg, the log.
const OTHER_FILES: u64 = 256;
/// A connection, the file by which it is attended to, and the file of its upload.
const FILES_PER_CONNECTION: u64 = 3;

/// All seats.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    taken: AtomicUsize,
    attendance: Attendance,
}

impl Seats {
    /// So many.
    pub fn new(most: u32) -> Self {
        Self(Arc::new(Inner {
            most: most as usize,
            taken: AtomicUsize::new(0),
            attendance: Attendance::default(),
        }))
    }

    /// Connections that each of so many threads may have at most, those without a seat among them.
    pub fn for_each_thread(&self, threads: usize) -> usize {
        (self.0.most + STANDING).div_ceil(threads)
    }

    /// From now on, connections without a request for so long are closed; they are looked at so often.
    pub fn close_idle(&self, limit: Duration, every: Duration) {
        self.0.attendance.close_idle(limit, every);
    }

    /// What goes on on them.
    #[cfg(test)]
    pub fn attendance(&self) -> &Attendance {
        &self.0.attendance
    }

    /// Gives a new connection a seat, if there is one.
    pub fn welcome(&self, socket: &dyn Any, connection: &mut Extensions) {
        connection.insert(Seat {
            attended: self.0.attendance.enter(socket),
            seats: self.clone(),
            taken: AtomicBool::new(self.take()),
        });
    }

    fn take(&self) -> bool {
        let one_more = |taken: usize| (taken < self.0.most).then_some(taken + 1);
        let relaxed = Ordering::Relaxed;
        self.0
            .taken
            .fetch_update(relaxed, relaxed, one_more)
            .is_ok()
    }
}

/// A connection's seat, or its wish for one. It is given back when the connection ends.
#[derive(Debug)]
pub struct Seat {
    attended: Option<Attended>,
    seats: Seats,
    taken: AtomicBool,
}

impl Seat {
    /// A request has come; it is under way until what is given is dropped.
    pub fn request(&self) -> Option<UnderWay> {
        self.attended.as_ref().map(Attended::request)
    }

    /// Whether there is a seat, by now.
    fn is_taken(&self) -> bool {
        // A connection is one thread's.
        let taken = self.taken.load(Ordering::Relaxed) || self.seats.take();
        self.taken.store(taken, Ordering::Relaxed);
        taken
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.taken.load(Ordering::Relaxed) {
            self.seats.0.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Refuses what comes on a connection without a seat, except for questions that are answered from memory,
/// by which a node is told to be alive; and closes it.
pub async fn require_seat<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let seat = request.request().conn_data::<Seat>();
    let is_seated = seat.is_none_or(Seat::is_taken);
    let mut response = if is_seated || PROBES.contains(&request.path()) {
        next.call(request).await?.map_into_left_body()
    } else {
        let refusal = ApiError::too_many_connections().error_response();
        request.into_response(refusal).map_into_right_body()
    };
    if !is_seated {
        // There are few places to stand.
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Lets the process open as many files as so many connections need, as far as it may.
pub fn allow_files_for(connections: u32) {
    let wanted = u64::from(connections) * FILES_PER_CONNECTION + OTHER_FILES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < wanted {
        let most = wanted.min(hard);
        if most < wanted {
            warn!(
                most,
                wanted, "MAX_CONNECTIONS: the process may not open enough files for so many"
            );
        }
        if let Err(reason) = setrlimit(Resource::RLIMIT_NOFILE, most, hard) {
            warn!(%reason, "the limit on open files stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_given_back_and_one_that_waited_gets_it() {
        let seats = Seats::new(1);
        let connect = || {
            let mut connection = Extensions::new();
            seats.welcome(&(), &mut connection);
            connection
        };
        let is_seated =
            |connection: &Extensions| connection.get::<Seat>().is_some_and(Seat::is_taken);
        let (first, second) = (connect(), connect());
        assert!(is_seated(&first) && !is_seated(&second));
        drop(first);
        let third = connect();
        assert!(is_seated(&third) && !is_seated(&second));
        drop((second, third));
        assert_eq!(seats.0.taken.load(Ordering::Relaxed), 0);
    }
}

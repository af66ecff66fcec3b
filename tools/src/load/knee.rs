//! The knee of the latency curve: beyond it, more clients increase latency more than throughput.
//!
//! It is the point of greatest *power*, which is throughput divided by mean time in the system: L. Kleinrock,
//! "Power and deterministic rules of thumb for probabilistic problems in computer communications", Proc. ICC
//! 1979. R. Jain, "The Art of Computer Systems Performance Analysis" (1991), chapter 3, calls it the knee
//! capacity. For a server that works on k requests at once, all at the same speed, the knee is at k clients:
//! fewer leave the server idle, more only wait.

use serde::Serialize;

/// A step of the curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of concurrent clients.
    pub clients: usize,
    /// Answers per second.
    pub throughput: f64,
    /// Mean time to an answer, in seconds.
    pub mean_seconds: f64,
}

impl Point {
    fn power(&self) -> f64 {
        self.throughput / self.mean_seconds
    }
}

/// Position of the knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Knee {
    /// Clients of the step with the greatest power.
    pub clients: usize,
    /// Whether the knee may be outside the measured range.
    pub bound: Bound,
}

/// Whether the measured range contains the knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// There are steps on both sides, or the knee is at one client.
    Within,
    /// The knee is at the first step: the true knee may be lower.
    AtMost,
    /// The knee is at the last step: the true knee may be higher.
    AtLeast,
}

/// Finds the knee of a curve whose points are sorted by number of clients; `None` for fewer than two points.
/// Of two steps with equal power, the one with fewer clients wins.
pub fn knee(curve: &[Point]) -> Option<Knee> {
    let usable = |point: &Point| point.power().is_finite() && point.power() > 0.0;
    let curve: Vec<&Point> = curve.iter().filter(|point| usable(point)).collect();
    let (first, last) = (curve.first()?, curve.last()?);
    if curve.len() < 2 {
        return None;
    }
    let better = |best: &'_ &Point, next: &'_ &Point| next.power() > best.power();
    let best = curve[1..].iter().fold(
        first,
        |best, next| if better(best, next) { next } else { best },
    );
    let bound = match best.clients {
        clients if clients == last.clients => Bound::AtLeast,
        1 => Bound::Within,
        clients if clients == first.clients => Bound::AtMost,
        _ => Bound::Within,
    };
    Some(Knee {
        clients: best.clients,
        bound,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEPS: [usize; 5] = [1, 2, 4, 8, 16];

    /// A server that works on so many requests at once, each for a second, with clients in a closed loop.
    fn lanes(lanes: usize, clients: usize) -> Point {
        Point {
            clients,
            throughput: clients.min(lanes) as f64,
            mean_seconds: (clients as f64 / lanes as f64).max(1.0),
        }
    }

    fn found(curve: &[Point]) -> Option<(usize, Bound)> {
        knee(curve).map(|knee| (knee.clients, knee.bound))
    }

    #[test]
    fn the_knee_is_at_the_number_of_lanes() {
        for (count, bound) in [
            (1, Bound::Within),
            (2, Bound::Within),
            (4, Bound::Within),
            (8, Bound::Within),
            (16, Bound::AtLeast),
        ] {
            let curve = STEPS.map(|clients| lanes(count, clients));
            assert_eq!(found(&curve), Some((count, bound)), "{count}");
        }
        assert_eq!(
            found(&[4, 8, 16].map(|clients| lanes(2, clients))),
            Some((4, Bound::AtMost))
        );
    }

    #[test]
    fn a_small_gain_of_throughput_does_not_outweigh_the_latency() {
        let point = |clients, throughput| Point {
            clients,
            throughput,
            mean_seconds: clients as f64 / throughput,
        };
        // Twice the clients bring 25 % more throughput: one client has more power.
        let curve = [point(1, 4.0), point(2, 5.0), point(4, 5.1)];
        assert_eq!(found(&curve), Some((1, Bound::Within)));
        // 60 % more throughput: two clients have more power.
        let curve = [point(1, 4.0), point(2, 6.4), point(4, 7.0)];
        assert_eq!(found(&curve), Some((2, Bound::Within)));
    }

    #[test]
    fn no_curve_has_no_knee() {
        let broken = Point {
            clients: 2,
            throughput: 0.0,
            mean_seconds: 0.0,
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[lanes(1, 1)]), None);
        assert_eq!(found(&[lanes(1, 1), broken]), None);
    }

    proptest! {
        #[test]
        fn the_knee_is_a_step_of_the_curve_and_none_has_more_power(
            values in prop::collection::vec((0.01_f64..100.0, 0.01_f64..100.0), 2..8)
        ) {
            let curve: Vec<Point> = values.iter().enumerate().map(|(index, value)| Point {
                clients: index + 1,
                throughput: value.0,
                mean_seconds: value.1,
            }).collect();
            let clients = knee(&curve).unwrap().clients;
            let best = curve[clients - 1].power();
            prop_assert!(curve.iter().all(|point| point.power() <= best));
        }
    }
}

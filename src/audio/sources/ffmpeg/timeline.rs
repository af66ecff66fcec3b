//! Places packets on the time line that a player shows: sound that begins late, and gaps in it.
//!
//! Time stamps are not trusted, and they never remove sound. A gap counts only if the next packet
//! confirms it, so that one wrong stamp adds nothing; a clock that goes back is a new clock; and all gaps
//! together have a limit.

use stt_actors::domain::chunk::SAMPLE_RATE;

use super::packets::Packet;

/// Samples per millisecond.
const PER_MILLISECOND: i64 = SAMPLE_RATE as i64 / 1000;
/// A shorter gap (100 ms) is the inaccuracy of a clock.
const SHORTEST_GAP: i64 = 100 * PER_MILLISECOND;
/// The longest gap that is short (10 s).
const LONGEST_SHORT_GAP: i64 = 10_000 * PER_MILLISECOND;
/// The time of the packet after a gap may differ by this (5 ms), or by half of a packet if that is less.
const INACCURACY: i64 = 5 * PER_MILLISECOND;
/// Most samples before the beginning of the file, which encoders and decoders add (500 ms).
const LONGEST_PRIMING: i64 = 500 * PER_MILLISECOND;

/// The clock of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// The time of the beginning, in milliseconds; `None`: the time of the first packet.
    pub(super) start: Option<i64>,
    pub(super) gaps: Gaps,
}

/// Which gaps between the times of packets count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gaps {
    /// None: a bare stream of frames has no time stamps, and ffmpeg only counts.
    Never,
    /// Short ones. The clock of a broadcast jumps where recordings are joined.
    Short,
    Any,
}

/// A part of the time line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Interleaved samples.
    Samples(Vec<i16>),
    /// Time without sound, in samples.
    Gap(u64),
}

/// The time line of one file.
pub(super) struct Timeline {
    channels: usize,
    clock: Clock,
    /// The time of the next packet without a gap, in samples on the clock of the file.
    next: i64,
    /// A packet after a possible gap, and its time.
    held: Option<(i64, Vec<i16>)>,
    /// Samples of gaps that may still be added.
    gaps_left: u64,
    any_sound: bool,
}

impl Timeline {
    /// A time line that starts at 0. `longest_gaps`: the limit of all gaps together, in samples.
    pub(super) fn new(channels: usize, clock: Clock, longest_gaps: u64) -> Self {
        Self {
            channels: channels.max(1),
            clock,
            next: 0,
            held: None,
            gaps_left: longest_gaps,
            any_sound: false,
        }
    }

    /// Adds a packet, and appends to `parts` what is decided.
    pub(super) fn place(&mut self, packet: Packet, parts: &mut Vec<Part>) {
        let start = *self.clock.start.get_or_insert(packet.time);
        let mut time = packet
            .time
            .saturating_sub(start)
            .saturating_mul(PER_MILLISECOND);
        let mut samples = packet.samples;
        if !self.any_sound {
            self.drop_priming(&mut time, &mut samples);
        }
        if samples.is_empty() {
            return;
        }
        if let Some((held_time, held)) = self.held.take() {
            let length = self.length(&held);
            let difference = time.saturating_sub(held_time).saturating_sub(length);
            let is_confirmed = difference.saturating_abs() <= INACCURACY.min(length / 2);
            if is_confirmed {
                self.add_gap(held_time, parts);
            }
            self.append(held, parts);
        }
        if self.clock.gaps == Gaps::Never {
            self.append(samples, parts);
            return;
        }
        let ahead = time.saturating_sub(self.next);
        let jumps = self.clock.gaps == Gaps::Short && self.any_sound && ahead > LONGEST_SHORT_GAP;
        if ahead < -SHORTEST_GAP || jumps {
            self.next = time;
        } else if ahead > SHORTEST_GAP {
            self.held = Some((time, samples));
            self.any_sound = true;
            return;
        }
        self.append(samples, parts);
    }

    /// Appends what is left at the end of the file.
    pub(super) fn finish(&mut self, parts: &mut Vec<Part>) {
        if let Some((_, samples)) = self.held.take() {
            self.append(samples, parts);
        }
    }

    /// Removes samples before the beginning of the file.
    fn drop_priming(&self, time: &mut i64, samples: &mut Vec<i16>) {
        if (-LONGEST_PRIMING..0).contains(time) {
            let early = (-*time).min(self.length(samples));
            samples.drain(..early as usize * self.channels);
            *time += early;
        }
    }

    fn add_gap(&mut self, until: i64, parts: &mut Vec<Part>) {
        let gap = until.saturating_sub(self.next).max(0) as u64;
        if gap <= self.gaps_left {
            self.gaps_left -= gap;
            parts.push(Part::Gap(gap));
        }
        self.next = until;
    }

    fn append(&mut self, samples: Vec<i16>, parts: &mut Vec<Part>) {
        self.any_sound = true;
        self.next = self.next.saturating_add(self.length(&samples));
        parts.push(Part::Samples(samples));
    }

    fn length(&self, samples: &[i16]) -> i64 {
        (samples.len() / self.channels) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds of gaps. The packets have 20 ms in two channels.
    const LIMIT: u64 = 10 * SAMPLE_RATE as u64;

    const CLOCK: Clock = Clock {
        start: Some(0),
        gaps: Gaps::Any,
    };

    fn packet(time: i64) -> Packet {
        Packet {
            time,
            samples: vec![1; 2 * 320],
        }
    }

    /// The milliseconds of sound and of gaps (negative) for packets at these times.
    fn placed_with(clock: Clock, times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut timeline = Timeline::new(2, clock, LIMIT);
        let mut parts = Vec::new();
        for time in times {
            timeline.place(packet(time), &mut parts);
        }
        timeline.finish(&mut parts);
        let mut lengths: Vec<i64> = Vec::new();
        for part in parts {
            let length = match part {
                Part::Samples(samples) => (samples.len() / 2) as i64 / PER_MILLISECOND,
                Part::Gap(gap) => -(gap as i64) / PER_MILLISECOND,
            };
            match lengths.last_mut() {
                Some(last) if *last > 0 && length > 0 => *last += length,
                _ => lengths.push(length),
            }
        }
        lengths
    }

    fn placed(times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        placed_with(CLOCK, times)
    }

    /// The times of `count` packets without a gap.
    fn run(start: i64, count: i64) -> impl Iterator<Item = i64> {
        (0..count).map(move |number| start + 20 * number)
    }

    #[test]
    fn sound_that_begins_late_and_gaps_are_placed() {
        assert_eq!(placed(run(0, 5)), [100]);
        assert_eq!(placed(run(4840, 5)), [-4840, 100]);
        let gaps = run(0, 5).chain(run(1100, 2)).chain(run(4140, 5));
        assert_eq!(placed(gaps), [100, -1000, 40, -3000, 100]);
    }

    #[test]
    fn a_single_wrong_stamp_adds_nothing() {
        for wrong in [5000, 1_000_000_000_000, i64::MAX, -1_000_000, i64::MIN] {
            let times = run(0, 5).chain([wrong]).chain(run(120, 5));
            assert_eq!(placed(times), [220], "{wrong}");
        }
        // ffmpeg's muxer repeats a wrong stamp, because stamps must not go back.
        assert_eq!(placed(run(0, 5).chain([5000; 6])), [220]);
        assert_eq!(placed(run(0, 5).chain([5000])), [120], "at the end");
    }

    #[test]
    fn gaps_have_a_limit_and_time_goes_on_behind_it() {
        let times = run(0, 5)
            .chain(run(1_000_000_000_000, 5))
            .chain(run(1_000_000_002_100, 5));
        assert_eq!(placed(times), [200, -2000, 100]);
        let many = (0..30).flat_map(|number| run(number * 1040, 2));
        let gaps: i64 = placed(many).iter().filter(|length| **length < 0).sum();
        assert_eq!(gaps, -10_000);
        assert_eq!(placed(run(i64::MAX / 100, 5)), [100]);
    }

    #[test]
    fn a_clock_that_starts_again_loses_no_sound_and_adds_none() {
        let times = run(0, 50).chain(run(0, 50)).chain(run(2000, 5));
        assert_eq!(placed(times), [2000, -1000, 100]);
    }

    #[test]
    fn a_clock_that_is_a_little_wrong_changes_nothing() {
        let jitter = (0..200).map(|number| 20 * number + (number * 7) % 30 - 10);
        assert_eq!(placed(jitter), [3990]);
    }

    #[test]
    fn priming_before_the_beginning_is_removed() {
        assert_eq!(placed(run(-25, 5)), [75]);
        assert_eq!(placed(run(-60, 5)), [40]);
        assert_eq!(placed(run(-1000, 50)), [1000], "no priming");
        assert_eq!(placed(run(i64::MIN, 1)), [20]);
        // Later stamps below zero are a clock that starts again.
        assert_eq!(placed(run(0, 5).chain(run(-500, 5))), [200]);
    }

    #[test]
    fn times_count_from_the_beginning_of_the_file() {
        for (start, expected) in [(Some(3000), vec![-1000, 100]), (None, vec![100])] {
            let clock = Clock { start, ..CLOCK };
            assert_eq!(placed_with(clock, run(4000, 5)), expected, "{start:?}");
        }
    }

    #[test]
    fn the_clock_of_a_broadcast_may_jump_but_not_before_the_first_sound() {
        let clock = Clock {
            gaps: Gaps::Short,
            ..CLOCK
        };
        let mut timeline = Timeline::new(2, clock, 10 * LIMIT);
        let mut parts = Vec::new();
        for time in run(12_000, 2).chain(run(50_000, 2)).chain(run(55_000, 2)) {
            timeline.place(packet(time), &mut parts);
        }
        timeline.finish(&mut parts);
        let gaps = parts.iter().filter_map(|part| match part {
            Part::Gap(gap) => Some(*gap as i64 / PER_MILLISECOND),
            Part::Samples(_) => None,
        });
        assert_eq!(gaps.collect::<Vec<_>>(), [12_000, 4960]);
    }

    #[test]
    fn a_stream_without_time_stamps_is_only_counted() {
        let clock = |start| Clock {
            start: Some(start),
            gaps: Gaps::Never,
        };
        assert_eq!(placed_with(clock(0), run(0, 5).chain(run(9000, 5))), [200]);
        assert_eq!(placed_with(clock(25), run(0, 5)), [75]);
    }
}

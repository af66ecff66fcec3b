//! A decoder for server-sent events that arrive in arbitrary parts.

use std::collections::VecDeque;

use crate::error::Error;

/// Generous: the last event of several hours of speech with all logprobs has a few megabytes.
const LONGEST_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// Decodes bytes into the data of events. It skips comments, which only keep proxies from closing the
/// connection, and fields that transcripts do not use.
#[derive(Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    /// Whether the last byte was a carriage return, so that a following line feed belongs to it.
    after_return: bool,
    events: VecDeque<Vec<u8>>,
}

impl Decoder {
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for &byte in bytes {
            let is_second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' if is_second_half => {}
                b'\n' | b'\r' => self.end_line(),
                _ => self.line.push(byte),
            }
        }
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if held > LONGEST_EVENT_BYTES {
            return Err(Error::BadReply("an event is too long".to_owned()));
        }
        Ok(())
    }

    /// The data of the next complete event.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.events.pop_front()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.events.extend(self.data.take());
            return;
        }
        let Some(value) = line.strip_prefix(b"data:") else {
            return;
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(buffers: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for buffer in buffers {
            decoder.feed(buffer).expect("is short");
            while let Some(event) = decoder.next() {
                events.push(String::from_utf8_lossy(&event).into_owned());
            }
        }
        events
    }

    #[test]
    fn data_is_told_and_comments_and_other_fields_are_not() {
        let stream =
            b": ping\n\nevent: x\ndata: one\nid: 7\n\n\ndata:two\ndata: 2\n\ndata: not over";
        assert_eq!(decoded(&[stream]), ["one", "two\n2"]);
    }

    proptest! {
        #[test]
        fn the_same_comes_out_however_the_bytes_are_cut(
            texts in prop::collection::vec("[a-zß\u{1F600} :]{0,12}", 0..8),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let events = texts.iter().map(|text| format!(": ping{end}{end}data: {text}{end}{end}"));
            let stream = events.collect::<Vec<_>>().concat();
            let stream = stream.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            at.extend([0, stream.len()]);
            at.sort_unstable();
            let buffers: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decoded(&buffers), texts);
        }
    }

    #[test]
    fn an_event_without_end_does_not_fill_the_memory() {
        let mut decoder = Decoder::default();
        let buffer = vec![b'x'; 1024 * 1024];
        let fed = (0..100)
            .take_while(|_| decoder.feed(&buffer).is_ok())
            .count();
        assert_eq!(fed, 64);
    }
}

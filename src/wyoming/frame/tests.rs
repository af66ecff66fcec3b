use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use tokio_util::codec::Encoder;

use super::*;
use crate::wyoming::fuzzing::{Read, read};

/// The bytes of an event with its data in the line or in a block, and with a payload.
fn bytes(kind: &str, data: &Value, in_line: bool, payload: &[u8]) -> Vec<u8> {
    let mut line = json!({"type": kind, "payload_length": payload.len()});
    let block = data.to_string();
    if in_line {
        line["data"] = data.clone();
    } else {
        line["data_length"] = block.len().into();
    }
    let mut bytes = line.to_string().into_bytes();
    bytes.push(b'\n');
    if !in_line {
        bytes.extend(block.as_bytes());
    }
    bytes.extend(payload);
    bytes
}

#[test]
fn the_data_of_the_block_is_laid_over_that_of_the_line() {
    let mut received = BytesMut::from(
        &b"{\"type\":\"x\",\"data\":{\"a\":1,\"b\":2},\"data_length\":7}\n{\"b\":3}{\"type\":\"y\",\"data\":null}\n"[..],
    );
    let mut codec = FrameCodec::new();
    let mut next = || codec.decode(&mut received).expect("an event");
    let event = |kind: &str, data: Value| {
        let data = data.as_object().expect("an object").clone();
        Some(Frame::Event(Event::new(kind, data)))
    };
    assert_eq!(next(), event("x", json!({"a": 1, "b": 3})));
    assert_eq!(next(), event("y", json!({})));
    assert_eq!(next(), None);
}

#[test]
fn what_is_written_can_be_read() {
    let events = [
        Event::new("pong", Data::new()),
        Event::new(
            "transcript",
            Data::from_iter([("text".to_owned(), "Grüße\n".into())]),
        ),
    ];
    let (mut codec, mut bytes) = (FrameCodec::new(), BytesMut::new());
    for event in &events {
        codec.encode(event.clone(), &mut bytes).expect("writes");
    }
    for event in events {
        let read = codec.decode(&mut bytes).expect("reads");
        assert_eq!(read, Some(Frame::Event(event)));
    }
}

#[test]
fn http_is_told_from_other_foreign_bytes_however_they_arrive() {
    let reason = |bytes: &[u8], piece| read(bytes, piece).error.expect("an error");
    for piece in [1, 3, 100] {
        assert!(reason(b"GET / HTTP/1.1\r\n\r\n", piece).contains("HTTP"));
        assert!(reason(b"PRI * HTTP/2.0\r\n\r\n", piece).contains("HTTP"));
        assert!(reason(b"Gopher", piece).contains("something else"));
    }
    assert!(reason(b"PO", 1).contains("in the middle"));
}

#[test]
fn a_payload_is_passed_on_as_it_arrives() {
    let mut codec = FrameCodec::new();
    let head = format!("{{\"type\":\"audio-chunk\",\"payload_length\":{MAX_PAYLOAD}}}\n");
    let mut received = BytesMut::from(head.as_bytes());
    assert!(matches!(
        codec.decode(&mut received),
        Ok(Some(Frame::Event(_)))
    ));
    let mut left = MAX_PAYLOAD;
    while left > 0 {
        let piece = left.min(5000);
        received.extend_from_slice(&vec![7; piece]);
        let frame = codec.decode(&mut received).expect("a piece");
        assert_eq!(frame, Some(Frame::Payload(Bytes::from(vec![7; piece]))));
        assert!(received.is_empty());
        left -= piece;
    }
    assert!(matches!(codec.decode_eof(&mut received), Ok(None)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_to_an_end_that_does_not_depend_on_how_they_arrive(
        bytes in vec(any::<u8>(), 0..2000),
        begins_well in any::<bool>(),
        piece in 1..500usize,
    ) {
        let mut bytes = bytes;
        if begins_well {
            bytes.splice(0..0, *b"{\"type\":\"a\",\"data_length\":");
        }
        let (whole, pieces) = (read(&bytes, usize::MAX), read(&bytes, piece));
        prop_assert_eq!(&whole.kinds, &pieces.kinds);
        prop_assert_eq!(whole.error.is_some(), pieces.error.is_some());
    }

    #[test]
    fn events_are_read_in_pieces_of_any_size_and_an_end_within_one_is_an_error(
        events in vec((any::<bool>(), ".{0,40}", vec(any::<u8>(), 0..300)), 1..5),
        piece in 1..200usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut all = Vec::new();
        let mut ends = vec![0];
        for (in_line, text, payload) in &events {
            all.extend(bytes("audio-chunk", &json!({"text": text}), *in_line, payload));
            ends.push(all.len());
        }
        let expected = Read {
            kinds: vec!["audio-chunk".to_owned(); events.len()],
            payload: events.iter().map(|(_, _, payload)| payload.len()).sum(),
            error: None,
        };
        prop_assert_eq!(read(&all, piece), expected);
        let cut = cut.index(all.len());
        let is_between = ends.contains(&cut);
        prop_assert_eq!(read(&all[..cut], piece).error.is_none(), is_between);
    }
}

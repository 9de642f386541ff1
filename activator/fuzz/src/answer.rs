//! What a pod answers: however it comes, it is the same answer, and what a client gets of it is sound.

use activator::fuzzing::{Told, answer};
use http::{StatusCode, header};

/// Takes the first byte for how the rest is cut and whether it answers a HEAD, the rest for what the pod sends.
pub fn run(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    let (piece, to_head) = (usize::from(cut % 64) + 1, cut >= 192);
    let whole = answer(stream, stream.len().max(1), to_head);
    let cut = answer(stream, piece, to_head);
    // Of an answer that breaks off more may have been handed on than was good.
    assert_eq!(whole.whole, cut.whole, "cut into pieces of {piece}");
    if whole.whole {
        assert_eq!(text(&whole), text(&cut), "cut into pieces of {piece}");
        check(&whole, to_head);
    }
}

fn text(told: &Told) -> String {
    format!("{told:?}")
}

fn check(told: &Told, to_head: bool) {
    let head = told.head.as_ref().expect("a whole answer has a head");
    let status = head.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        assert!(told.body.is_empty(), "what follows is another protocol");
        return;
    }
    assert!(!status.is_informational(), "an interim answer");
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        assert!(!head.headers().contains_key(&name), "{name} was handed on");
    }
    let empty = to_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if empty {
        assert!(told.body.is_empty(), "a body where there is none");
    }
    let mut lengths = head.headers().get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        assert_eq!(lengths.next(), None, "two lengths");
        let length: u64 = length
            .to_str()
            .ok()
            .and_then(|l| l.parse().ok())
            .expect("a number");
        assert!(empty || length == told.body.len() as u64, "another length");
    }
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        assert!(!told.trailers.contains_key(&name), "{name} after the body");
    }
}

//! The control stream: any bytes, cut anywhere, are the same frames, and a frame that is written again is the same.

use std::fmt::Debug;

use crds::control::{Decoder, FrameError, MAX_FRAME, ToActivator, ToOperator, encode};
use serde::{Serialize, de::DeserializeOwned};

/// Takes the first byte for how the rest is cut, the rest for a stream.
pub fn run(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else {
        return;
    };
    if cut >= 250 {
        // Spaces may stand before a frame: this one is about as long as one may be.
        let spaces = MAX_FRAME - 8 - usize::from(cut - 250) * 64;
        let mut long = vec![b' '; spaces];
        long.extend_from_slice(stream);
        check::<ToActivator>(&long, 16 << 10);
    } else {
        let piece = usize::from(cut % 64) + 1;
        check::<ToActivator>(stream, piece);
        check::<ToOperator>(stream, piece);
    }
}

fn check<T: Serialize + DeserializeOwned + Debug>(stream: &[u8], piece: usize) {
    let (whole, error) = read::<T>(stream, stream.len().max(1));
    let (cut, cut_error) = read::<T>(stream, piece);
    // Written and read, because a number with a fraction does not come back to its last bit.
    assert_eq!(text(&whole), text(&cut), "cut into pieces of {piece}");
    assert_eq!(error, cut_error, "cut into pieces of {piece}");
    for frame in whole {
        let shown = format!("{frame:?}");
        if shown == "Unknown" {
            continue;
        }
        let line = encode(&frame);
        let newlines = line.iter().filter(|b| **b == b'\n').count();
        assert_eq!(newlines, 1, "{shown} is not one line");
        let (again, error) = read::<T>(&line, piece);
        assert_eq!(error, None, "{shown} cannot be read again");
        assert_eq!(again.len(), 1, "{shown} is not one frame");
        assert_eq!(steady(&frame), steady(&again[0]), "read again");
    }
}

fn text<T: Debug>(frames: &[T]) -> Vec<String> {
    frames.iter().map(|frame| format!("{frame:?}")).collect()
}

/// A frame with its fractions rounded: they are averages, and are read to all but their last bit.
fn steady<T: Serialize>(frame: &T) -> serde_json::Value {
    let mut value = serde_json::to_value(frame).expect("frames serialize");
    let functions = value.get_mut("functions").and_then(|f| f.as_array_mut());
    for function in functions.into_iter().flatten() {
        for name in ["rps", "concurrency"] {
            if let Some(number) = function[name].as_f64() {
                function[name] = format!("{number:.9e}").into();
            }
        }
    }
    value
}

/// The frames of a stream that comes in such pieces, and what ends it.
fn read<T: DeserializeOwned>(stream: &[u8], piece: usize) -> (Vec<T>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    let mut ends = stream.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let (mut pushed, mut taken) = (0, 0);
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        pushed += bytes.len();
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
            let (end, _) = ends.next().expect("a frame ends with a newline");
            taken = end + 1;
            assert!(taken <= pushed, "a frame of bytes that have not come");
        }
        assert!(pushed - taken <= MAX_FRAME, "an endless frame is kept");
    }
    (frames, None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Whatever a fuzzer has found stays mended.
    #[test]
    fn the_corpus_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/frames");
        let mut inputs = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            super::run(&std::fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 5, "only {inputs} inputs");
    }
}

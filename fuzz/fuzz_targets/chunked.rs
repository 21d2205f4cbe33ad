//! The chunked coding: however the bytes arrive, they mean the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::http::chunked::{ChunkError, Decoder};

/// Body, bytes used, and whether the body is complete.
type Decoded = (Vec<u8>, usize, bool);

fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Decoded, ChunkError> {
    let mut decoder = Decoder::default();
    let (mut body, mut used) = (Vec::new(), 0);
    for mut rest in parts {
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.step(rest)?;
            assert!(step.consumed > 0 && step.data.end <= step.consumed, "{step:?}");
            body.extend_from_slice(&rest[step.data]);
            rest = &rest[step.consumed..];
            used += step.consumed;
        }
    }
    Ok((body, used, decoder.is_done()))
}

// The size of the pieces, then the stream.
fuzz_target!(|data: &[u8]| {
    let Some((size, stream)) = data.split_first() else { return };
    let whole = decode([stream]);
    assert_eq!(decode(stream.chunks(usize::from(*size).max(1))), whole);
    let Ok((body, used, done)) = whole else { return };
    assert!(used <= stream.len() && body.len() <= used && (done || used == stream.len()));
    let encoded = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    if !body.is_empty() {
        assert_eq!(decode([&encoded[..]]), Ok((body, encoded.len(), true)));
    }
});

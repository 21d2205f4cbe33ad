//! The chunked transfer coding, as a state machine over bytes that knows no connection.

use std::ops::Range;

/// Bytes of extensions in one chunk's size line, and of all trailers, that are put up with.
const BOUND: usize = 4096;

/// What makes a chunked body invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChunkError {
    /// A chunk size that is missing, no hexadecimal number, or of more than 16 digits.
    #[error("invalid chunk size")]
    Size,
    /// A line end that is not CR LF, or missing after the data of a chunk.
    #[error("invalid line end in chunked body")]
    LineEnd,
    /// A control character where an extension or trailer is.
    #[error("invalid byte in chunk extension or trailer")]
    Byte,
    /// Extensions or trailers of more than 4 KiB.
    #[error("chunk extension or trailers too long")]
    TooLong,
}

/// What one step found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes of the input that were used, `data` included.
    pub consumed: usize,
    /// Where in the input body data lies; empty if this step found none.
    pub data: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Size { size: u64, digits: u8 },
    Blank { size: u64, length: usize },
    Extension { size: u64, length: usize },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer { line: usize, length: usize },
    TrailerLf { line: usize, length: usize },
    Done,
}

/// Takes the chunked coding off a body. Extensions and trailers are dropped.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { size: 0, digits: 0 } }
    }
}

impl Decoder {
    /// Whether the last byte of the body, trailers included, was seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes until the first run of data ends, the input does or the body does. Call again with what is left of
    /// the input until all is consumed or the decoder is done. After an error the body is lost.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Data { left } = self.state {
                let run = (input.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - run as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                return Ok(Step { consumed: at + run, data: at..at + run });
            }
            if self.state == State::Done {
                break;
            }
            self.state = self.state.framing(byte)?;
            at += 1;
        }
        Ok(Step { consumed: at, data: at..at })
    }
}

impl State {
    /// The state after a byte that is not data.
    fn framing(self, byte: u8) -> Result<Self, ChunkError> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == 16 {
                    return Err(ChunkError::Size);
                }
                Self::Size { size: size << 4 | u64::from(hex(byte)), digits: digits + 1 }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(ChunkError::Size),
            (Self::Size { size, .. } | Self::Blank { size, .. } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeLf { size }
            }
            // RFC 9112 lets blanks stand before an extension, nowhere else.
            (Self::Size { size, .. }, b' ' | b'\t') => Self::Blank { size, length: 1 },
            (Self::Blank { size, length }, b' ' | b'\t') => {
                Self::Blank { size, length: bounded(length, byte)? }
            }
            (Self::Size { size, .. }, b';') => Self::Extension { size, length: 1 },
            (Self::Blank { size, length }, b';') => Self::Extension { size, length },
            (Self::Size { .. } | Self::Blank { .. }, _) => return Err(ChunkError::Size),
            (Self::Extension { size, length }, _) => Self::Extension { size, length: bounded(length, byte)? },
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailer { line: 0, length: 0 },
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { line, length }, b'\r') => Self::TrailerLf { line, length },
            (Self::Trailer { line, length }, _) => {
                Self::Trailer { line: line + 1, length: bounded(length, byte)? }
            }
            (Self::TrailerLf { line: 0, .. }, b'\n') => Self::Done,
            (Self::TrailerLf { length, .. }, b'\n') => Self::Trailer { line: 0, length },
            _ => return Err(ChunkError::LineEnd),
        })
    }
}

fn bounded(length: usize, byte: u8) -> Result<usize, ChunkError> {
    match byte {
        b'\n' => Err(ChunkError::LineEnd),
        b'\t' | b' '..=0x7e | 0x80.. if length < BOUND => Ok(length + 1),
        b'\t' | b' '..=0x7e | 0x80.. => Err(ChunkError::TooLong),
        _ => Err(ChunkError::Byte),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, how many bytes it took, and whether it was complete.
    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let mut decoder = Decoder::default();
        let (mut body, mut used) = (Vec::new(), 0);
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() && !decoder.is_done() {
                let step = decoder.step(rest)?;
                body.extend_from_slice(&rest[step.data]);
                rest = &rest[step.consumed..];
                used += step.consumed;
            }
        }
        Ok((body, used, decoder.is_done()))
    }

    #[test]
    fn http_chunked_decodes_extensions_and_trailers() {
        let stream = b"5;a=b\r\nhello\r\n0006 \r\n world\r\n00\r\nX: y\r\nZ: w\r\n\r\nGET";
        assert_eq!(decode(&[stream]), Ok((b"hello world".to_vec(), stream.len() - 3, true)));
        assert_eq!(decode(&[b"5\r\nhel"]), Ok((b"hel".to_vec(), 6, false)));
    }

    #[test]
    fn http_chunked_refuses() {
        for (stream, error) in [
            (&b"\r\n"[..], ChunkError::Size),
            (b"x\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b" 1\r\n", ChunkError::Size),
            (b"1 1\r\n", ChunkError::Size),
            (b"0x1\r\n", ChunkError::Size),
            (b"00000000000000001\r\n", ChunkError::Size),
            (b"1\nA", ChunkError::Size),
            (b"1\r\nAB", ChunkError::LineEnd),
            (b"1\r\nA\rB", ChunkError::LineEnd),
            (b"1\rX", ChunkError::LineEnd),
            (b"1;\nA", ChunkError::LineEnd),
            (b"1;\0", ChunkError::Byte),
            (b"0\r\nX\n", ChunkError::LineEnd),
            (b"0\r\n\rX", ChunkError::LineEnd),
        ] {
            assert_eq!(decode(&[stream]), Err(error), "{stream:?}");
        }
        let endless = [b"1;".to_vec(), vec![b'x'; BOUND]].concat();
        assert_eq!(decode(&[&endless]), Err(ChunkError::TooLong));
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(BOUND)].concat();
        assert_eq!(decode(&[&trailers]), Err(ChunkError::TooLong));
        assert!(decode(&[b"ffffffffffffffff\r\nA"]).is_ok());
    }

    proptest! {
        #[test]
        fn http_chunked_any_split_of_a_valid_stream_gives_the_same_bytes(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..8),
            cuts in proptest::collection::vec(0_usize..900, 0..20),
        ) {
            let mut stream = Vec::new();
            for chunk in &chunks {
                stream.extend_from_slice(format!("{:X};e\r\n", chunk.len()).as_bytes());
                stream.extend_from_slice(chunk);
                stream.extend_from_slice(b"\r\n");
            }
            stream.extend_from_slice(b"0\r\nT: r\r\n\r\n");
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.push(0);
            cuts.push(stream.len());
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&parts), Ok((chunks.concat(), stream.len(), true)));
        }

        #[test]
        fn http_chunked_never_panics(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), any::<u8>()], 0..200),
        ) {
            if let Ok((body, used, _)) = decode(&[&bytes]) {
                prop_assert!(body.len() <= used && used <= bytes.len());
            }
        }
    }
}

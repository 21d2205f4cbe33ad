//! The compression function of MD5 (RFC 1321) over one state, or over several side by side.

#![expect(
    clippy::inline_always,
    reason = "a step is a few instructions; as a call it is slower than hashing alone"
)]

use std::num::Wrapping;
use std::ops::{Add, BitAnd, BitOr, BitXor, Not, Shl, Shr};

use wide::u32x4;

/// States that are advanced together at most.
pub(super) const LANES: usize = 8;

/// The chaining value.
pub(super) type State = [u32; 4];

/// Bytes that the function takes at a time.
pub(super) const BLOCK: usize = 64;

/// The chaining value of nothing.
pub(super) const START: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// A state and the blocks that are next for it.
pub(super) struct Lane<'a> {
    pub(super) state: &'a mut State,
    /// As many bytes as in every other lane, a multiple of [`BLOCK`]; the rest is not read.
    pub(super) bytes: &'a [u8],
}

/// Takes the blocks of up to [`LANES`] lanes.
pub(super) fn advance(lanes: &mut [Lane<'_>]) {
    match lanes {
        [] => {}
        [lane] => alone(lane.state, lane.bytes),
        [_, _] | [_, _, _] | [_, _, _, _] => together::<1>(lanes),
        _ => together::<2>(lanes),
    }
}

/// Takes the blocks of one body.
pub(super) fn alone(state: &mut State, bytes: &[u8]) {
    let mut words = [[Wrapping(0)]; 16];
    let mut chain = state.map(|word| [Wrapping(word)]);
    for block in bytes.as_chunks::<BLOCK>().0 {
        for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
            word[0] = Wrapping(u32::from_le_bytes(*bytes));
        }
        compress(&mut chain, &words);
    }
    *state = chain.map(|word| word[0].0);
}

/// Takes the blocks of up to four times `W` lanes; a lane too few is filled with the first one's bytes.
fn together<const W: usize>(lanes: &mut [Lane<'_>]) {
    let Some(first) = lanes.first() else { return };
    let first = first.bytes.as_chunks::<BLOCK>().0;
    let mut blocks = [[first; 4]; W];
    let mut chain = [[[0; 4]; W]; 4];
    for (number, lane) in lanes.iter().enumerate() {
        let (vector, place) = (number / 4, number % 4);
        blocks[vector][place] = lane.bytes.as_chunks::<BLOCK>().0;
        for (word, value) in chain.iter_mut().zip(*lane.state) {
            word[vector][place] = value;
        }
    }
    let mut chain = chain.map(|word| word.map(u32x4::new));
    let count = blocks.iter().flatten().map(|lane| lane.len()).min().unwrap_or_default();
    let mut words = [[u32x4::ZERO; W]; 16];
    for at in 0..count {
        for (vector, [a, b, c, d]) in blocks.iter().enumerate() {
            for (place, word) in words.iter_mut().enumerate() {
                let of = |block: &[u8; BLOCK]| u32::from_le_bytes(block.as_chunks().0[place]);
                word[vector] = u32x4::new([of(&a[at]), of(&b[at]), of(&c[at]), of(&d[at])]);
            }
        }
        compress(&mut chain, &words);
    }
    let chain = chain.map(|word| word.map(u32x4::to_array));
    for (number, lane) in lanes.iter_mut().enumerate() {
        *lane.state = chain.map(|word| word[number / 4][number % 4]);
    }
}

/// A 32-bit number, or several of them.
trait Word:
    Copy
    + Add<Output = Self>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
{
    fn of(value: u32) -> Self;
    fn rotate<const BITS: u32>(self) -> Self;
}

impl Word for Wrapping<u32> {
    #[inline(always)]
    fn of(value: u32) -> Self {
        Wrapping(value)
    }

    #[inline(always)]
    fn rotate<const BITS: u32>(self) -> Self {
        Wrapping(self.0.rotate_left(BITS))
    }
}

impl Word for u32x4 {
    #[inline(always)]
    fn of(value: u32) -> Self {
        Self::splat(value)
    }

    #[inline(always)]
    fn rotate<const BITS: u32>(self) -> Self {
        self.shl(BITS) | self.shr(32 - BITS)
    }
}

/// One block: `W` words at a time, which do not wait for one another.
#[inline(always)]
fn compress<V: Word, const W: usize>(chain: &mut [[V; W]; 4], words: &[[V; W]; 16]) {
    let mut state = *chain;
    round::<_, W, 7, 12, 17, 22>(&mut state, words, 0, |i| i, |b, c, d| d ^ (b & (c ^ d)));
    round::<_, W, 5, 9, 14, 20>(&mut state, words, 16, |i| 5 * i + 1, |b, c, d| (c & !d) + (b & d));
    round::<_, W, 4, 11, 16, 23>(&mut state, words, 32, |i| 3 * i + 5, |b, c, d| b ^ c ^ d);
    round::<_, W, 6, 10, 15, 21>(&mut state, words, 48, |i| 7 * i, |b, c, d| c ^ (b | !d));
    for (word, new) in chain.iter_mut().zip(state) {
        for (word, new) in word.iter_mut().zip(new) {
            *word = *word + new;
        }
    }
}

/// Sixteen steps: `order` says which word is next, `mix` mixes, the four numbers are the rotations.
#[inline(always)]
fn round<V: Word, const W: usize, const A: u32, const B: u32, const C: u32, const D: u32>(
    state: &mut [[V; W]; 4],
    words: &[[V; W]; 16],
    first: usize,
    order: impl Fn(usize) -> usize,
    mix: impl Fn(V, V, V) -> V + Copy,
) {
    let [mut a, mut b, mut c, mut d] = *state;
    for i in (0..16).step_by(4) {
        let word = |i| (&words[order(i) % 16], V::of(SINES[(first + i) % 64]));
        a = step::<V, W, A>([a, b, c, d], word(i), mix);
        d = step::<V, W, B>([d, a, b, c], word(i + 1), mix);
        c = step::<V, W, C>([c, d, a, b], word(i + 2), mix);
        b = step::<V, W, D>([b, c, d, a], word(i + 3), mix);
    }
    *state = [a, b, c, d];
}

#[inline(always)]
fn step<V: Word, const W: usize, const BITS: u32>(
    [a, b, c, d]: [[V; W]; 4],
    (word, sine): (&[V; W], V),
    mix: impl Fn(V, V, V) -> V,
) -> [V; W] {
    let mut next = a;
    for w in 0..W {
        // What `b` goes into comes last: it is what the step before has just made.
        let sum = (a[w] + (sine + word[w])) + mix(b[w], c[w], d[w]);
        next[w] = b[w] + sum.rotate::<BITS>();
    }
    next
}

/// The integer parts of 2^32 |sin i|, for i from 1 to 64 in radians.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

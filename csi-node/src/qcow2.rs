//! The header of a qcow2 file, as far as it has to be known before the file is opened as such.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::error::Error;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Of version 3, without what may follow.
const LEN: usize = 104;
const EXTERNAL_DATA: u64 = 1 << 2;
/// The header extension that names a data file.
const DATA_FILE: u32 = 0x4441_5441;
/// Extensions end with the first cluster; no image has so many.
const EXTENSIONS: usize = 64;

pub(crate) fn has_magic(file: &File) -> io::Result<bool> {
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| magic == MAGIC),
    }
}

pub(crate) fn refers_elsewhere() -> Error {
    Error::Precondition(
        "the source is a qcow2 image with a backing file or an external data file, which could be any file \
         of the host; one that stands alone would do, as qemu-img convert makes it"
            .into(),
    )
}

fn not_taken(what: &str) -> Error {
    Error::Precondition(format!("the source {what}; qemu-img convert makes one that is taken"))
}

/// That it is an image that stands alone and is not encrypted.
pub(crate) fn check(file: &File) -> Result<(), Error> {
    let tried = || Error::io("cannot read the source's header");
    if !has_magic(file).map_err(tried())? {
        return Err(Error::Precondition("the source is no qcow2 image: it does not begin as one".into()));
    }
    let header = Header::read(file).map_err(tried())?;
    let version = header.u32(4);
    if !(2..=3).contains(&version) {
        return Err(not_taken(&format!("is a qcow2 image of version {version}, not 2 or 3")));
    }
    if header.u64(8) != 0 || header.u32(16) != 0 {
        return Err(refers_elsewhere());
    }
    if header.u32(32) != 0 {
        return Err(not_taken("is an encrypted qcow2 image"));
    }
    let (incompatible, len) = if version == 3 { (header.u64(72), header.u32(100)) } else { (0, 72) };
    if incompatible & EXTERNAL_DATA != 0 || names_data_file(file, len.into()).map_err(tried())? {
        return Err(refers_elsewhere());
    }
    if incompatible != 0 {
        return Err(not_taken(
            "is a qcow2 image that was not closed, is corrupt, or has zstd compression or subclusters",
        ));
    }
    Ok(())
}

fn names_data_file(file: &File, start: u64) -> io::Result<bool> {
    let mut at = start;
    for _ in 0..EXTENSIONS {
        let mut head = [0; 8];
        match file.read_exact_at(&mut head, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let number = |from: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| head[from + byte]));
        match number(0) {
            0 => return Ok(false),
            DATA_FILE => return Ok(true),
            _ => at += 8 + u64::from(number(4)).next_multiple_of(8),
        }
    }
    Ok(false)
}

struct Header([u8; LEN]);

impl Header {
    /// What is missing at the end is zeros.
    fn read(file: &File) -> io::Result<Header> {
        let mut bytes = [0; LEN];
        let mut done = 0;
        while done < LEN {
            match file.read_at(&mut bytes[done..], done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Header(bytes))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([0, 1, 2, 3].map(|byte| self.0[at + byte]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

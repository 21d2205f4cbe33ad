//! Writing a raw disk from a raw or qcow2 file. Everything here blocks, for as long as copying takes.
//!
//! The source is a tenant's file. A qcow2 image may name another file of the host as its backing or data file:
//! such an image is refused, first by its header, and then by `imago`, which is allowed to open nothing, so that
//! a header that changes meanwhile gains nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, Mapping};
use lustre::sys::{self, Kind};
use rustix::fs::SeekFrom;
use rustix::io::{Errno, retry_on_intr};

use crate::error::Error;
use crate::qcow2;

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// So many zeros in a row, aligned, are not written.
const HOLE: usize = 64 << 10;

/// How a source is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

/// Writes the disk in `source` to the beginning of `destination`, an empty file, which becomes `size` bytes long
/// and is durable. Returns how many bytes the disk in `source` has.
///
/// What is zeros or a hole in the source becomes a hole. `progress` is told how many bytes of the disk are done.
pub fn convert(
    source: File,
    format: Format,
    destination: &File,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, Error> {
    check_files(&source, destination)?;
    let disk = Disk::open(source, format)?;
    let virtual_size = disk.size()?;
    if virtual_size > size {
        return Err(Error::Range(format!(
            "the source is a disk of {virtual_size} bytes, which is more than the {size} of the volume"
        )));
    }
    let written = Error::io("cannot write the disk");
    destination.set_len(size).map_err(written)?;
    copy(&disk, virtual_size, destination, progress)?;
    destination.sync_all().map_err(Error::io("cannot make the disk durable"))?;
    Ok(virtual_size)
}

fn check_files(source: &File, destination: &File) -> Result<(), Error> {
    let source = sys::stat(source.as_fd()).map_err(Error::io("cannot look at the source"))?;
    if source.kind != Kind::File {
        return Err(Error::Precondition(format!("the source is no regular file: {:?}", source.kind)));
    }
    let destination = sys::stat(destination.as_fd()).map_err(Error::io("cannot look at the disk"))?;
    if destination.kind != Kind::File || destination.size != 0 {
        return Err(Error::Precondition("a source is only written to an empty file".into()));
    }
    Ok(())
}

fn copy(disk: &Disk, size: u64, destination: &File, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        let piece = disk.next(at, size).map_err(unreadable)?;
        if piece.data {
            let bytes = &mut buffer[..piece.len as usize];
            disk.read(bytes, at).map_err(unreadable)?;
            write(destination, bytes, at).map_err(Error::io("cannot write the disk"))?;
        }
        at += piece.len;
        progress(at);
    }
    Ok(())
}

fn unreadable(error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, PermissionDenied, UnexpectedEof, Unsupported};
    // `imago` says in words what is in the file, and keeps only the kind of what the file system answered.
    match error.kind() {
        InvalidData | InvalidInput | Other | PermissionDenied | UnexpectedEof | Unsupported => {
            Error::Precondition(format!("the source cannot be read as a disk: {error}"))
        }
        _ => Error::Io("cannot read the source".into(), error),
    }
}

/// Writes what is not zeros. The destination was empty.
fn write(destination: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut offset = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let to_boundary = HOLE - (offset % HOLE as u64) as usize;
        let (piece, after) = rest.split_at(to_boundary.min(rest.len()));
        if piece.iter().any(|&byte| byte != 0) {
            destination.write_all_at(piece, offset)?;
        }
        offset += piece.len() as u64;
        rest = after;
    }
    Ok(())
}

/// A part of a disk that is data or zeros throughout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    len: u64,
    data: bool,
}

/// An opened source.
enum Disk {
    Raw(File),
    Qcow2(FormatAccess<ImageFile>),
}

impl Disk {
    fn open(source: File, format: Format) -> Result<Disk, Error> {
        match format {
            Format::Raw => Ok(Disk::Raw(source)),
            Format::Qcow2 => open_qcow2(source).map(Disk::Qcow2),
        }
    }

    fn size(&self) -> Result<u64, Error> {
        match self {
            Disk::Raw(file) => {
                let is = sys::stat(file.as_fd()).map_err(Error::io("cannot look at the source"))?;
                Ok(is.size)
            }
            Disk::Qcow2(image) => Ok(image.size()),
        }
    }

    /// What is at `at`, before `end`. At most [`PIECE`] bytes if it is data.
    fn next(&self, at: u64, end: u64) -> io::Result<Piece> {
        let piece = match self {
            Disk::Raw(file) => next_raw(file, at, end)?,
            Disk::Qcow2(image) => {
                let (mapping, len) = image.get_mapping(at, end - at)?;
                Piece { len, data: !matches!(mapping, Mapping::Zero { .. }) }
            }
        };
        if piece.len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before its own size"));
        }
        let most = if piece.data { PIECE } else { u64::MAX };
        Ok(Piece { len: piece.len.min(end - at).min(most), ..piece })
    }

    fn read(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Disk::Raw(file) => file.read_exact_at(into, offset),
            Disk::Qcow2(image) => image.read(into, offset),
        }
    }
}

fn next_raw(file: &File, at: u64, end: u64) -> io::Result<Piece> {
    let seek = |to| retry_on_intr(|| rustix::fs::seek(file, to));
    let data = match seek(SeekFrom::Data(at)) {
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => end,
        found => found?,
    };
    if data > at {
        return Ok(Piece { len: data - at, data: false });
    }
    Ok(Piece { len: seek(SeekFrom::Hole(at))?.saturating_sub(at), data: true })
}

fn open_qcow2(source: File) -> Result<FormatAccess<ImageFile>, Error> {
    qcow2::check(&source)?;
    let opened = ImageFile::try_from(source)
        .and_then(|file| Qcow2::<ImageFile>::builder(file).open(DenyImplicitOpenGate::default()));
    let image = opened.map_err(unreadable)?;
    if image.requires_external_data_file() || image.implicit_backing_file().is_some() {
        return Err(qcow2::refers_elsewhere());
    }
    Ok(FormatAccess::new(image))
}

#[cfg(test)]
#[path = "tests/convert.rs"]
mod tests;

//! A disk with a write cache that a power cut loses.
//!
//! A process of its own serves a file system (FUSE) of two files: `disk`, which a loop device makes a block
//! device of, and `position`, which tells how many records its log has. Every write and every flush is a
//! record. A process of its own, because one that waits in the kernel for its own thread could not be killed.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::mounts::Mount;
use crate::workload::Random;

const SERVED: &str = "LB_DEVICE";
const DISK: INodeNo = INodeNo(2);
const POSITION: INodeNo = INodeNo(3);
/// What a disk writes wholly or not at all.
const PAGE: usize = 4096;

/// What the log says happened.
#[derive(Debug)]
pub enum Record {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Everything before it is safe.
    Flush,
}

/// The file system that the process of the device serves.
struct Served {
    image: File,
    size: u64,
    log: Mutex<(File, u64)>,
}

impl Served {
    /// Adds a record and does what it says.
    fn record(&self, kind: u8, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let len = bytes.len() as u64;
        let head = [&[kind][..], &offset.to_le_bytes(), &len.to_le_bytes()].concat();
        log.0.write_all(&head)?;
        log.0.write_all(bytes)?;
        self.image.write_all_at(bytes, offset)?;
        log.1 += 1;
        Ok(())
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o700),
            _ => (FileType::RegularFile, 0o600),
        };
        FileAttr {
            ino,
            size: if ino == DISK { self.size } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        }
    }
}

const FOREVER: Duration = Duration::from_hours(1);

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("disk") => reply.entry(&FOREVER, &self.attr(DISK), Generation(0)),
            Some("position") => reply.entry(&FOREVER, &self.attr(POSITION), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attr(ino));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = if ino == POSITION { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino == POSITION {
            let position = self.log.lock().unwrap_or_else(PoisonError::into_inner).1;
            return reply.data(&position.to_le_bytes());
        }
        let mut bytes = vec![0; size as usize];
        match self.image.read_at(&mut bytes, offset) {
            Ok(read) => reply.data(&bytes[..read]),
            Err(e) => reply.error(e.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.record(0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.record(1, 0, &[]) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A close is no flush of the disk's cache.
        reply.ok();
    }
}

/// What the process of the device does, until it is unmounted or its parent has gone.
pub fn serve() {
    let Ok(order) = std::env::var(SERVED) else { return };
    let [mount, image, log] = order.split('|').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let image = File::options().read(true).write(true).open(image).unwrap();
    let size = image.metadata().unwrap().len();
    let served = Served { image, size, log: Mutex::new((File::create(log).unwrap(), 0)) };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    fuser::mount(served, mount, &fuser::Config::default()).unwrap();
}

/// The device, as its user has it.
#[derive(Debug)]
pub struct Device {
    mount: Option<Mount>,
    process: Child,
    log: PathBuf,
    position: File,
}

impl Device {
    /// Serves `image` beneath `work`. The test program must have a test `device` that calls [`serve`].
    pub fn start(work: &Path, image: &Path) -> Self {
        let (mount, log) = (work.join("device"), work.join("log"));
        std::fs::create_dir_all(&mount).unwrap();
        let order = [&mount, image, &log].map(|p| p.to_str().unwrap()).join("|");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "device", "--nocapture"])
            .env(SERVED, order)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let position = loop {
            if let Ok(position) = File::open(mount.join("position")) {
                break position;
            }
            if let Ok(Some(status)) = process.try_wait() {
                panic!("the device could not be mounted: {status}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Self { mount: Some(Mount::over(&mount)), process, log, position }
    }

    pub fn disk(&self) -> PathBuf {
        self.mount.as_ref().unwrap().path().join("disk")
    }

    /// How many records there are.
    pub fn position(&self) -> usize {
        let mut bytes = [0; 8];
        self.position.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes) as usize
    }

    /// Ends it, when nobody uses the disk any more.
    pub fn stop(mut self) -> Vec<Record> {
        // The position is a file of the mount.
        self.position = File::open("/dev/null").unwrap();
        self.mount.take().unwrap().unmount();
        assert!(self.process.wait().unwrap().success());
        read_log(&std::fs::read(&self.log).unwrap())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.mount = None;
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn read_log(mut log: &[u8]) -> Vec<Record> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let mut records = Vec::new();
    while let Some((head, rest)) = log.split_at_checked(17) {
        let (offset, len) = (number(&head[1..9]), number(&head[9..]));
        let (bytes, rest) = rest.split_at(len as usize);
        let write = Record::Write { offset, bytes: bytes.to_vec() };
        records.push(if head[0] == 0 { write } else { Record::Flush });
        log = rest;
    }
    records
}

/// What is on a disk, by page.
#[derive(Clone, Debug)]
pub struct Image {
    pages: BTreeMap<u64, Box<[u8]>>,
    size: u64,
}

impl Image {
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut image = Self { pages: BTreeMap::new(), size: file.metadata().unwrap().len() };
        let mut bytes = vec![0; 256 * PAGE];
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut bytes, offset).unwrap();
            if read == 0 {
                return image;
            }
            for (at, page) in bytes[..read].chunks(PAGE).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    image.write(offset + (at * PAGE) as u64, page);
                }
            }
            offset += read as u64;
        }
    }

    /// Writes within one page.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let page = self.pages.entry(offset / PAGE as u64).or_insert_with(|| vec![0; PAGE].into());
        let start = (offset % PAGE as u64) as usize;
        page[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (at, page) in &self.pages {
            file.write_all_at(page, at * PAGE as u64).unwrap();
        }
    }
}

/// The parts of a write that reach the disk or not.
fn parts(record: &Record) -> Vec<(u64, &[u8])> {
    let Record::Write { offset, bytes } = record else { return Vec::new() };
    let (mut offset, mut rest) = (*offset, &bytes[..]);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let room = PAGE - (offset % PAGE as u64) as usize;
        let (part, later) = rest.split_at(room.min(rest.len()));
        parts.push((offset, part));
        offset += part.len() as u64;
        rest = later;
    }
    parts
}

/// Cuts the power again and again, at ever later moments of one log.
#[derive(Debug)]
pub struct Cuts<'a> {
    log: &'a [Record],
    /// What is safe, and up to where in the log.
    safe: Image,
    flushed: usize,
}

impl<'a> Cuts<'a> {
    pub fn new(base: Image, log: &'a [Record]) -> Self {
        Self { log, safe: base, flushed: 0 }
    }

    /// The disk if the power went after `cut` records: all that was flushed, and of the rest what chance took.
    pub fn at(&mut self, cut: usize, random: &mut Random) -> Image {
        let flush = self.log[..cut].iter().rposition(|record| matches!(record, Record::Flush));
        let flushed = flush.map_or(0, |at| at + 1);
        for record in &self.log[self.flushed..flushed] {
            for (offset, part) in parts(record) {
                self.safe.write(offset, part);
            }
        }
        self.flushed = flushed;
        let mut image = self.safe.clone();
        let mut cached: Vec<_> = self.log[flushed..cut].iter().flat_map(parts).collect();
        random.shuffle(&mut cached);
        // None, all, or something between.
        let kept = match random.below(4) {
            0 => 0,
            1 => cached.len(),
            _ => random.below(cached.len() + 1),
        };
        for (offset, part) in &cached[..kept] {
            image.write(*offset, part);
        }
        image
    }
}

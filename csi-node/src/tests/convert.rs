//! Real images. `tests/fixtures/*.qcow2` are what `qemu-img` 7.2 made, with clusters of 512 bytes, of [`disk`]
//! (or of nothing, where they refer to another file).

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::tempfile;
use tonic::Code;

use super::*;

const SIZE: u64 = 100 << 10;

/// The disk that is in the fixtures.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    (0..1000).for_each(|i| bytes[i] = (i * 7 % 251) as u8);
    (0..700).for_each(|i| bytes[70_000 + i] = (i * 11 % 253) as u8);
    bytes
}

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read(path).unwrap()
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// What becomes of `source` on a disk of `size` bytes.
fn converted(source: &[u8], format: Format, size: u64) -> Result<(u64, Vec<u8>), Error> {
    let destination = tempfile().unwrap();
    let done = convert(file(source), format, &destination, size, &mut |_| ())?;
    Ok((done, content(&destination)))
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn every_kind_of_image_gives_its_disk() {
    let mut padded = disk();
    padded.resize(2 * SIZE as usize, 0);
    for name in ["plain.qcow2", "version2.qcow2", "compressed.qcow2"] {
        let image = fixture(name);
        assert_eq!(converted(&image, Format::Qcow2, SIZE).unwrap(), (SIZE, disk()), "{name}");
        assert_eq!(converted(&image, Format::Qcow2, 2 * SIZE).unwrap(), (SIZE, padded.clone()), "{name}");
    }
    assert_eq!(converted(&disk(), Format::Raw, SIZE).unwrap(), (SIZE, disk()));
    // Not even whole sectors.
    assert_eq!(converted(b"raw", Format::Raw, 512).unwrap().1[..5], *b"raw\0\0");
}

#[test]
fn what_refers_to_other_files_is_refused() {
    for name in ["backing.qcow2", "data-file.qcow2"] {
        let error = converted(&fixture(name), Format::Qcow2, SIZE).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.to_string().contains("backing file or an external data file"), "{name}: {error}");
    }
    // The name of a data file alone, without the bit that says there is one.
    let mut named = fixture("data-file.qcow2");
    named[79] &= !4;
    let error = converted(&named, Format::Qcow2, SIZE).unwrap_err();
    assert!(error.to_string().contains("external data file"), "{error}");
}

/// As when the header is exchanged after it was looked at.
#[test]
fn nothing_is_opened_for_an_image_whatever_its_header_says() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(&secret, "secret").unwrap();
    let path = secret.path().to_str().unwrap();
    let mut image = fixture("backing.qcow2");
    let at = u64::from_be_bytes(image[8..16].try_into().unwrap()) as usize;
    image[at..at + path.len()].copy_from_slice(path.as_bytes());
    image[16..20].copy_from_slice(&(path.len() as u32).to_be_bytes());
    for image in [image, fixture("data-file.qcow2")] {
        let storage = ImageFile::try_from(file(&image)).unwrap();
        let error = Qcow2::<ImageFile>::builder(storage).open(DenyImplicitOpenGate::default()).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn other_images_that_are_not_taken_are_named() {
    let mut version = fixture("plain.qcow2");
    version[7] = 4;
    let mut dirty = fixture("plain.qcow2");
    dirty[79] |= 1;
    for (image, part) in [
        (fixture("encrypted.qcow2"), "encrypted"),
        (version, "version 4"),
        (dirty, "not closed"),
        (disk(), "no qcow2 image"),
        (Vec::new(), "no qcow2 image"),
        (fixture("plain.qcow2")[..80].to_vec(), "cannot be read as a disk"),
    ] {
        let error = converted(&image, Format::Qcow2, SIZE).unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.to_string().contains(part), "{error} instead of {part}");
    }
}

#[test]
fn a_larger_disk_is_out_of_range_and_nothing_is_written() {
    for (source, format) in [(fixture("plain.qcow2"), Format::Qcow2), (disk(), Format::Raw)] {
        let destination = tempfile().unwrap();
        let error = convert(file(&source), format, &destination, SIZE - 512, &mut |_| ()).unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange);
        assert_eq!(destination.metadata().unwrap().len(), 0);
    }
}

#[test]
fn only_an_empty_file_is_written_to() {
    let destination = file(b"somebody's");
    let error = convert(file(b"x"), Format::Raw, &destination, 512, &mut |_| ()).unwrap_err();
    assert_eq!((error.code(), content(&destination)), (Code::FailedPrecondition, b"somebody's".to_vec()));
    let directory = File::open("/").unwrap();
    let error = convert(directory, Format::Raw, &tempfile().unwrap(), 512, &mut |_| ()).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[test]
fn holes_and_zeros_take_no_space_and_progress_is_told() {
    let source = tempfile().unwrap();
    source.set_len(1 << 30).unwrap();
    source.write_all_at(b"middle", 500 << 20).unwrap();
    source.write_all_at(&vec![0; 8 << 20], 600 << 20).unwrap();
    let destination = tempfile().unwrap();
    let mut told = Vec::new();
    convert(source, Format::Raw, &destination, 1 << 30, &mut |done| told.push(done)).unwrap();
    let is = destination.metadata().unwrap();
    assert_eq!(is.len(), 1 << 30);
    assert!(is.blocks() * 512 <= 1 << 20, "{} blocks", is.blocks());
    let mut middle = [0; 6];
    destination.read_exact_at(&mut middle, 500 << 20).unwrap();
    assert_eq!(&middle, b"middle");
    assert!(told.is_sorted() && told.last() == Some(&(1 << 30)), "{told:?}");
}

#[test]
fn a_raw_disk_that_begins_like_an_image_stays_raw() {
    let image = fixture("backing.qcow2");
    assert!(qcow2::has_magic(&file(&image)).unwrap());
    assert!(!qcow2::has_magic(&file(&disk())).unwrap());
    assert!(!qcow2::has_magic(&file(b"QF")).unwrap());
    let size = image.len() as u64;
    assert_eq!(converted(&image, Format::Raw, size).unwrap(), (size, image));
}

proptest! {
    /// Hostile images end in an error or in some disk of the right size, never in a panic.
    #[test]
    fn damaged_images_do_no_harm(at in 0_usize..4096, value: u8, more in 0_usize..120, other: u8) {
        for name in ["plain.qcow2", "compressed.qcow2"] {
            let mut image = fixture(name);
            let len = image.len();
            image[at % len] = value;
            image[more] = other;
            if let Ok((size, disk)) = converted(&image, Format::Qcow2, SIZE) {
                prop_assert!(size <= SIZE && disk.len() as u64 == SIZE);
            }
        }
    }
}

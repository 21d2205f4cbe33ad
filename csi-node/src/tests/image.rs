//! Images on a real directory, made by the host's own programs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::share::{Named, Shares};

struct Place {
    base: TempDir,
    tree: Tree,
}

fn place(host: &str) -> Place {
    let base = TempDir::new().unwrap();
    let shares = Shares::unknown("/");
    let named: Named = format!("s=directory:{}", base.path().display()).parse().unwrap();
    shares.replace([(named.name, named.spec)]);
    let host: Arc<Path> = PathBuf::from(host).into();
    let tree = shares.get("s").unwrap().unwrap().open().unwrap().on(&host);
    Place { base, tree }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn make(&self, capacity: u64) -> Result<PathBuf, Error> {
        let uuid = Uuid::of_name("v");
        let owner = Owner { uid: 1000, gid: 1001, mode: 0o2770 };
        make(&self.tree, &uuid, owner, capacity)?;
        Ok(self.path(&format!(".lb~dcsi/images/{}", image_name(&uuid))))
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn an_image_is_a_whole_file_system_with_the_volume_in_it() {
    if !is_root() {
        return;
    }
    let place = place("/");
    for capacity in [BLOCK, 8 * MIB, 128 * MIB, 1000 * MIB, 20 << 30] {
        let image = place.make(capacity).unwrap();
        let path = image.to_str().unwrap();
        said("e2fsck", &["-fn", path]);
        let listed = said("debugfs", &["-R", "ls -p /", path]);
        assert!(listed.contains("/042770/1000/1001/volume/"), "{listed}");
        let features = said("dumpe2fs", &["-h", path]);
        assert!(features.contains("has_journal") && features.contains("mmp"), "{features}");
        let is = fs::metadata(&image).unwrap();
        assert_eq!(is.mode() & 0o7777, 0o600);
        // Thin, and no larger than it has to be.
        assert!(is.blocks() * 512 < 16 * MIB + is.len() / 256, "{capacity}: {} blocks", is.blocks());
        let file = fs::File::open(&image).unwrap();
        let made = Ext4::read(file.as_fd()).unwrap();
        let has = (made.blocks - made.overhead) * made.block;
        assert!(
            has >= shown(capacity) && has <= shown(capacity) + shown(capacity) / 50 + 17 * MIB,
            "{capacity}: {has}"
        );
        assert!(is.len() >= made.blocks * BLOCK);
        assert_eq!(fs::read_dir(place.path(".lb~dcsi/new")).unwrap().count(), 0);
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn an_image_that_is_there_stays() {
    if !is_root() {
        return;
    }
    let place = place("/");
    let image = place.make(8 * MIB).unwrap();
    let before = fs::metadata(&image).unwrap().ino();
    assert_eq!(fs::metadata(place.make(8 * MIB).unwrap()).unwrap().ino(), before);
}

#[test]
fn a_host_without_the_program_is_told_what_to_install() {
    if !is_root() {
        return;
    }
    let empty = TempDir::new().unwrap();
    let place = place(empty.path().to_str().unwrap());
    let error = place.make(8 * MIB).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().contains("mkfs.ext4") && error.to_string().contains("e2fsprogs"), "{error}");
    for directory in [".lb~dcsi/new", ".lb~dcsi/images"] {
        assert_eq!(fs::read_dir(place.path(directory)).unwrap().count(), 0, "{directory}");
    }
}

#[test]
fn an_image_grows_while_nobody_has_it() {
    if !is_root() {
        return;
    }
    let place = place("/");
    let path = place.make(8 * MIB).unwrap();
    let image = File::options().read(true).write(true).open(&path).unwrap();
    let size = || Ext4::read(image.as_fd()).unwrap();
    let before = size().blocks;
    // Past the first group, by less than its tables would take.
    let blocks = larger(before, (GROUP - before + 10) * BLOCK);
    extend(&image, blocks * BLOCK).unwrap();
    resize_unmounted(Path::new("/"), image.as_fd(), blocks).unwrap();
    assert_eq!(size().blocks, blocks);
    said("e2fsck", &["-fn", path.to_str().unwrap()]);
}

proptest::proptest! {
    #[test]
    fn sizes_are_enough_and_do_not_overflow(capacity in 1_u64..1 << 62) {
        proptest::prop_assert!(shown(capacity) > capacity && length(capacity).is_multiple_of(BLOCK));
        let blocks = larger(journal(capacity) * MIB / BLOCK, shown(capacity));
        proptest::prop_assert!(blocks * BLOCK > shown(capacity) && blocks * BLOCK < length(capacity));
        proptest::prop_assert!(blocks <= GROUP || blocks.is_multiple_of(GROUP) || blocks % GROUP >= LEAST);
    }
}

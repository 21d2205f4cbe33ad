//! Volumes on a real directory.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;
use crate::parameters::Disk;
use crate::proto::csi::CapacityRange;
use crate::share::{Named, Shares};
use crate::trash;

const HOUR_NS: i64 = 3_600_000_000_000;

struct Place {
    base: TempDir,
    tree: Tree,
}

fn place() -> Place {
    let base = TempDir::new().unwrap();
    fs::create_dir_all(base.path().join("share")).unwrap();
    fs::create_dir_all(base.path().join("outside")).unwrap();
    let shares = Shares::unknown("/");
    let named: Named = format!("s=directory:{}", base.path().join("share").display()).parse().unwrap();
    shares.replace([(named.name, named.spec)]);
    let tree = shares.get("s").unwrap().unwrap().open().unwrap();
    Place { base, tree }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("share").join(name)
    }

    fn create(&self, name: &str, path: &str) -> Result<(Uuid, Record), Error> {
        create(&self.tree, &wanted(name, path, 0))
    }
}

fn wanted(name: &str, path: &str, bytes: i64) -> Wanted {
    let is = rustix::process::geteuid().as_raw();
    let range = CapacityRange { required_bytes: bytes, limit_bytes: 0 };
    Wanted {
        name: name.into(),
        path: SubPath::parse(path).unwrap(),
        owner: Owner { uid: is, gid: rustix::process::getegid().as_raw(), mode: 0o2770 },
        capacity: Capacity::new(Some(&range)).unwrap(),
        what: What::Directory,
        size: Size::Advisory,
        on_delete: OnDelete::Remove,
    }
}

#[test]
fn a_volume_is_a_directory_and_a_record() {
    let place = place();
    let (uuid, record) = place.create("pvc-1", "team-a/data-pvc-1").unwrap();
    let directory = fs::metadata(place.path("team-a/data-pvc-1")).unwrap();
    assert_eq!(directory.permissions().mode() & 0o7777, 0o2770);
    assert_eq!(fs::metadata(place.path("team-a")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(find(&place.tree, &uuid).unwrap(), record);
    for private in [".lb~dcsi", ".lb~dcsi/volumes", ".lb~dcsi/trash", ".lb~dcsi/new"] {
        assert_eq!(fs::metadata(place.path(private)).unwrap().permissions().mode() & 0o7777, 0o700);
    }
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/new")).unwrap().count(), 0);
}

#[test]
fn asking_again_changes_nothing() {
    let place = place();
    let first = create(&place.tree, &wanted("v", "v", 10)).unwrap();
    fs::write(place.path("v/file"), "kept").unwrap();
    fs::set_permissions(place.path("v"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(create(&place.tree, &wanted("v", "v", 10)).unwrap(), first);
    assert_eq!(fs::read_to_string(place.path("v/file")).unwrap(), "kept");
    assert_eq!(fs::metadata(place.path("v")).unwrap().permissions().mode() & 0o7777, 0o700);
    for other in [wanted("v", "v", 11), wanted("v", "elsewhere", 10)] {
        assert_eq!(create(&place.tree, &other).unwrap_err().code(), Code::AlreadyExists);
    }
    assert!(!place.path("elsewhere").exists());
}

#[test]
fn an_interrupted_call_is_finished() {
    let place = place();
    let (uuid, record) = place.create("v", "a/v").unwrap();
    fs::remove_dir(place.path("a/v")).unwrap();
    assert_eq!(place.create("v", "a/v").unwrap().1, record);
    assert!(place.path("a/v").exists());
    // The directory went aside, and the record was to go.
    fs::remove_dir(place.path("a/v")).unwrap();
    assert!(delete(&place.tree, &uuid).unwrap());
    assert!(!delete(&place.tree, &uuid).unwrap());
}

#[test]
fn a_directory_that_is_there_is_not_taken() {
    let place = place();
    fs::create_dir_all(place.path("a/v")).unwrap();
    let error = place.create("v", "a/v").unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(find(&place.tree, &Uuid::of_name("v")).unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_directory_that_comes_while_one_is_built_is_not_taken() {
    let place = place();
    let store = place.tree.make_store().unwrap();
    let asked = wanted("v", "a/v", 0);
    let built = || place.tree.build(&store, &asked.path, asked.owner).unwrap();
    let [early, late, unwanted] = [built(), built(), built()].map(Option::unwrap);
    assert!(!place.path("a/v").exists() && place.path("a").exists());
    assert_eq!(early.put(&store, &asked.path).unwrap(), Made::New);
    fs::write(place.path("a/v/file"), "kept").unwrap();
    assert_eq!(late.put(&store, &asked.path).unwrap(), Made::Existing);
    unwanted.remove(&store);
    assert!(built().is_none());
    assert_eq!(fs::read_to_string(place.path("a/v/file")).unwrap(), "kept");
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/new")).unwrap().count(), 0);
}

#[test]
fn planted_links_lead_nowhere() {
    let place = place();
    let outside = place.base.path().join("outside");
    symlink(&outside, place.path("team-a")).unwrap();
    symlink(&outside, place.path("v2")).unwrap();
    fs::write(place.path("team-b"), "a file").unwrap();
    for (name, path) in [("v1", "team-a/v1"), ("v2", "v2"), ("v3", "team-b/v3")] {
        assert_eq!(place.create(name, path).unwrap_err().code(), Code::FailedPrecondition, "{path}");
        assert!(find(&place.tree, &Uuid::of_name(name)).is_err());
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_planted_before_deletion_is_removed_itself() {
    let place = place();
    let (uuid, _) = place.create("v", "a/v").unwrap();
    let outside = place.base.path().join("outside");
    fs::write(outside.join("file"), "kept").unwrap();
    fs::remove_dir(place.path("a/v")).unwrap();
    symlink(&outside, place.path("a/v")).unwrap();
    assert!(delete(&place.tree, &uuid).unwrap());
    let store = place.tree.make_store().unwrap();
    assert!(trash::sweep(store.trash(), &AtomicBool::new(false)).unwrap());
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    // A link on the way: the volume is out of reach, and nothing is touched.
    let (uuid, _) = place.create("w", "b/w").unwrap();
    fs::rename(place.path("b"), place.path("c")).unwrap();
    symlink(&outside, place.path("b")).unwrap();
    fs::create_dir(outside.join("w")).unwrap();
    assert_eq!(delete(&place.tree, &uuid).unwrap_err().code(), Code::FailedPrecondition);
    assert!(outside.join("w").exists() && place.path("c/w").exists());
}

#[test]
fn deletion_puts_aside_and_then_removes() {
    let place = place();
    let (uuid, _) = place.create("v", "a/v").unwrap();
    fs::create_dir_all(place.path("a/v/deep/er")).unwrap();
    fs::write(place.path("a/v/deep/file"), "x").unwrap();
    assert!(delete(&place.tree, &uuid).unwrap());
    assert!(!place.path("a/v").exists() && place.path("a").exists());
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/trash")).unwrap().count(), 1);
    // The same name again, and deleted again, before the first is removed.
    place.create("v", "a/v").unwrap();
    assert!(delete(&place.tree, &uuid).unwrap());
    let store = place.tree.make_store().unwrap();
    assert!(trash::sweep(store.trash(), &AtomicBool::new(false)).unwrap());
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/trash")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/volumes")).unwrap().count(), 0);
}

#[test]
fn a_record_directory_of_somebody_else_is_not_believed() {
    let place = place();
    fs::create_dir_all(place.path(".lb~dcsi/volumes")).unwrap();
    fs::set_permissions(place.path(".lb~dcsi"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(place.create("v", "v").unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(find(&place.tree, &Uuid::of_name("v")).unwrap_err().code(), Code::FailedPrecondition);
    fs::remove_dir_all(place.path(".lb~dcsi")).unwrap();
    symlink(place.base.path().join("outside"), place.path(".lb~dcsi")).unwrap();
    assert!(place.create("v", "v").is_err());
    assert_eq!(fs::read_dir(place.base.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn a_newer_record_is_refused_by_name() {
    let place = place();
    let (uuid, _) = place.create("v", "v").unwrap();
    fs::write(place.path(&format!(".lb~dcsi/volumes/{uuid}.json")), r#"{"version":9}"#).unwrap();
    let error = delete(&place.tree, &uuid).unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.to_string().contains("format 9"), "{error}");
    assert!(place.path("v").exists());
}

#[test]
fn grants_are_recorded_once_and_never_deleted() {
    let place = place();
    let uuid = Uuid::of_name("grant");
    let path = SubPath::parse("team-a").unwrap();
    grant(&place.tree, &uuid, "team-a/scratch", &path, false).unwrap();
    let file = place.path(&format!(".lb~dcsi/volumes/{uuid}.json"));
    let first = fs::metadata(&file).unwrap().ino();
    grant(&place.tree, &uuid, "team-a/scratch", &path, false).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), first);
    assert_eq!(delete(&place.tree, &uuid).unwrap_err().code(), Code::FailedPrecondition);
}

#[test]
fn leftovers_are_tidied() {
    let place = place();
    place.create("v", "v").unwrap();
    fs::write(place.path(".lb~dcsi/volumes/.lb~tabc"), "half").unwrap();
    fs::create_dir(place.path(".lb~dcsi/new/.lb~tdef")).unwrap();
    let store = place.tree.make_store().unwrap();
    let now = lustre::sys::now_ns();
    store.tidy(now - HOUR_NS).unwrap();
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/new")).unwrap().count(), 1);
    store.tidy(now + HOUR_NS).unwrap();
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/volumes")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/new")).unwrap().count(), 0);
}

#[test]
fn a_capacity_beyond_the_file_system_is_out_of_range() {
    let place = place();
    let error = create(&place.tree, &wanted("v", "v", i64::MAX)).unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    assert!(!place.path("v").exists());
}

#[test]
fn a_size_that_nothing_holds_has_to_be_asked_for() {
    let place = place();
    let enforced = |bytes| Wanted { size: Size::Enforced, ..wanted("v", "v", bytes) };
    let error = create(&place.tree, &enforced(10)).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.to_string().contains("quota: advisory"), "{error}");
    assert!(!place.path("v").exists());
    // There is nothing to hold.
    let (uuid, _) = create(&place.tree, &enforced(0)).unwrap();
    assert_eq!(expand(&place.tree, &uuid, Capacity::exactly(1)).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn an_archived_directory_stays() {
    let place = place();
    let archived = |name: &str, path: &str| Wanted { on_delete: OnDelete::Archive, ..wanted(name, path, 0) };
    for round in ["first", "second"] {
        let (uuid, _) = create(&place.tree, &archived("v", "team/v")).unwrap();
        fs::write(place.path("team/v/file"), round).unwrap();
        assert!(delete(&place.tree, &uuid).unwrap());
        assert!(!place.path("team/v").exists() && find(&place.tree, &uuid).is_err());
    }
    assert_eq!(fs::read_to_string(place.path("team/archived-v/file")).unwrap(), "first");
    assert_eq!(fs::read_dir(place.path("team")).unwrap().count(), 2);
    let long = "n".repeat(250);
    let (uuid, _) = create(&place.tree, &archived("long", &long)).unwrap();
    assert!(delete(&place.tree, &uuid).unwrap() && !place.path(&long).exists());
    // Nothing was removed.
    assert_eq!(fs::read_dir(place.path(".lb~dcsi/trash")).unwrap().count(), 0);
}

#[test]
fn volumes_grow_and_never_shrink() {
    let place = place();
    let capacity = |required_bytes, limit_bytes| {
        Capacity::new(Some(&CapacityRange { required_bytes, limit_bytes })).unwrap()
    };
    let (uuid, _) = create(&place.tree, &wanted("v", "v", 10)).unwrap();
    assert_eq!(expand(&place.tree, &uuid, capacity(20, 0)).unwrap().capacity, 20);
    assert_eq!(expand(&place.tree, &uuid, capacity(5, 0)).unwrap().capacity, 20);
    assert_eq!(find(&place.tree, &uuid).unwrap().capacity, 20);
    assert_eq!(expand(&place.tree, &uuid, capacity(5, 19)).unwrap_err().code(), Code::OutOfRange);
    assert_eq!(expand(&place.tree, &uuid, capacity(i64::MAX, 0)).unwrap_err().code(), Code::OutOfRange);
    // Asked for again as it was first, it is found.
    assert!(create(&place.tree, &wanted("v", "v", 10)).is_ok());

    let disk = Wanted { what: What::Disk(Disk::default()), ..wanted("d", "d", 4096) };
    let (uuid, record) = create(&place.tree, &disk).unwrap();
    assert_eq!((record.type_, record.capacity), (Type::Disk, 4096));
    assert_eq!(expand(&place.tree, &uuid, capacity(5000, 0)).unwrap().capacity, 8192);
    assert_eq!(fs::metadata(place.path("d/disk.img")).unwrap().len(), 8192);
    assert_eq!(expand(&place.tree, &uuid, capacity(9000, 10000)).unwrap_err().code(), Code::OutOfRange);

    let grant = Uuid::of_name("grant");
    super::grant(&place.tree, &grant, "ns/claim", &SubPath::share(), false).unwrap();
    assert_eq!(expand(&place.tree, &grant, capacity(1, 0)).unwrap_err().code(), Code::InvalidArgument);
}

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn path(name: &str) -> String {
    String::from_utf8_lossy(path_of(name).unwrap().as_bytes()).into_owned()
}

fn name_of(path: &[u8]) -> Result<String, Unnameable> {
    let names: Vec<(&[u8], bool)> = path.split(|b| *b == b'/').map(|name| (name, false)).collect();
    decode_path(&names)
}

/// Checks everything that holds for a valid name.
fn check_name(name: &str) {
    let path = path_of(name).unwrap();
    assert!(path.as_bytes().len() < 4000, "{} bytes", path.as_bytes().len());
    let names: Vec<&[u8]> = path.components().collect();
    assert!(names.iter().all(|name| is_file_name(name)), "{name:?}: {path:?}");
    assert_eq!(names.last(), Some(&path.file_name()));
    assert_eq!(names[..names.len() - 1].join(&b'/'), path.parent());
    assert_eq!(name_of(path.as_bytes()).as_deref(), Ok(name));
    check_prefixes(&names, name);
}

/// What the directories give is the beginning of every name below them.
fn check_prefixes(names: &[&[u8]], name: &str) {
    let mut so_far = String::new();
    let mut context = Context::OBJECT;
    for (at, file_name) in names.iter().enumerate() {
        let inner = at + 1 < names.len();
        let Entry::Part { text, ends, below } = entry(file_name, inner, &context) else {
            unreachable!("no part")
        };
        so_far.push_str(&text);
        if ends && inner {
            so_far.push('/');
        }
        assert!(name.starts_with(&so_far), "{so_far:?} is no prefix of {name:?}");
        context = below;
    }
    assert_eq!(so_far, name);
}

/// Checks everything that holds for file names, one below the other.
fn check_path(names: &[Vec<u8>], is_dir: bool) -> Result<String, Unnameable> {
    let last = names.len().saturating_sub(1);
    let entries: Vec<(&[u8], bool)> =
        names.iter().enumerate().map(|(at, name)| (name.as_slice(), at < last || is_dir)).collect();
    let name = decode_path(&entries);
    let any = |test: &dyn Fn(&[u8]) -> bool| names.iter().any(|name| test(name));
    match &name {
        Ok(name) => {
            let path = path_of(name).unwrap();
            assert_eq!(path.as_bytes(), names.join(&b'/'), "{name:?}");
            check_name(name);
        }
        Err(Unnameable::Own) => assert!(any(&|name| name == SELF || name.starts_with(b".lb~d"))),
        Err(Unnameable::Temporary) => assert!(any(&|name| name.starts_with(b".lb~t"))),
        Err(Unnameable::Unfinished) => assert!(names[last].starts_with(b".lb~n+")),
        Err(Unnameable::Empty) => assert!(names.is_empty() || names == [b".lb~n1"]),
        Err(Unnameable::NotAFileName) => assert!(any(&|name| !is_file_name(name))),
        Err(Unnameable::TooLong) => {
            assert!(names.iter().map(|name| 10 + 2 * name.len() + 1025).sum::<usize>() > MAX_OBJECT);
        }
    }
    name
}

#[test]
fn an_ordinary_name_is_its_path() {
    for name in ["a", "a/b.txt", ".hidden", "...", "a b/ü/日本", ".lb", ".lb-", "a/.lb", &"x".repeat(255)]
    {
        assert_eq!(path(name), name);
        check_name(name);
    }
}

#[test]
fn what_no_file_system_holds_is_written_with_the_prefix() {
    for (name, expected) in [
        (".", ".lb~n."),
        ("..", ".lb~n.."),
        ("a/../b", "a/.lb~n../b"),
        ("/", ".lb~n2"),
        ("/a", ".lb~n1/a"),
        ("a/", "a/.lb~n1"),
        ("a//", "a/.lb~n2"),
        ("a///b", "a/.lb~n2/b"),
        (".//", ".lb~n.2"),
        ("..//a/.", ".lb~n..1/a/.lb~n."),
        ("/./", ".lb~n1/.lb~n.1"),
        (".lb~", ".lb~n.lb~"),
        (".lb~self/x", ".lb~n.lb~self/x"),
        (".lb~d", ".lb~n.lb~d"),
        (".lb~n2", ".lb~n.lb~n2"),
        (".lb~n.lb~n2", ".lb~n.lb~n.lb~n2"),
    ] {
        assert_eq!(path(name), expected);
        check_name(name);
    }
}

#[test]
fn a_component_too_long_for_a_file_name_is_in_parts() {
    let long = "x".repeat(256);
    assert_eq!(path(&long), format!(".lb~n+{}/.lb~n-{}", &long[..246], &long[246..]));
    let wide = "日".repeat(100);
    assert_eq!(path(&wide), format!(".lb~n+{}/.lb~n-{}", "日".repeat(82), "日".repeat(18)));
    let ours = format!(".lb~{}", "x".repeat(246));
    assert_eq!(path(&ours), format!(".lb~n{ours}"));
    check_name(&(ours.clone() + "x"));
    assert!(path(&(ours + "x")).starts_with(".lb~n+.lb~x"));
    check_name(&format!("a/{}/{}", "x".repeat(600), "é".repeat(150)));
}

#[test]
fn a_foreign_file_is_named_by_its_bytes() {
    for (file, name) in [
        (b"\xff".as_slice(), ".lb~bff"),
        (b".lb~", ".lb~b2e6c627e"),
        (b".lb~x", ".lb~b2e6c627e78"),
        (b".lb~n", ".lb~b2e6c627e6e"),
        (b".lb~n0", ".lb~b2e6c627e6e30"),
        (b".lb~n01", ".lb~b2e6c627e6e3031"),
        (b".lb~n1026", ".lb~b2e6c627e6e31303236"),
        (b".lb~n+short", ".lb~b2e6c627e6e2b73686f7274"),
        (b".lb~n-x", ".lb~b2e6c627e6e2d78"),
        (b".lb~nplain", ".lb~b2e6c627e6e706c61696e"),
        (b".lb~n...", ".lb~b2e6c627e6e2e2e2e"),
        (b".lb~selfish", ".lb~b2e6c627e73656c66697368"),
        (b".lb~bff", ".lb~b2e6c627e626666"),
        (b".lb~n.lb~bff", ".lb~b2e6c627e6e2e6c627e626666"),
    ] {
        assert_eq!(check_path(&[file.to_vec()], false).as_deref(), Ok(name));
        assert_eq!(check_path(&[file.to_vec(), b"x".to_vec()], false), Ok(format!("{name}/x")));
    }
}

#[test]
fn what_looks_like_a_foreign_files_name_and_names_none_is_an_ordinary_component() {
    for name in [
        ".lb~b61",
        ".lb~b",
        ".lb~bf",
        ".lb~bFF",
        ".lb~b2f",
        ".lb~b00ff",
        ".lb~b2e",
        ".lb~b2e6c627e6e31",
        ".lb~b2e6c627e73656c66",
        ".lb~b2e6c627e74ff",
        ".lb~bytes-ff",
    ] {
        assert_eq!(path(name), format!(".lb~n{name}"));
        check_name(name);
    }
}

#[test]
fn a_run_after_a_run_is_foreign() {
    let run = |empty: &str| format!(".lb~n{empty}").into_bytes();
    let named = |name: &str| Ok(name.to_owned());
    assert_eq!(check_path(&[run("1"), run("2")], false), named("/.lb~b2e6c627e6e32"));
    assert_eq!(check_path(&[run("."), run("2")], false), named("./.lb~b2e6c627e6e32"));
    assert_eq!(check_path(&[run("1"), run(".2")], false), named("/.//"));
    assert_eq!(check_path(&[run("1"), b"a".to_vec(), run("2")], false), named("/a//"));
    // The same text elsewhere names no foreign file.
    assert_eq!(path("a/.lb~b2e6c627e6e32"), "a/.lb~n.lb~b2e6c627e6e32");
}

#[test]
fn beside_the_parts_of_a_component_all_else_is_foreign() {
    let part = b".lb~n+".iter().copied().chain([b'x'; 246]).collect::<Vec<u8>>();
    for file in [
        b"a".as_slice(),
        b"aaaaaaaaaa",
        b"\xff",
        b".lb~n1",
        b".lb~n.",
        b".lb~x",
        b".lb~n-",
        b".lb~n-tooshort",
        b".lb~n-.lb~bytes-61",
    ] {
        let name = check_path(&[part.clone(), file.to_vec()], false).unwrap();
        assert_eq!(name, "x".repeat(246) + &hex_after(".lb~bytes-", file));
        check_path(&[part.clone(), file.to_vec(), b"below".to_vec()], false).unwrap();
    }
    let canonical = check_path(&[part.clone(), b".lb~n-longenough".to_vec()], false);
    assert_eq!(canonical, Ok("x".repeat(246) + "longenough"));
    let unread = check_path(&[part.clone(), b".lb~n-.lb~bytes-zz".to_vec()], false);
    assert_eq!(unread, Ok("x".repeat(246) + ".lb~bytes-zz"));
    assert_eq!(check_path(&[part.clone(), SELF.to_vec()], false), Err(Unnameable::Own));
    assert_eq!(check_path(std::slice::from_ref(&part), false), Err(Unnameable::Unfinished));
    assert_eq!(check_path(&[part], true), Err(Unnameable::Unfinished));
}

#[test]
fn a_foreign_files_long_name_is_never_in_parts() {
    let file = [0xff; 255];
    assert_eq!(check_path(&[file.to_vec()], false), Ok(".lb~b".to_owned() + &"ff".repeat(255)));
    let parts = [".lb~n+.lb~b".to_owned() + &"f".repeat(241), ".lb~n-".to_owned() + &"f".repeat(9)];
    let name = check_path(&parts.map(String::into_bytes), false).unwrap();
    assert!(name.contains(".lb~bytes-"), "{name}");
    check_name(&(".lb~b".to_owned() + &"61".repeat(255)));
}

#[test]
fn ours_have_no_name() {
    assert_eq!(name_of(b"a/.lb~self"), Err(Unnameable::Own));
    assert_eq!(name_of(b".lb~d"), Err(Unnameable::Own));
    assert_eq!(name_of(b".lb~tk3j4h5/x"), Err(Unnameable::Temporary));
    assert_eq!(name_of(b".lb~t~a"), Err(Unnameable::Temporary));
    assert_eq!(name_of(b".lb~t\xff"), Err(Unnameable::Temporary));
    let own = |name: &'static [u8]| entry(name, false, &Context::OBJECT);
    assert_eq!(own(b".lb~t~a"), Entry::Own(Own::Transit(b"a")));
    assert_eq!(own(b".lb~tl"), Entry::Own(Own::TransitDirectory));
    assert_eq!(own(b".lb~tlx"), Entry::Own(Own::Temporary));
    assert_eq!(own(b".lb~self"), Entry::Own(Own::SelfFile));
    assert_eq!(own(b".lb~d"), Entry::Own(Own::Service));
}

#[test]
fn a_transit_name_leads_back_to_its_file() {
    for len in [1, 249, 250, 255] {
        let file = vec![b'f'; len];
        let transit = transit_of(&file);
        assert!(transit.split(|b| *b == b'/').all(is_file_name));
        match transit.strip_prefix(b".lb~tl/") {
            Some(link) => assert_eq!(link, file),
            None => assert_eq!(entry(&transit, false, &Context::OBJECT), Entry::Own(Own::Transit(&file))),
        }
    }
}

#[test]
fn what_is_no_file_name_has_no_name() {
    for bad in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        assert_eq!(decode_path(&[(bad, false)]), Err(Unnameable::NotAFileName));
    }
    assert_eq!(name_of(b".lb~n1"), Err(Unnameable::Empty));
    assert_eq!(decode_path(&[]), Err(Unnameable::Empty));
}

#[test]
fn a_file_whose_name_would_be_too_long_has_none() {
    let deep = vec![b"0123456789abcdef".to_vec(); 61];
    assert_eq!(deep.join(&b'/').len(), 1036);
    assert_eq!(check_path(&deep, false), Err(Unnameable::TooLong));
    assert!(check_path(&deep[..60], false).is_ok());
    let parts = vec![b".lb~n+".iter().copied().chain([b'x'; 246]).collect::<Vec<u8>>(); 5];
    assert_eq!(check_path(&parts, true), Err(Unnameable::TooLong));
    assert_eq!(name_of(b".lb~n1025"), Ok("/".repeat(1024)));
    assert_eq!(name_of(b"a/.lb~n1025"), Err(Unnameable::TooLong));
}

#[test]
fn every_longest_name_fits_a_path() {
    let mut longest = 0;
    for unit in [
        "./",
        "../",
        "/",
        ".//",
        "..//",
        "a//",
        "a/",
        "/a",
        "/.",
        ".lb~/",
        ".lb~//",
        ".lb~n1/",
        ".lb~bff/",
        ".lb~b61//",
        "x",
        "日",
        "é",
        "𝄞",
        ".lb~bytes-",
    ] {
        for before in ["", "/", ".", "a", ".lb~", "//", ".lb~b"] {
            let mut name = before.to_owned() + &unit.repeat(MAX_OBJECT / unit.len());
            while name.len() > MAX_OBJECT {
                name.pop();
            }
            check_name(&name);
            longest = longest.max(path_of(&name).unwrap().as_bytes().len());
        }
    }
    assert!(longest < 3600, "{longest}");
}

#[test]
fn every_short_name_has_a_path_of_its_own() {
    let mut paths = BTreeMap::new();
    let mut names = vec![String::new()];
    for _ in 0..8 {
        names = names.iter().flat_map(|name| ["/", ".", "a"].map(|c| name.clone() + c)).collect();
        for name in &names {
            check_name(name);
            if let Some(other) = paths.insert(path(name), name.clone()) {
                unreachable!("{name:?} and {other:?}");
            }
        }
    }
}

#[test]
fn every_sequence_of_awkward_file_names_has_a_name_of_its_own() {
    let part = |text: &str| format!(".lb~n+{text}").into_bytes();
    let mut files: Vec<Vec<u8>> = vec![
        part(&"x".repeat(246)),
        part(&"x".repeat(247)),
        part(&format!("a{}", "日".repeat(82))),
        part(&format!(".lb~b{}", "6".repeat(241))),
        part(&format!(".lb~bytes-{}", "6".repeat(236))),
    ];
    for name in [
        "a",
        "0123456789",
        ".lb~n1",
        ".lb~n2",
        ".lb~n01",
        ".lb~n.",
        ".lb~n.1",
        ".lb~n..",
        ".lb~n...",
        ".lb~n-x",
        ".lb~n-01234",
        ".lb~n-666666666",
        ".lb~n-0123456789",
        ".lb~n.lb~",
        ".lb~n.lb~n1",
        ".lb~b61",
        ".lb~n.lb~b61",
        ".lb~n-.lb~bytes-61",
        ".lb~b2e6c627e6e31",
        ".lb~n.lb~b2e6c627e6e31",
        ".lb~n-.lb~bytes-2e6c627e6e2d78",
        ".lb~n-日本語日本語",
    ] {
        files.push(name.as_bytes().to_vec());
    }
    files.push(b"\xff".to_vec());
    let mut names = BTreeMap::new();
    let mut paths: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    for _ in 0..3 {
        let longer = |path: &Vec<Vec<u8>>| {
            files
                .iter()
                .map(|file| [path.as_slice(), std::slice::from_ref(file)].concat())
                .collect::<Vec<_>>()
        };
        paths = paths.iter().flat_map(longer).collect();
        for path in &paths {
            if let Ok(name) = check_path(path, false)
                && let Some(other) = names.insert(name, path.clone())
            {
                unreachable!("{path:?} and {other:?}");
            }
        }
    }
}

#[test]
fn names_are_validated() {
    assert_eq!(validate_object(""), Err(NameError::Empty));
    assert_eq!(validate_object("a\0"), Err(NameError::Nul));
    assert_eq!(validate_object(&"x".repeat(1024)), Ok(()));
    assert_eq!(validate_object(&"x".repeat(1025)), Err(NameError::TooLong));
    assert_eq!(validate_container("a/b"), Err(NameError::Slash));
    assert_eq!(validate_container(&"x".repeat(256)), Ok(()));
    assert_eq!(validate_account(&"x".repeat(257)), Err(NameError::TooLong));
}

#[test]
fn a_container_has_one_directory_or_two() {
    let at = |name: &str| String::from_utf8_lossy(container_path(name).unwrap().as_bytes()).into_owned();
    assert_eq!(at("photos"), "photos");
    assert_eq!(at("."), ".lb~n.");
    assert_eq!(at(".lb~d"), ".lb~n.lb~d");
    assert_eq!(at(&"x".repeat(256)), format!(".lb~n+{}/.lb~n-{}", "x".repeat(246), "x".repeat(10)));
    // No run stands in a container's name.
    assert_eq!(decode_container(&[(b".lb~n2", true)]).as_deref(), Ok(".lb~b2e6c627e6e32"));
    assert_eq!(at(".lb~b2e6c627e6e32"), ".lb~n2");
    assert_eq!(decode_container(&[(b".lb~n.2", true)]).as_deref(), Ok(".lb~b2e6c627e6e2e32"));
    assert_eq!(decode_container(&[(&[0xff; 126], true)]), Err(Unnameable::TooLong));
}

/// What a listing does: a heap of texts, least first, where a directory gives way to its entries.
fn listed(paths: &[Vec<u8>]) -> Vec<String> {
    let mut heap = BTreeMap::from([((String::new(), Vec::new()), (Context::OBJECT, true))]);
    let mut names = Vec::new();
    while let Some(((text, at), (context, is_dir))) = heap.pop_first() {
        if !is_dir {
            names.push(text);
            continue;
        }
        let below = |path: &&Vec<u8>| at.is_empty() || path.starts_with(&[at.as_slice(), b"/"].concat());
        for path in paths.iter().filter(below) {
            let rest = &path[if at.is_empty() { 0 } else { at.len() + 1 }..];
            let file_name = rest.split(|b| *b == b'/').next().unwrap();
            let inner = file_name.len() < rest.len();
            let Entry::Part { text: more, ends, below } = entry(file_name, inner, &context) else { continue };
            let slash = if inner && ends { "/" } else { "" };
            let full = path[..path.len() - rest.len() + file_name.len()].to_vec();
            heap.insert((format!("{text}{more}{slash}"), full), (below, inner));
        }
    }
    names
}

fn file_name() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![Just(""), Just("."), Just(".."), Just("...")];
    let digits =
        prop_oneof![Just(String::new()), (0_u32..1100).prop_map(|n| n.to_string()), Just("01".to_owned())];
    let leaf = prop_oneof![
        2 => "[a-z.]{1,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..20),
        2 => (run, digits).prop_map(|(dots, digits)| format!(".lb~n{dots}{digits}").into_bytes()),
        1 => prop_oneof![Just(".lb~self"), Just(".lb~d"), Just(".lb~tabc"), Just(".lb~t~x"), Just(".lb~"), Just(".lb~n")]
            .prop_map(|own| own.as_bytes().to_vec()),
        4 => (prop_oneof![Just("+"), Just("-")], long_text()).prop_map(|(kind, text)| format!(".lb~n{kind}{text}").into_bytes()),
    ];
    let named = leaf.prop_recursive(4, 8, 1, |inner| {
        let prefix = prop_oneof![
            Just(".lb~b"),
            Just(".lb~n.lb~b"),
            Just(".lb~n-.lb~bytes-"),
            Just(".lb~n-.lb~b"),
            Just(".lb~n.lb~bytes-"),
            Just(".lb~n+.lb~b"),
            Just(".lb~n-lb~bytes-"),
            Just(".lb~n-"),
            Just(".lb~n"),
        ];
        (prefix, inner, any::<bool>()).prop_map(|(prefix, inner, hex)| {
            if hex { hex_after(prefix, &inner).into_bytes() } else { [prefix.as_bytes(), &inner].concat() }
        })
    });
    named.prop_map(|mut name| {
        name.retain(|b| *b != 0 && *b != b'/');
        name.truncate(255);
        if is_file_name(&name) { name } else { b"x".to_vec() }
    })
}

/// Texts about as long as a part, of characters of every width.
fn long_text() -> impl Strategy<Value = String> {
    let near = (
        prop_oneof![Just("x"), Just("é"), Just("日"), Just("𝄞"), Just("f"), Just("6")],
        236_usize..252,
        "[a𝄞]{0,1}",
    )
        .prop_map(|(c, len, end)| {
            let count = len / c.len();
            c.repeat(count) + &"x".repeat(len - count * c.len()) + &end
        });
    let named = ("[a-f0-9]{236,250}").prop_map(|hex| format!(".lb~b{hex}"));
    prop_oneof![3 => near, 1 => named, 1 => "[a-f0-9é]{1,12}".prop_map(|text| text)]
}

fn file_names() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let part = (prop_oneof![Just('x'), Just('6'), Just('é')], any::<bool>()).prop_map(|(c, odd)| {
        let text = if odd {
            format!("a{}", c.to_string().repeat(245 / c.len_utf8()))
        } else {
            c.to_string().repeat(246 / c.len_utf8())
        };
        format!(".lb~n+{text}").into_bytes()
    });
    let name_part = ("[a-f0-9]{241}").prop_map(|hex| format!(".lb~n+.lb~b{hex}").into_bytes());
    let bytes_part = ("[a-f0-9]{236}").prop_map(|hex| format!(".lb~n+.lb~bytes-{hex}").into_bytes());
    let start = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(part, 1..3),
        1 => prop::collection::vec(name_part, 1..2),
        1 => prop::collection::vec(bytes_part, 1..3),
    ];
    (start, prop::collection::vec(file_name(), 1..4)).prop_map(|(start, rest)| [start, rest].concat())
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop_oneof![Just(""), Just("."), Just("..")].prop_map(str::to_owned),
        2 => "[a-z.~]{1,8}|\\PC{1,8}",
        2 => file_name().prop_map(|name| String::from_utf8_lossy(&name).into_owned()),
        2 => file_name().prop_map(|name| hex_after(".lb~b", &name)),
        2 => (long_text(), file_name(), any::<bool>()).prop_map(|(text, name, bytes)| {
            text + &hex_after(if bytes { ".lb~bytes-" } else { ".lb~b" }, &name)
        }),
        1 => "[x6é日𝄞]{80,300}",
    ]
}

fn container() -> impl Strategy<Value = String> {
    component().prop_map(|component| {
        let mut name = component.replace(['\0', '/'], "x") + "x";
        while name.len() > MAX_CONTAINER + 1 {
            name.pop();
        }
        name.pop();
        if name.is_empty() { "..".to_owned() } else { name }
    })
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(component(), 1..8).prop_map(|components| {
        let mut name = components.join("/").replace('\0', "");
        while name.len() > MAX_OBJECT {
            name.pop();
        }
        if name.is_empty() { "/".to_owned() } else { name }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_name_to_its_path_and_back(name in name()) {
        check_name(&name);
    }

    #[test]
    fn every_path_to_its_name_and_back(names in file_names(), is_dir: bool) {
        let _ = check_path(&names, is_dir);
    }

    #[test]
    fn any_bytes_to_their_name_and_back(names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)) {
        let _ = check_path(&names, false);
    }

    #[test]
    fn any_text_is_a_name_or_refused(name in "\\PC{0,60}|[./lb~n+0-9-]{0,40}") {
        match validate_object(&name) {
            Ok(()) => check_name(&name),
            Err(reason) => prop_assert_eq!(path_of(&name), Err(reason)),
        }
    }

    #[test]
    fn every_container_to_its_path_and_back(name in container()) {
        let path = container_path(&name).unwrap();
        let names: Vec<(&[u8], bool)> = path.components().map(|name| (name, true)).collect();
        prop_assert!(names.len() <= 2 && names.iter().all(|(name, _)| is_file_name(name)));
        prop_assert_eq!(decode_container(&names), Ok(name));
    }

    #[test]
    fn every_directory_of_an_account_to_its_container_and_back(file in file_name()) {
        if let Ok(name) = decode_container(&[(&file, true)]) {
            let path = container_path(&name).unwrap();
            prop_assert_eq!(path.as_bytes(), file);
        }
    }

    #[test]
    fn a_listing_in_order_needs_only_the_texts(names in prop::collection::btree_set(name(), 1..12)) {
        let paths: Vec<Vec<u8>> = names.iter().map(|name| path_of(name).unwrap().as_bytes().to_vec()).collect();
        // A file in the way of a directory holds its content in there; here it is left out.
        let holds = |path: &&Vec<u8>| !paths.iter().any(|other| other.starts_with(&[path.as_slice(), b"/"].concat()));
        let files: Vec<Vec<u8>> = paths.iter().filter(holds).cloned().collect();
        let expected: Vec<String> = files.iter().map(|path| name_of(path).unwrap()).collect();
        prop_assert_eq!(listed(&files), expected);
    }
}

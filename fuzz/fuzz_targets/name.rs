//! Names and paths are a bijection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use namespace::name::{
    NameError, PathBytes, Unnameable, container_path, decode_container, decode_path, path_of,
    validate_container, validate_object,
};

type Encode = fn(&str) -> Result<PathBytes, NameError>;
type Decode = fn(&[(&[u8], bool)]) -> Result<String, Unnameable>;

// Of anything, as a name and as a path.
fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(path_of(text).map(drop), validate_object(text));
        assert_eq!(container_path(text).map(drop), validate_container(text));
        there_and_back(text, path_of, decode_path);
        there_and_back(text, container_path, decode_container);
    }
    back_and_there(data, path_of, decode_path);
    back_and_there(data, container_path, decode_container);
});

fn names(path: &[u8]) -> Vec<(&[u8], bool)> {
    path.split(|b| *b == b'/').map(|name| (name, false)).collect()
}

fn there_and_back(name: &str, encode: Encode, decode: Decode) {
    let Ok(path) = encode(name) else { return };
    for file_name in path.components() {
        assert!(!matches!(file_name, b"" | b"." | b"..") && file_name.len() <= 255, "{path:?}");
        assert!(!file_name.contains(&0), "{path:?}");
    }
    assert_eq!(decode(&names(path.as_bytes())).as_deref(), Ok(name));
}

fn back_and_there(path: &[u8], encode: Encode, decode: Decode) {
    // Containers hold objects: several whole components are no name of a container.
    let Some(name) = decode(&names(path)).ok().filter(|name| encode(name) != Err(NameError::Slash)) else {
        return;
    };
    assert_eq!(encode(&name).as_ref().map(PathBytes::as_bytes), Ok(path));
}

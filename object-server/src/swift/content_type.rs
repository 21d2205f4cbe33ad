//! Content types: guessed from names, and the parameters that belong to Swift itself.

use super::errors::Answer;

/// The type of an object about which nothing is known.
pub const DEFAULT: &str = "application/octet-stream";

/// Endings that say how a file is packed, not what it is.
const PACKED: [&str; 5] = ["gz", "Z", "bz2", "xz", "br"];

/// Where Swift's table and the common one differ, and types that are only in Swift's.
const KNOWN: [(&str, &str); 24] = [
    ("aac", "audio/aac"),
    ("avif", "image/avif"),
    ("c", "text/plain"),
    ("csv", "text/csv"),
    ("eml", "message/rfc822"),
    ("h", "text/plain"),
    ("h5", "application/x-hdf5"),
    ("hdf", "application/x-hdf"),
    ("ico", "image/vnd.microsoft.icon"),
    ("js", "text/javascript"),
    ("mjs", "text/javascript"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("mhtml", "message/rfc822"),
    ("n3", "text/n3"),
    ("nc", "application/x-netcdf"),
    ("opus", "audio/opus"),
    ("py", "text/x-python"),
    ("pyc", "application/x-python-code"),
    ("sh", "application/x-sh"),
    ("tar", "application/x-tar"),
    ("vcf", "text/x-vcard"),
    ("wav", "audio/x-wav"),
    ("xml", "text/xml"),
    ("zip", "application/zip"),
];

/// The type that a name suggests. `x.tar.gz` is a tar archive, `x.gz` says nothing.
pub fn guess(name: &str) -> &'static str {
    let file = name.rsplit('/').next().unwrap_or_default();
    let Some((stem, mut ending)) = split(file) else {
        return DEFAULT;
    };
    let unpacked = match ending {
        "tgz" | "taz" | "tz" | "tbz2" | "txz" => return "application/x-tar",
        "svgz" => return "image/svg+xml",
        _ if PACKED.contains(&ending) => true,
        _ => false,
    };
    if unpacked {
        match split(stem) {
            Some((_, inner)) => ending = inner,
            None => return DEFAULT,
        }
    }
    by_ending(ending)
}

/// Stem and ending; dots at the start of a file name begin no ending.
fn split(file: &str) -> Option<(&str, &str)> {
    let (stem, ending) = file.rsplit_once('.')?;
    let named = stem.bytes().any(|b| b != b'.');
    (named && !ending.is_empty()).then_some((stem, ending))
}

fn by_ending(ending: &str) -> &'static str {
    if let Some((_, kind)) = KNOWN.iter().find(|(k, _)| ending.eq_ignore_ascii_case(k)) {
        return kind;
    }
    mime_guess::from_ext(ending).first_raw().unwrap_or(DEFAULT)
}

/// Refuses parameters that Swift keeps for itself.
pub fn check(value: &str) -> Result<(), Answer> {
    let reserved = value.split(';').skip(1).any(|parameter| parameter.trim_start().starts_with("swift_"));
    if reserved {
        let text = "Invalid Content-Type, swift_* is not a valid parameter name.";
        return Err(Answer::html(400, text));
    }
    Ok(())
}

/// The type without its parameters.
pub fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_suggest_types() {
        for (name, kind) in [
            ("x.wav", "audio/x-wav"),
            ("d/x.TXT", "text/plain"),
            ("x.zip", "application/zip"),
            ("x.html", "text/html"),
            ("x.json", "application/json"),
            ("x.jpg", "image/jpeg"),
            ("x.pdf", "application/pdf"),
            ("x.tar.gz", "application/x-tar"),
            ("x.tgz", "application/x-tar"),
            ("x.gz", DEFAULT),
            ("x.txt.bz2", "text/plain"),
            (".html", DEFAULT),
            ("..html", DEFAULT),
            ("x.", DEFAULT),
            ("a.txt/x", DEFAULT),
            ("x.txt/", DEFAULT),
            ("", DEFAULT),
            ("x.nosuchending", DEFAULT),
            ("x.h5", "application/x-hdf5"),
        ] {
            assert_eq!(guess(name), kind, "{name}");
        }
    }

    #[test]
    fn swifts_own_parameters_are_refused() {
        assert!(check("text/plain; charset=utf-8").is_ok());
        assert!(check("swift_x/y").is_ok());
        let refused = check("text/plain;a=b; swift_bytes=3").unwrap_err();
        assert_eq!(refused.status, 400);
    }
}

//! Header fields: an ordered multimap that looks names up without regard to case.

/// Where one field lies in the two stores.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: (u32, u32),
    value: (u32, u32),
}

/// Header fields in the order they came, spelled as they came, several of one name allowed.
///
/// Values are bytes: clients send UTF-8 and Latin-1 alike. All names live in one buffer and all values in
/// another, so that a request costs three allocations and not two per field. What `insert` and `remove`
/// replace stays in the buffers until the whole is dropped.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    names: String,
    values: Vec<u8>,
    entries: Vec<Entry>,
}

impl Headers {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// No fields, with room for `fields` of them in `bytes` bytes.
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self {
            names: String::with_capacity(fields * 16),
            values: Vec::with_capacity(bytes),
            entries: Vec::with_capacity(fields),
        }
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of `name`, where it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every value of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether there is a field of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets `name` to this one value, in place of all that it had.
    pub fn insert(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Adds a field, beside those that `name` may have already.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let name_start = self.names.len() as u32;
        let value_start = self.values.len() as u32;
        self.names.push_str(name);
        self.values.extend_from_slice(value);
        self.entries.push(Entry {
            name: (name_start, self.names.len() as u32),
            value: (value_start, self.values.len() as u32),
        });
    }

    /// Removes every field of this name; tells whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        let names = &self.names;
        self.entries.retain(|entry| !name_of(names, entry).eq_ignore_ascii_case(name));
        self.entries.len() != before
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().map(|entry| {
            let (start, end) = entry.value;
            let value = self.values.get(start as usize..end as usize).unwrap_or_default();
            (name_of(&self.names, entry), value)
        })
    }
}

fn name_of<'a>(names: &'a str, entry: &Entry) -> &'a str {
    names.get(entry.name.0 as usize..entry.name.1 as usize).unwrap_or_default()
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in fields {
            headers.append(name.as_ref(), value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_headers_ignore_case_and_keep_order_and_spelling() {
        let mut headers = Headers::new();
        headers.append("X-Object-Meta-a", b"1");
        headers.append("Host", "h");
        headers.append("x-object-meta-A", [0xe9]);
        assert_eq!(headers.get("X-OBJECT-META-A"), Some(&b"1"[..]));
        assert_eq!(headers.get_all("x-object-meta-a").collect::<Vec<_>>(), [&b"1"[..], &[0xe9][..]]);
        assert_eq!(
            headers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["X-Object-Meta-a", "Host", "x-object-meta-A"]
        );
        headers.insert("x-object-meta-a", "2");
        assert_eq!(headers.get_all("X-Object-Meta-A").collect::<Vec<_>>(), [b"2"]);
        assert!(headers.remove("HOST"));
        assert!(!headers.remove("HOST"));
        assert_eq!(headers.len(), 1);
    }
}

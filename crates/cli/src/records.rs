//! Records from files: CSV with a heading line, JSON lines, and JSON documents that hold an array.
//!
//! A record that cannot be read is an item of its own, with the place where it stands; the records after it are read
//! nevertheless. What makes the whole file useless is an error of [`open`], or ends the records.

use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InputFormat {
    /// Comma-separated values, the first line names the fields.
    Csv,
    /// An array of objects, or an object of which one member is such an array.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// Where a record stands in its file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file of lines.
    Line(u64),
    /// In an array.
    Record(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Record(n) => write!(f, "record {n}"),
        }
    }
}

/// One record: named fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Where it stands.
    pub(crate) at: Place,
    /// Its fields, in the file's order.
    pub(crate) fields: Map<String, Value>,
}

/// Why one record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRecord {
    #[error("{at}: {found} fields, the first line names {expected}")]
    FieldCount { at: Place, found: u64, expected: u64 },
    #[error("{at}: not UTF-8 text")]
    NotText { at: Place },
    #[error("{at}: {source}")]
    Csv { at: Place, source: csv::Error },
    #[error("{at}: not JSON, at column {}: {source}", .source.column())]
    Json { at: Place, source: serde_json::Error },
    #[error("{at}: an object with named fields was expected, this is {found}")]
    NotAnObject { at: Place, found: &'static str },
    #[error("{at}: no field `{field}`; the record has {}", list(.has))]
    NoKey { at: Place, field: String, has: Vec<String> },
    #[error("{at}: field `{field}` is {found}, which is no key")]
    NotAKey { at: Place, field: String, found: &'static str },
    /// The file can be read no further.
    #[error("{at}: cannot read on: {source}")]
    Unreadable { at: Place, source: io::Error },
}

impl BadRecord {
    /// Whether no more records follow.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }
}

/// Why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadInput {
    #[error("cannot open {path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("cannot tell the format of {0} from its name; pass --format-in csv, json or jsonl")]
    UnknownFormat(String),
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{path} is not JSON: {source}")]
    NotJson { path: String, source: serde_json::Error },
    #[error("{path} holds {found}; an array of objects, or an object with one such array in it, was expected")]
    NoArray { path: String, found: String },
    #[error("the first line of {path} is no list of field names: {source}")]
    Headings { path: String, source: csv::Error },
    #[error("the first line of {path} names the field `{field}` twice")]
    DuplicateHeading { path: String, field: String },
}

/// The records of a file, in its order.
pub(crate) struct Records {
    /// How many there are, where that is known beforehand.
    pub(crate) total: Option<u64>,
    items: Box<dyn Iterator<Item = Result<Record, BadRecord>>>,
}

impl Iterator for Records {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next()
    }
}

impl InputFormat {
    /// The format that the file's name ends with.
    pub(crate) fn of(path: &Path) -> Result<Self, BadInput> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some(_) | None => Err(BadInput::UnknownFormat(path.display().to_string())),
        }
    }
}

/// Opens a file for its records.
pub(crate) fn open(path: &Path, format: InputFormat) -> Result<Records, BadInput> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| BadInput::Open { path: name.clone(), source })?;
    read(name, BufReader::new(file), format)
}

/// The records of what `input` yields; `path` is what messages call it.
pub(crate) fn read(path: String, input: impl BufRead + 'static, format: InputFormat) -> Result<Records, BadInput> {
    match format {
        InputFormat::Csv => csv_records(path, input),
        InputFormat::Json => json_records(path, input),
        InputFormat::Jsonl => Ok(Records { total: None, items: Box::new(JsonLines { input, line: 0, ended: false }) }),
    }
}

impl Record {
    /// The text of the field that is to be the key: a text that is not empty, a number, or a truth value.
    pub(crate) fn key(&self, field: &str) -> Result<String, BadRecord> {
        let at = self.at;
        match self.fields.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(Value::Bool(truth)) => Ok(truth.to_string()),
            Some(other) => Err(BadRecord::NotAKey { at, field: field.to_owned(), found: kind(other) }),
            None => {
                let has = self.fields.keys().cloned().collect();
                Err(BadRecord::NoKey { at, field: field.to_owned(), has })
            }
        }
    }
}

fn csv_records(path: String, input: impl Read + 'static) -> Result<Records, BadInput> {
    let mut reader = csv::Reader::from_reader(input);
    let headings = match reader.headers() {
        Ok(headings) => headings.clone(),
        Err(source) => return Err(BadInput::Headings { path, source }),
    };
    let mut names = HashSet::new();
    if let Some(field) = headings.iter().find(|name| !names.insert(*name)) {
        return Err(BadInput::DuplicateHeading { field: field.to_owned(), path });
    }
    let mut ended = false;
    let items = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut row = csv::StringRecord::new();
        let before = Place::Line(reader.position().line());
        match reader.read_record(&mut row) {
            Ok(false) => None,
            Ok(true) => {
                let at = row.position().map_or(before, |p| Place::Line(p.line()));
                let text = |(name, value): (&str, &str)| (name.to_owned(), Value::from(value));
                Some(Ok(Record { at, fields: headings.iter().zip(&row).map(text).collect() }))
            }
            Err(source) => {
                let at = source.position().map_or(before, |p| Place::Line(p.line()));
                ended = source.is_io_error();
                Some(Err(bad_row(at, source)))
            }
        }
    });
    Ok(Records { total: None, items: Box::new(items) })
}

fn bad_row(at: Place, source: csv::Error) -> BadRecord {
    match source.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            BadRecord::FieldCount { at, found: *len, expected: *expected_len }
        }
        csv::ErrorKind::Utf8 { .. } => BadRecord::NotText { at },
        csv::ErrorKind::Io(_) => BadRecord::Unreadable { at, source: source.into() },
        _ => BadRecord::Csv { at, source },
    }
}

struct JsonLines<R> {
    input: R,
    line: u64,
    ended: bool,
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Record, BadRecord>;

    /// The next line that is not blank.
    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        while !self.ended {
            bytes.clear();
            self.line += 1;
            let at = Place::Line(self.line);
            match self.input.read_until(b'\n', &mut bytes) {
                Ok(0) => self.ended = true,
                Ok(_) if bytes.trim_ascii().is_empty() => {}
                Ok(_) => {
                    let value = serde_json::from_slice(&bytes).map_err(|source| BadRecord::Json { at, source });
                    return Some(value.and_then(|v| object(at, v)));
                }
                Err(source) => {
                    self.ended = true;
                    return Some(Err(BadRecord::Unreadable { at, source }));
                }
            }
        }
        None
    }
}

fn json_records(path: String, mut input: impl Read) -> Result<Records, BadInput> {
    let mut bytes = Vec::new();
    if let Err(source) = input.read_to_end(&mut bytes) {
        return Err(BadInput::Unreadable { path, source });
    }
    let document = match serde_json::from_slice(&bytes) {
        Ok(document) => document,
        Err(source) => return Err(BadInput::NotJson { path, source }),
    };
    let array = match array_in(document) {
        Ok(array) => array,
        Err(found) => return Err(BadInput::NoArray { path, found }),
    };
    let total = u64::try_from(array.len()).ok();
    let items = (1..).zip(array).map(|(n, value)| object(Place::Record(n), value));
    Ok(Records { total, items: Box::new(items) })
}

/// The array that a document is, or that is the only array among its members; else what the document holds.
fn array_in(document: Value) -> Result<Vec<Value>, String> {
    let members = match document {
        Value::Array(array) => return Ok(array),
        Value::Object(members) => members,
        other => return Err(kind(&other).to_owned()),
    };
    let mut arrays: Vec<_> = members
        .into_iter()
        .filter_map(|(_, value)| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
        .collect();
    match (arrays.pop(), arrays.len()) {
        (Some(array), 0) => Ok(array),
        (None, _) => Err("an object without an array in it".to_owned()),
        (Some(_), others) => Err(format!("an object with {} arrays in it", others + 1)),
    }
}

fn object(at: Place, value: Value) -> Result<Record, BadRecord> {
    match value {
        Value::Object(fields) => Ok(Record { at, fields }),
        other => Err(BadRecord::NotAnObject { at, found: kind(&other) }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "an empty text",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no fields".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is read: for each record its place and content, or the message.
    fn all(text: &'static [u8], format: InputFormat) -> Vec<Result<(Place, Value), String>> {
        let records = read("file".into(), text, format).unwrap();
        records.map(|r| r.map(|r| (r.at, Value::Object(r.fields))).map_err(|e| e.to_string())).collect()
    }

    fn refused(text: &'static [u8], format: InputFormat) -> String {
        read("file".into(), text, format).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn csv_goes_on_after_a_bad_line() {
        let found = all(b"id,name\nPT,Portugal\nES\nFR,\"Fran\nce\"\nDE,\xff\nIT,Italy\n", InputFormat::Csv);
        assert_eq!(found[0], Ok((Place::Line(2), json!({ "id": "PT", "name": "Portugal" }))));
        assert_eq!(found[1], Err("line 3: 1 fields, the first line names 2".into()));
        assert_eq!(found[2], Ok((Place::Line(4), json!({ "id": "FR", "name": "Fran\nce" }))));
        assert_eq!(found[3], Err("line 6: not UTF-8 text".into()));
        assert_eq!(found[4], Ok((Place::Line(7), json!({ "id": "IT", "name": "Italy" }))));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn csv_headings_must_differ() {
        assert!(refused(b"id,id\n1,2\n", InputFormat::Csv).contains("`id` twice"));
        assert!(refused(b"id,\xff\n", InputFormat::Csv).contains("first line"));
        assert!(all(b"", InputFormat::Csv).is_empty());
    }

    #[test]
    fn json_lines_go_on_after_a_bad_line() {
        let found = all(b"{\"id\":1}\n\n{\"id\":\n[1]\n{\"id\":2}", InputFormat::Jsonl);
        assert_eq!(found[0], Ok((Place::Line(1), json!({ "id": 1 }))));
        assert!(found[1].as_ref().unwrap_err().starts_with("line 3: not JSON"), "{found:?}");
        assert_eq!(found[2], Err("line 4: an object with named fields was expected, this is an array".into()));
        assert_eq!(found[3], Ok((Place::Line(5), json!({ "id": 2 }))));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_json_document_is_an_array_or_holds_one() {
        let expected = vec![Ok((Place::Record(1), json!({ "a": 1 }))), Ok((Place::Record(2), json!({ "a": 2 })))];
        assert_eq!(all(br#"[{"a":1},{"a":2}]"#, InputFormat::Json), expected);
        assert_eq!(all(br#"{"3166-1":[{"a":1},{"a":2}]}"#, InputFormat::Json), expected);
        assert_eq!(all(br#"{"v":1,"data":[{"a":1},{"a":2}]}"#, InputFormat::Json), expected);
        assert_eq!(read("file".into(), &b"[{},{}]"[..], InputFormat::Json).unwrap().total, Some(2));
        assert!(all(b"[7]", InputFormat::Json)[0].as_ref().unwrap_err().starts_with("record 1:"));
    }

    #[test]
    fn other_json_documents_are_refused_with_what_they_hold() {
        assert!(refused(b"{", InputFormat::Json).contains("not JSON"));
        assert!(refused(b"7", InputFormat::Json).contains("a number"));
        assert!(refused(br#"{"a":1}"#, InputFormat::Json).contains("without an array"));
        assert!(refused(br#"{"a":[],"b":[]}"#, InputFormat::Json).contains("2 arrays"));
    }

    #[test]
    fn keys_are_texts_numbers_or_truth_values() {
        let fields = json!({ "t": "x", "n": 7, "b": true, "e": "", "z": null, "o": {} });
        let Value::Object(fields) = fields else { panic!("an object") };
        let record = Record { at: Place::Line(3), fields };
        let key = |field| record.key(field).map_err(|e| e.to_string());
        assert_eq!((key("t"), key("n"), key("b")), (Ok("x".into()), Ok("7".into()), Ok("true".into())));
        for field in ["e", "z", "o"] {
            assert!(key(field).unwrap_err().starts_with("line 3: field"), "{field}");
        }
        assert_eq!(key("id"), Err("line 3: no field `id`; the record has t, n, b, e, z, o".into()));
    }

    /// A file on a disk that fails.
    struct Broken(&'static [u8]);

    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(io::Error::other("the disk is gone")),
                n => Ok(n),
            }
        }
    }

    #[test]
    fn a_read_error_ends_the_records() {
        for (format, text) in [(InputFormat::Csv, &b"a\n1\n"[..]), (InputFormat::Jsonl, &b"{}\n"[..])] {
            let found: Vec<_> = read("file".into(), BufReader::new(Broken(text)), format).unwrap().collect();
            assert_eq!(found.len(), 2, "{format:?}");
            assert!(found[0].is_ok() && found[1].as_ref().is_err_and(BadRecord::is_fatal), "{format:?}: {found:?}");
        }
    }

    #[test]
    fn the_name_tells_the_format() {
        let of = |name: &str| InputFormat::of(Path::new(name)).ok();
        assert_eq!(of("a.csv"), Some(InputFormat::Csv));
        assert_eq!(of("a.JSON"), Some(InputFormat::Json));
        assert_eq!(of("a.ndjson"), Some(InputFormat::Jsonl));
        assert_eq!((of("a"), of("a.txt")), (None, None));
    }
}

//! The file as a tree of nodes, each with its place in the text.
//!
//! The YAML library stops at its first error and hides keys that are given twice. So it is
//! only asked for the tree here; what the tree means is read elsewhere, and every problem is
//! found in one go. Invariants:
//!
//! 1. a map keeps all its pairs in the order of the file, duplicates too;
//! 2. a scalar keeps the text of the file and whether it was quoted; nothing is guessed;
//! 3. size, depth, nodes and alias replay are bounded, so a small text stays a small tree.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Location, Options, Spanned};

use super::problem::{At, Problems, Report};

/// Largest text that is read, bytes.
const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting; the deepest key of the configuration lies at 4.
const MAX_DEPTH: usize = 16;
/// Most maps, lists and scalars of one file.
const MAX_NODES: usize = 20_000;
/// Most events that aliases may add.
const MAX_REPLAYED: usize = 10_000;

/// Where something stands in the text; line and column count from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    /// Characters to underline; at least 1.
    pub(super) width: u32,
}

/// A scalar: the text of the file, without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) quoted: bool,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing at all, `~` or `null`.
    Empty,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A key of a map and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) root: Node,
}

impl Document {
    /// Builds the tree.
    ///
    /// # Errors
    /// One problem: the text is too large, is not YAML, or grows too much by its aliases.
    pub(super) fn parse(file: &str, text: &str) -> Result<Document, Problems> {
        let mut report = Report::new(file, text);
        if text.len() > MAX_BYTES {
            let message =
                format!("the file has {} bytes; expected at most {MAX_BYTES}", text.len());
            report.error(&At::start(), message);
            return Err(report.into_problems());
        }
        // A YAML 1.2 reader is told to start with a byte order mark by some editors.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // The library drops a duplicate in one of two ways. It hands out every pair under
        // "last wins", unless a key is an integer; so what is missing there is looked up
        // in the tree under "first wins".
        let trees = tree(text, DuplicateKeyPolicy::LastWins)
            .and_then(|last| Ok((last, tree(text, DuplicateKeyPolicy::FirstWins)?)));
        match trees {
            Ok((last, first)) => Ok(Document { root: union(&first, &last, text) }),
            Err(error) => {
                report.error(&At::place(place_of(error.location(), text)), complaint(&error));
                Err(report.into_problems())
            }
        }
    }
}

fn tree(text: &str, duplicates: DuplicateKeyPolicy) -> Result<Spanned<Raw>, serde_yaml::Error> {
    let options: Options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_documents: 1,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED,
            max_replay_stack_depth: MAX_DEPTH,
        },
        duplicate_keys: duplicates,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options(text, options)
}

/// The library's words without the place, which is printed in front.
fn complaint(error: &serde_yaml::Error) -> String {
    let words = error.without_snippet().to_string();
    let words = words.lines().next().unwrap_or_default();
    let words = words.find(" at line ").map_or(words, |end| &words[..end]);
    let words = words.trim_end_matches([':', ',']);
    if words.contains("Documents") {
        return "a second document starts here; expected one".to_owned();
    }
    if words.contains("recursion limit") || words.contains("Depth") {
        return format!("nested too deeply; expected at most {MAX_DEPTH} levels");
    }
    if words.contains("alias") && words.contains("limit") {
        return "the aliases repeat too much; expected the values themselves".to_owned();
    }
    if words.contains("budget breached") {
        return format!("too much for one file; expected at most {MAX_NODES} values");
    }
    let hint = match words.contains("illegal placement") {
        true => "; is a bracket or a quote above not closed?",
        false => "",
    };
    format!("this is not YAML that can be read: {words}{hint}")
}

/// What the library hands out; [`Node`] is made of it.
enum Raw {
    Empty,
    /// A boolean or number: its text is taken from the file.
    Literal,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<Pair>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Literal)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Literal)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Literal)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Literal)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            map.push(pair);
        }
        Ok(Raw::Map(map))
    }
}

/// One tree with the pairs of both, in the order of the file.
fn union(first: &Spanned<Raw>, last: &Spanned<Raw>, text: &str) -> Node {
    let place = place_of(Some(last.referenced), text);
    let value = match (&first.value, &last.value) {
        (Raw::List(a), Raw::List(b)) => {
            Value::List(a.iter().zip(b).map(|(a, b)| union(a, b, text)).collect())
        }
        (Raw::Map(a), Raw::Map(b)) => Value::Map(union_of_pairs(a, b, text)),
        (_, Raw::Empty) => Value::Empty,
        _ => Value::Scalar(read_scalar(last, text)),
    };
    Node { place, value }
}

type Pair = (Spanned<Raw>, Spanned<Raw>);

fn union_of_pairs(first: &[Pair], last: &[Pair], text: &str) -> Vec<(Key, Node)> {
    let identity = |key: &Spanned<Raw>| (key.referenced.line(), key.referenced.column(), byte(key));
    let mut pairs = BTreeMap::new();
    for (key, value) in first {
        pairs.insert(identity(key), (key, value, value));
    }
    for (key, value) in last {
        let pair = pairs.entry(identity(key)).or_insert((key, value, value));
        pair.2 = value;
    }
    pairs.into_values().map(|(key, a, b)| (read_key(key, text), union(a, b, text))).collect()
}

fn byte<T>(node: &Spanned<T>) -> usize {
    node.defined.span().byte_offset().unwrap_or(0) as usize
}

fn read_scalar(node: &Spanned<Raw>, text: &str) -> Scalar {
    let start = byte(node);
    let end = start + node.defined.span().byte_len().unwrap_or(0) as usize;
    let source = text.get(start..end).unwrap_or_default();
    match &node.value {
        Raw::Text(words) => {
            Scalar { text: words.clone(), quoted: source.starts_with(['"', '\'', '|', '>']) }
        }
        _ => Scalar { text: source.trim().to_owned(), quoted: false },
    }
}

fn read_key(node: &Spanned<Raw>, text: &str) -> Key {
    let key = match &node.value {
        Raw::Empty => String::new(),
        Raw::List(_) | Raw::Map(_) => "?".to_owned(),
        _ => read_scalar(node, text).text,
    };
    Key { text: key, place: place_of(Some(node.referenced), text) }
}

fn place_of(location: Option<Location>, text: &str) -> Place {
    let known = location.filter(|l| l.line() > 0);
    let (line, column) = known.map_or((1, 1), |l| (l.line() as u32, l.column().max(1) as u32));
    // A span may cover several lines; only its first is underlined.
    let width = known.map_or(1, |l| {
        let start = l.span().byte_offset().unwrap_or(0) as usize;
        let end = start + l.span().byte_len().unwrap_or(0) as usize;
        let covered = text.get(start..end).unwrap_or_default();
        covered.lines().next().unwrap_or_default().trim_end().chars().count() as u32
    });
    Place { line, column, width: width.max(1) }
}

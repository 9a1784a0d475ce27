//! Walking the tree: a cursor knows the path it stands at and which keys may follow.
//!
//! Reading never stops at a problem. A function answers `None` where there is no usable
//! value and has then either added a problem, or the key is absent and need not be there.

use super::keys;
use super::problem::{At, Report};
use super::raw::{Key, Node, Place, Value};
use super::scalar::shown;

/// A value with its path and place.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    node: &'a Node,
    /// The same path with `<name>` for names that the operator chose; see [`keys::KEYS`].
    pattern: String,
    at: At,
    /// The key of this value, else the value; what is missing below is reported there.
    head: Place,
}

/// A value that was read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// The pairs of a map whose keys are known.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    parent: At,
    pairs: Vec<(&'a str, Cursor<'a>)>,
}

impl<'a> Cursor<'a> {
    /// The top of the file.
    pub(super) fn root(node: &'a Node) -> Cursor<'a> {
        let at = At { path: String::new(), place: node.place };
        Cursor { node, pattern: String::new(), at, head: node.place }
    }

    /// Where the value stands.
    pub(super) fn at(&self) -> &At {
        &self.at
    }

    /// Where the key of the value stands.
    pub(super) fn head(&self) -> At {
        At { path: self.at.path.clone(), place: self.head }
    }

    /// The pairs of a map; unknown, planned and repeated keys are reported.
    pub(super) fn fields(&self, report: &mut Report<'_>) -> Option<Fields<'a>> {
        let pairs = self.pairs(report, "keys and values")?;
        let known = || keys::below(&self.pattern).filter(|key| !key.starts_with('<'));
        let mut kept = Vec::with_capacity(pairs.len());
        for (key, node) in pairs {
            let child = self.child(key, node, &key.text);
            if keys::below(&self.pattern).any(|known| known == key.text) && is_word(&key.text) {
                kept.push((key.text.as_str(), child));
            } else if keys::is_planned(&self.pattern, &key.text) {
                report.error(&child.head(), "this key is not supported in this version");
            } else if key.text == "<<" {
                report.error(&child.head(), "merge keys are not supported; write the keys out");
            } else {
                let mut message = "unknown key; ".to_owned();
                match keys::nearest(&key.text, known()) {
                    Some(name) => message += &format!("did you mean `{name}`?"),
                    None => message += &format!("expected one of: {}", joined(known())),
                }
                report.error(&child.head(), message);
            }
        }
        Some(Fields { parent: self.head(), pairs: kept })
    }

    /// The pairs of a map whose keys the operator chose; `stand_in` is `<name>` or `<port>`.
    pub(super) fn entries(
        &self,
        report: &mut Report<'_>,
        stand_in: &str,
    ) -> Option<Vec<(&'a Key, Cursor<'a>)>> {
        let pairs = self.pairs(report, "names, each with its keys")?;
        Some(pairs.into_iter().map(|(key, node)| (key, self.child(key, node, stand_in))).collect())
    }

    /// Whether the value has keys of its own.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// The items of a list.
    pub(super) fn items(&self, report: &mut Report<'_>) -> Option<Vec<Cursor<'a>>> {
        let Value::List(list) = &self.node.value else {
            self.wrong_kind(report, "a list");
            return None;
        };
        let item = |(i, node): (usize, &'a Node)| Cursor {
            node,
            pattern: format!("{}[]", self.pattern),
            at: At { path: format!("{}[{i}]", self.at.path), place: node.place },
            head: node.place,
        };
        Some(list.iter().enumerate().map(item).collect())
    }

    /// The text of a scalar and whether it was quoted.
    pub(super) fn text(&self, report: &mut Report<'_>, expected: &str) -> Option<(&'a str, bool)> {
        match &self.node.value {
            Value::Scalar(scalar) => Some((&scalar.text, scalar.quoted)),
            _ => {
                self.wrong_kind(report, expected);
                None
            }
        }
    }

    /// A scalar that `parse` understands.
    pub(super) fn parse<T>(
        &self,
        report: &mut Report<'_>,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (text, _) = self.text(report, expected)?;
        parse(text).map_err(|message| report.error(&self.at, message)).ok()
    }

    /// As [`Cursor::parse`], with its place.
    pub(super) fn located<T>(
        &self,
        report: &mut Report<'_>,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let value = self.parse(report, expected, parse)?;
        Some(Located { value, at: self.at.clone() })
    }

    /// One of `words`; `planned` words are refused by name.
    pub(super) fn choice(
        &self,
        report: &mut Report<'_>,
        words: &[&'static str],
        planned: &[&str],
    ) -> Option<&'static str> {
        let all = match words {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            _ => words.concat(),
        };
        let text = self.text(report, &all)?.0;
        let expected = format!("expected {all}");
        let found = words.iter().find(|word| **word == text);
        if found.is_none() {
            let shown = shown(text);
            report.error(
                &self.at,
                match keys::nearest(text, words.iter().copied()) {
                    _ if planned.contains(&text) => {
                        format!("{shown} is not supported in this version; {expected}")
                    }
                    Some(word) => format!("{shown} is not a choice; did you mean `{word}`?"),
                    None => format!("{shown} is not a choice; {expected}"),
                },
            );
        }
        found.copied()
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, report: &mut Report<'_>) -> Option<bool> {
        self.parse(report, "true or false", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{} is not a choice; expected true or false", shown(text))),
        })
    }

    /// A whole number from `first` to `last`.
    pub(super) fn whole(&self, report: &mut Report<'_>, first: u64, last: u64) -> Option<u64> {
        self.parse(report, "a whole number", |text| match super::scalar::whole(text) {
            Some(n) if (first..=last).contains(&n) => Ok(n),
            Some(n) => Err(format!("{n} is out of range; expected {first} to {last}")),
            None => {
                let shown = shown(text);
                Err(format!("{shown} is not a whole number; expected {first} to {last}"))
            }
        })
    }

    fn pairs(&self, report: &mut Report<'_>, expected: &str) -> Option<Vec<(&'a Key, &'a Node)>> {
        let Value::Map(pairs) = &self.node.value else {
            self.wrong_kind(report, expected);
            return None;
        };
        let mut kept: Vec<(&Key, &Node)> = Vec::with_capacity(pairs.len());
        let mut lines = std::collections::HashMap::new();
        for (key, node) in pairs {
            if let Some(line) = lines.get(key.text.as_str()) {
                let at = self.child(key, node, &key.text).head();
                report.error(&at, format!("this key was already given in line {line}"));
                continue;
            }
            lines.insert(key.text.as_str(), key.place.line);
            kept.push((key, node));
        }
        Some(kept)
    }

    fn child(&self, key: &Key, node: &'a Node, pattern: &str) -> Cursor<'a> {
        let name = match key.text.as_str() {
            "" => "``".to_owned(),
            text => shown(text).trim_matches('`').to_owned(),
        };
        let join = |path: &str, name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        Cursor {
            node,
            pattern: join(&self.pattern, pattern),
            at: At { path: join(&self.at.path, &name), place: node.place },
            head: key.place,
        }
    }

    fn wrong_kind(&self, report: &mut Report<'_>, expected: &str) {
        let found = match &self.node.value {
            Value::Empty => {
                return report.error(&self.head(), format!("has no value; expected {expected}"));
            }
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "keys and values",
        };
        report.error(&self.at, format!("this is {found}; expected {expected}"));
    }
}

impl<'a> Fields<'a> {
    /// The value of `key`, if it is given.
    pub(super) fn get(&self, key: &str) -> Option<&Cursor<'a>> {
        self.pairs.iter().find(|(name, _)| *name == key).map(|(_, cursor)| cursor)
    }

    /// The value of `key`; its absence is reported.
    pub(super) fn required(&self, report: &mut Report<'_>, key: &str) -> Option<&Cursor<'a>> {
        let found = self.get(key);
        if found.is_none() {
            report.error(&self.parent, format!("the key `{key}` is missing"));
        }
        found
    }

    /// Where the map stands.
    pub(super) fn at(&self) -> &At {
        &self.parent
    }
}

/// Whether a key is a word of ours and not a stand-in of [`keys::KEYS`].
fn is_word(key: &str) -> bool {
    !key.starts_with('<')
}

fn joined<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

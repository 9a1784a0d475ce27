//! A problem of the configuration: what is wrong, where, and what was expected.
//!
//! [`Report`] collects problems while the tree is read; nothing stops at the first one.

use std::fmt;

use super::raw::Place;

/// Most characters of a source line that are printed under a problem.
const SNIPPET_COLUMNS: usize = 100;

/// Whether a configuration with this problem may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is used; the operator should know.
    Warning,
}

/// One problem and its place. It prints as `file:line:column: error: path: message`, followed
/// by the line of the file with the place underlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    severity: Severity,
    file: String,
    place: Place,
    path: String,
    message: String,
    source: Option<String>,
    hint: Option<String>,
}

impl Problem {
    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The file, under the name that the caller gave.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Line, counted from 1.
    pub fn line(&self) -> u32 {
        self.place.line
    }

    /// Column in characters, counted from 1.
    pub fn column(&self) -> u32 {
        self.place.column
    }

    /// Path of the key, `pools.a.allocation.block-size`; empty for the file as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong and what was expected.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Place { line, column, .. } = self.place;
        write!(f, "{}:{line}:{column}: {kind}: ", self.file)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        let Some(source) = &self.source else { return Ok(()) };
        let (shown, indent, width) = crop(source, self.place);
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        write!(f, "\n{gutter} |\n{number} | {shown}\n{gutter} | ")?;
        write!(f, "{}{}", " ".repeat(indent), "^".repeat(width))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " {hint}"))
    }
}

/// The part of a line that is shown, the characters before the place in it, and its width.
fn crop(source: &str, place: Place) -> (String, usize, usize) {
    let line: Vec<char> = source.trim_end().chars().collect();
    let start = (place.column as usize - 1).min(line.len());
    let first = if start < SNIPPET_COLUMNS * 3 / 4 { 0 } else { start - SNIPPET_COLUMNS / 2 };
    let last = line.len().min(first + SNIPPET_COLUMNS);
    let plain = |c: &char| if c.is_control() { ' ' } else { *c };
    let shown: String = line[first..last].iter().map(plain).collect();
    let width = (place.width as usize).min(last.saturating_sub(start)).max(1);
    (shown.trim_end().to_owned(), start - first, width)
}

/// Every problem of one file, in order of line and column. Never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// In order of line and column.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|p| p.severity == Severity::Error).count()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// A key or value of the file: its path and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) path: String,
    pub(super) place: Place,
}

impl At {
    /// The file as a whole.
    pub(super) fn start() -> At {
        At::place(Place { line: 1, column: 1, width: 1 })
    }

    /// A place outside of any key.
    pub(super) fn place(place: Place) -> At {
        At { path: String::new(), place }
    }
}

/// Collects the problems of one file.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    list: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Report<'a> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Report { file, lines: text.lines().collect(), list: Vec::new() }
    }

    pub(super) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Error, at, message.into(), None);
    }

    /// An error with a few words behind the underlined place.
    pub(super) fn error_with_hint(&mut self, at: &At, message: String, hint: String) {
        self.add(Severity::Error, at, message, Some(hint));
    }

    pub(super) fn warning(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Warning, at, message.into(), None);
    }

    /// Problems so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    /// What was collected, in order.
    pub(super) fn into_problems(self) -> Problems {
        let mut list = self.list;
        list.sort_by(|a, b| {
            let key = |p: &Problem| (p.place.line, p.place.column);
            key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
        });
        list.dedup();
        Problems { list }
    }

    /// Warnings alone, for a configuration that is used.
    pub(super) fn into_warnings(self) -> Vec<Problem> {
        self.into_problems().list
    }

    fn add(&mut self, severity: Severity, at: &At, message: String, hint: Option<String>) {
        let line = self.lines.get(at.place.line as usize - 1);
        let source = line.filter(|l| !l.trim().is_empty()).map(|l| (*l).to_owned());
        self.list.push(Problem {
            severity,
            file: self.file.to_owned(),
            place: at.place,
            path: at.path.clone(),
            message,
            source,
            hint,
        });
    }
}

//! The files of the project, and Rust text without what is not code.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file: its path from the top of the project, and its text.
#[derive(Debug, Clone)]
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn new(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }
}

/// The top of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file that belongs to the project, in order of path.
pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&project(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "only {} files below {}", files.len(), project().display());
    files
}

fn collect(directory: &Path, prefix: &str, files: &mut Vec<File>) {
    const NOT_OURS: [&str; 3] = ["target", ".git", "__pycache__"];
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let (path, kind) = (format!("{prefix}{name}"), entry.file_type().expect("a type"));
        // In a linked work tree `.git` is a file.
        if NOT_OURS.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() {
            // What is not UTF-8 is a capture.
            if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(File { path, text });
            }
        }
    }
}

/// Rust text with comments and literals blanked; every byte that stays keeps its place.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = not_code(bytes, at);
        if end == at {
            out.push(if bytes[at].is_ascii() { bytes[at] } else { b' ' });
            at += 1;
        }
        for byte in &bytes[at.min(end)..end] {
            out.push(if *byte == b'\n' { b'\n' } else { b' ' });
        }
        at = at.max(end);
    }
    String::from_utf8(out).expect("ASCII")
}

/// Where the comment or literal ends that starts at `at`; `at` if none does.
fn not_code(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        return find(bytes, at, b"\n").unwrap_or(bytes.len());
    }
    if rest.starts_with(b"/*") {
        let (mut depth, mut end) = (1, at + 2);
        while depth > 0 && end < bytes.len() {
            let step = if bytes[end..].starts_with(b"/*") {
                depth += 1;
                2
            } else if bytes[end..].starts_with(b"*/") {
                depth -= 1;
                2
            } else {
                1
            };
            end += step;
        }
        return end.min(bytes.len());
    }
    if !word_before && (rest[0] == b'r' || rest.starts_with(b"br")) {
        let start = at + rest.iter().position(|b| *b == b'r').unwrap_or(0) + 1;
        let hashes = bytes[start..].iter().take_while(|b| **b == b'#').count();
        if bytes.get(start + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let end = find(bytes, start + hashes + 1, &close);
            return end.map_or(bytes.len(), |end| end + close.len());
        }
    }
    if rest[0] == b'"' {
        let mut end = at + 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        return (end + 1).min(bytes.len());
    }
    if rest[0] == b'\'' && rest.len() > 2 {
        // A character, not a lifetime: escaped, or closed right after one character.
        let length = match rest[1] {
            b'\\' => find(rest, 3, b"'").map(|end| end + 1),
            first if first.is_ascii() => (rest[2] == b'\'').then_some(3),
            _ => find(&rest[..rest.len().min(6)], 2, b"'").map(|end| end + 1),
        };
        return at + length.unwrap_or(0);
    }
    at
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(what.len()).position(|window| window == what).map(|place| from + place)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands as a whole word.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|before| text.as_bytes()[before]);
        let after = text.as_bytes().get(at + word.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The line number of a place.
pub fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Whether the whole file is for tests.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/testing/")
}

/// The parts of a file that only tests see.
fn test_parts(file: &File, code: &str) -> Vec<Range<usize>> {
    if is_test_file(&file.path) {
        return vec![Range { start: 0, end: code.len() }];
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        if parts.last().is_some_and(|part| part.contains(&start)) {
            continue;
        }
        let body = start + attribute.len();
        let opened = code[body..].find(['{', ';']).map_or(code.len(), |place| body + place);
        let mut depth = 0;
        let end = code[opened..].char_indices().find(|(_, char)| {
            depth += i32::from(*char == '{') - i32::from(*char == '}');
            depth == 0
        });
        parts.push(start..end.map_or(code.len(), |(place, _)| opened + place + 1));
    }
    parts
}

/// Code without tests: blanked, places kept.
pub fn product(file: &File) -> String {
    let mut code = code(&file.text);
    for part in test_parts(file, &code) {
        let blank: String =
            code[part.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(part, &blank);
    }
    code
}

/// The text of the tests, literals and all.
pub fn tests(file: &File) -> String {
    let parts = test_parts(file, &code(&file.text));
    parts.into_iter().map(|part| &file.text[part]).collect::<Vec<_>>().join("\n")
}

/// All paths that code names, each from `crate` or from the name of a crate; `path` is the file's.
pub fn paths(path: &str, code: &str) -> BTreeSet<String> {
    let module = module(path);
    let mut found = BTreeSet::new();
    for at in words(code, "use") {
        let statement = &code[at + 3..];
        expand("", &statement[..statement.find(';').unwrap_or(0)], &mut found);
    }
    let not_path = |char: char| !(char.is_ascii_alphanumeric() || char == '_' || char == ':');
    for run in code.split(not_path).filter(|run| run.contains("::")) {
        found.insert(run.trim_matches(':').to_owned());
    }
    found.into_iter().map(|path| resolve(&module, &path)).collect()
}

/// Takes the braces out of a `use`.
fn expand(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let Some(open) = tree.find('{') else {
        let leaf = tree.split(" as ").next().unwrap_or_default().trim();
        let whole = format!("{prefix}{leaf}");
        found.insert(whole.trim_end_matches("::self").to_owned());
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, char) in inside.char_indices().chain([(inside.len(), ',')]) {
        depth += i32::from(char == '{') - i32::from(char == '}');
        if char == ',' && depth == 0 {
            if !inside[start..at].trim().is_empty() {
                expand(&prefix, &inside[start..at], found);
            }
            start = at + 1;
        }
    }
}

/// The module of a file: `crate::table::mapping`.
fn module(path: &str) -> Vec<String> {
    let inside = path.split("src/").nth(1).unwrap_or_default().trim_end_matches(".rs");
    let parts = inside.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    ["crate"].into_iter().chain(parts).map(str::to_owned).collect()
}

fn resolve(module: &[String], path: &str) -> String {
    let ups = path.split("::").take_while(|part| *part == "super").count();
    let own = usize::from(path.starts_with("self::"));
    if ups + own == 0 {
        return path.to_owned();
    }
    let base = &module[..module.len().saturating_sub(ups)];
    let rest = path.split("::").skip(ups + own);
    base.iter().map(String::as_str).chain(rest).collect::<Vec<_>>().join("::")
}

/// Whether `path` is `prefix` or lies below it.
pub fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "a // b\n/* c /* d */ e */ f \"g\\\"h\" r#\"i\"j\"# k '\\'' l 'm' n<'o> 'é' p";
        let kept: String = code(text).split_whitespace().collect();
        assert_eq!(kept, "afkln<'o>p");
        assert_eq!(code(text).matches('\n').count(), 1);
    }

    #[test]
    fn tests_are_told_from_the_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n#[cfg(test)]\nmod more {\n\
                    fn c() { \"}\"; }\n}\nfn d() {}\n";
        let file = File::new("cgnat-core/src/x.rs", text);
        let kept: String = product(&file).split_whitespace().collect();
        assert_eq!(kept, "fna(){}fnb(){}fnd(){}");
        assert!(super::tests(&file).contains("\"}\""));
        assert!(product(&File::new("tests/tests/x.rs", text)).trim().is_empty());
    }

    #[test]
    fn paths_are_found_in_groups_and_in_expressions() {
        let text = "use crate::{a::b, c::{self, d as e}};\nuse super::f;\nfn g() { crate::h::i() }";
        let found = paths("cgnat-core/src/table/mapping.rs", &code(text));
        for path in ["crate::a::b", "crate::c", "crate::c::d", "crate::table::f", "crate::h::i"] {
            assert!(found.contains(path), "no {path} in {found:?}");
        }
        assert!(is_below("crate::table::slab", "crate::table"));
        assert!(!is_below("crate::tables", "crate::table"));
    }
}

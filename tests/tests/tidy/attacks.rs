//! docs/attacks.md and the tests that it names.

use std::collections::BTreeSet;

use super::documents::rows;
use super::source::{File, code};

/// Attacks on resources, attacks on integrity, and how others have failed: each from 1 on.
const KINDS: [(char, usize); 3] = [('A', 12), ('S', 12), ('F', 14)];

/// Names of the functions that a test runner runs, of `files` and of the conformance cases.
pub fn tests_in(files: &[File], cases: &[&str]) -> BTreeSet<String> {
    let mut tests: BTreeSet<String> = cases.iter().map(|name| (*name).to_owned()).collect();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        for after in code(&file.text).split("#[test]").skip(1) {
            let name = after.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
            tests.extend(name.map(str::to_owned));
        }
    }
    tests
}

/// Every number has its row, in order; each row names tests that exist, or says that it waits.
pub fn attacks_are_tested(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = rows(document, "# Attacks, and what becomes of them");
    let numbers =
        KINDS.iter().flat_map(|(kind, last)| (1..=*last).map(move |n| format!("{kind}{n}")));
    let found: Vec<_> = rows.iter().filter_map(|row| row.first().cloned()).collect();
    let mut wrong = Vec::new();
    if !numbers.eq(found.iter().cloned()) {
        wrong.push(format!("docs/attacks.md: the numbers are {found:?}"));
    }
    for row in &rows {
        let [number, _, outcome, names] = &row[..] else {
            wrong.push(format!("docs/attacks.md: not four cells: {row:?}"));
            continue;
        };
        let names: Vec<_> = names.split("`, `").filter(|name| !name.is_empty()).collect();
        if names.is_empty() != outcome.starts_with("Waits: ") {
            wrong.push(format!("docs/attacks.md: {number} names no test, or waits and has one"));
        }
        for name in names.into_iter().filter(|name| !tests.contains(*name)) {
            wrong.push(format!("docs/attacks.md: {number}: there is no test {name}"));
        }
    }
    wrong
}

mod rules {
    use super::*;

    #[test]
    fn an_attack_without_row_or_test_is_found() {
        let mut good =
            String::from("# Attacks, and what becomes of them\n| a | b | c | d |\n| --- |\n");
        for (kind, last) in KINDS {
            for n in 1..=last {
                good += &format!("| {kind}{n} | done | nothing | `one`, `two` |\n");
            }
        }
        let source = "#[test]\nfn one() {}\nfn helper() {}\n";
        let tests = tests_in(&[File::new("a.rs", source), File::new("a.md", source)], &["two"]);
        assert_eq!(tests.len(), 2);
        assert_eq!(attacks_are_tested(&good, &tests), [""; 0]);
        let first = "| A1 | done | nothing | `one`, `two` |\n";
        for bad in [
            String::new(),
            first.replace("two", "helper"),
            first.replace("`one`, `two`", ""),
            first.replace("nothing", "Waits: for something"),
            first.replace("| done ", ""),
        ] {
            assert_eq!(attacks_are_tested(&good.replace(first, &bad), &tests).len(), 1, "{bad}");
        }
        let waits = "| A1 | done | Waits: for something | |\n";
        assert_eq!(attacks_are_tested(&good.replace(first, waits), &tests), [""; 0]);
    }
}

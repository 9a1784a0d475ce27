//! Rules about documents: what they say is what is there.

use std::collections::BTreeSet;

use super::code::{Reason, Unsafe, unsafe_in};
use super::source::{File, code};

/// The rows of the table below `heading`: each cell trimmed, code marks taken off.
pub fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('#'));
    let rows = lines.filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    })
    .collect()
}

/// docs/counters.md has the reasons with their sentences, in order, and no others.
pub fn reasons_are_documented(document: &str, reasons: &[Reason]) -> Vec<String> {
    let rows = rows(document, "## Drops");
    let mut wrong = Vec::new();
    if rows.len() != reasons.len() {
        wrong.push(format!("docs/counters.md: {} rows, {} reasons", rows.len(), reasons.len()));
    }
    for (row, (_, name, sentence)) in rows.iter().zip(reasons) {
        // The first and the last mark of a cell are gone; sentences have them inside only.
        if row.first() != Some(name) || row.get(1) != Some(&sentence.replace("\\\"", "\"")) {
            wrong.push(format!("docs/counters.md: expected {name} and its sentence, has {row:?}"));
        }
    }
    wrong
}

/// docs/counters.md with its table of reasons written anew.
pub fn with_reasons(document: &str, reasons: &[Reason]) -> String {
    let (before, after) = document.split_once("\n## Drops\n").expect("the heading");
    let (head, rows) = after.split_once("\n| --- | --- |\n").expect("the table");
    let rest = rows.find("\n\n").map_or("\n", |end| &rows[end..]);
    let rows = reasons
        .iter()
        .map(|(_, name, sentence)| format!("\n| `{name}` | {} |", sentence.replace("\\\"", "\"")));
    let rows: String = rows.collect();
    format!("{before}\n## Drops\n{head}\n| --- | --- |{rows}{rest}")
}

/// docs/counters.md has every field of a struct of counters, and no other.
pub fn counters_are_documented(
    document: &str,
    source: &str,
    name: &str,
    heading: &str,
) -> Vec<String> {
    let rows = rows(document, heading);
    let documented: BTreeSet<_> = rows.iter().filter_map(|row| row.first()).cloned().collect();
    let source = code(source);
    let body = source.split(&format!("pub struct {name} {{")).nth(1).unwrap_or_default();
    let body = body.split('}').next().unwrap_or_default();
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let fields: BTreeSet<_> =
        fields.filter_map(|field| field.split(':').next()).map(str::to_owned).collect();
    if fields.is_empty() {
        return vec![format!("{name} has no fields")];
    }
    let odd = fields.symmetric_difference(&documented);
    odd.map(|field| format!("docs/counters.md: {heading}: {field} is only in one of the two"))
        .collect()
}

/// docs/unsafe.md has the files with unsafe code and how much there is.
pub fn unsafe_is_documented(document: &str, files: &[File]) -> Vec<String> {
    let counted = files.iter().filter(|file| file.path.ends_with(".rs"));
    let counted = counted.map(|file| (file.path.as_str(), unsafe_in(&code(&file.text))));
    let expected: BTreeSet<String> = counted
        .filter(|(_, count)| *count != Unsafe::default())
        .map(|(path, count)| {
            let Unsafe { blocks, implementations, functions } = count;
            format!("{path}: {blocks} blocks, {implementations} impl, {functions} fn")
        })
        .collect();
    let documented: BTreeSet<String> = rows(document, "# Unsafe code")
        .iter()
        .filter(|row| row.len() == 5)
        .map(|row| format!("{}: {} blocks, {} impl, {} fn", row[0], row[1], row[2], row[3]))
        .collect();
    let missing = expected.difference(&documented);
    let gone = documented.difference(&expected);
    missing
        .map(|row| format!("docs/unsafe.md: should say {row}"))
        .chain(gone.map(|row| format!("docs/unsafe.md: is not so: {row}")))
        .collect()
}

/// Every exit code of the program has a row in each document that lists them.
pub fn exit_codes_are_documented(source: &str, documents: &[&File]) -> Vec<String> {
    let codes = source.lines().filter_map(|line| line.strip_prefix("pub const EXIT_"));
    let codes = codes.filter_map(|rest| rest.split_once(" = ")?.1.strip_suffix(';'));
    let codes: Vec<_> = codes.chain(["0"]).collect();
    let mut wrong = Vec::new();
    for document in documents {
        for code in &codes {
            let row = format!("\n| {code} |");
            if codes.len() < 4 || !document.text.contains(&row) {
                wrong.push(format!("{}: exit code {code} has no row", document.path));
            }
        }
    }
    wrong
}

/// Pieces of a document that are commands: in code marks, fenced, or indented by four.
pub fn commands(document: &str) -> Vec<String> {
    let mut fenced = false;
    let mut commands = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            commands.push(line.trim().to_owned());
        } else {
            commands.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    commands
}

/// What follows `program` in the commands of all documents: file, words.
pub fn calls<'a>(files: &'a [File], program: &str) -> Vec<(&'a str, Vec<String>)> {
    let mut calls = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for command in commands(&file.text) {
            let command = command.split(" # ").next().unwrap_or_default();
            let mut words = command.split_whitespace().map(str::to_owned);
            if words.next().as_deref() == Some(program) {
                calls.push((file.path.as_str(), words.collect()));
            }
        }
    }
    calls
}

/// Every `make` target that a document names is in the Makefile.
pub fn make_targets_exist(files: &[File], makefile: &str) -> Vec<String> {
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| line.contains("## "))
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    calls(files, "make")
        .iter()
        .filter_map(|(path, words)| Some((path, words.first()?)))
        .filter(|(_, target)| !targets.contains(target.as_str()) && target.as_str() != "help")
        .map(|(path, target)| format!("{path}: there is no make {target}"))
        .collect()
}

/// Subcommands and options that documents name are in the program's help; `help` gives it for
/// no subcommand, for one, or for one and its own.
pub fn program_calls_exist(files: &[File], help: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, words) in calls(files, "cgnat") {
        let Some(subcommand) = words.first() else { continue };
        let has = |text: &str, word: &str| text.split_whitespace().any(|other| other == word);
        if !has(&help(""), subcommand) {
            wrong.push(format!("{path}: there is no cgnat {subcommand}"));
            continue;
        }
        let mut call = subcommand.clone();
        if let (Some(own), true) = (words.get(1), help(subcommand).contains("\nCommands:\n")) {
            if !has(&help(subcommand), own) {
                wrong.push(format!("{path}: there is no cgnat {subcommand} {own}"));
                continue;
            }
            call = format!("{subcommand} {own}");
        }
        let text = help(&call);
        for option in words.iter().filter(|word| word.starts_with("--")) {
            if !has(&text, option) {
                wrong.push(format!("{path}: cgnat {call} has no option {option}"));
            }
        }
    }
    wrong
}

/// Files of the project that documents name exist: in Markdown any, elsewhere documents.
pub fn named_files_exist(files: &[File], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    const FOLDERS: [&str; 7] =
        ["docs/", "configs/", "tests/", "docker/", "cgnat-core/", "cgnat-app/", "dpdk/"];
    const TOP: [&str; 6] =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Makefile", "deny.toml"];
    let mut wrong = Vec::new();
    for file in files {
        let markdown = file.path.ends_with(".md");
        let words = file.text.split(|c: char| !(c.is_ascii_alphanumeric() || "._/-*".contains(c)));
        for word in words.map(|word| word.trim_end_matches('.')) {
            let document = word.starts_with("docs/") && word.ends_with(".md");
            let inside = FOLDERS.iter().any(|folder| word.starts_with(folder));
            let named = document || TOP.contains(&word) || (markdown && inside);
            if named && !word.contains('*') && !exists(word) {
                wrong.push(format!("{}: there is no {word}", file.path));
            }
        }
    }
    wrong
}

/// Blocks of one language in a document.
pub fn blocks(document: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let blocks = document.split(&open).skip(1);
    blocks.filter_map(|block| block.split("```").next()).map(str::to_owned).collect()
}

/// Whether a file is a test that names a path.
fn names(file: &File, path: &str) -> bool {
    file.path.starts_with("tests/src/") && file.text.contains(path)
}

/// Each broken example has its expected messages, and nothing else lies about in configs/.
pub fn examples_are_whole(files: &[File]) -> Vec<String> {
    let paths: BTreeSet<_> = files.iter().map(|file| file.path.as_str()).collect();
    let mut wrong = Vec::new();
    for path in paths.iter().filter(|path| path.starts_with("configs/")) {
        let partner = match path.rsplit_once('.') {
            Some((stem, "yaml")) => format!("{stem}.expected"),
            Some((stem, "expected")) => format!("{stem}.yaml"),
            // Of other programs: a test runs these with it.
            Some((_, "conf")) if files.iter().any(|file| names(file, path)) => continue,
            _ => {
                wrong.push(format!("{path}: no test loads it"));
                continue;
            }
        };
        let broken = path.starts_with("configs/broken/");
        if broken && !paths.contains(partner.as_str()) {
            wrong.push(format!("{path}: there is no {partner}"));
        }
    }
    wrong
}

mod rules {
    use super::*;

    fn readme(text: &str) -> Vec<File> {
        vec![File::new("README.md", text)]
    }

    #[test]
    fn a_reason_without_its_row_or_with_another_sentence_is_found() {
        let reason =
            |name: &str, sentence: &str| (String::new(), name.to_owned(), sentence.to_owned());
        let reasons = [reason("a-b", "Check `mtu`."), reason("c", "Two.")];
        let table = "## Drops\n\n| R | S |\n| --- | --- |\n| `a-b` | Check `mtu`. |\n";
        let good = format!("{table}| `c` | Two. |\n\n## Next\n\n| x | y |\n");
        assert_eq!(reasons_are_documented(&good, &reasons), [""; 0]);
        assert_eq!(reasons_are_documented(table, &reasons).len(), 1);
        let blessed = with_reasons(&format!("# C\n\n{table}\n## Next\n"), &reasons);
        assert_eq!(reasons_are_documented(&blessed, &reasons), [""; 0]);
        assert!(blessed.starts_with("# C\n\n## D") && blessed.ends_with("|\n\n## Next\n"));
        assert_eq!(reasons_are_documented(&good.replace("Two", "2"), &reasons).len(), 1);
        assert_eq!(reasons_are_documented(&good.replace("`c`", "`d`"), &reasons).len(), 1);
    }

    #[test]
    fn a_counter_in_only_one_place_is_found() {
        let source = "/// A.\npub struct C {\n    /// B.\n    pub b: u8,\n    pub c: u8,\n}\n";
        let document = "## C\n| F | M |\n| --- | --- |\n| `b` | x |\n| `d` | x |\n";
        let found = counters_are_documented(document, source, "C", "## C");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(counters_are_documented(document, source, "D", "## C").len(), 1);
    }

    #[test]
    fn unsafe_code_that_is_not_documented_so_is_found() {
        let file = [File::new("dpdk/src/a.rs", "fn a() { unsafe { b() } }")];
        let head = "# Unsafe code\n| F | B | I | F | W |\n| --- | --- | --- | --- | --- |\n";
        let row = |blocks| format!("{head}| dpdk/src/a.rs | {blocks} | 0 | 0 | why |\n");
        assert_eq!(unsafe_is_documented(&row(1), &file), [""; 0]);
        assert_eq!(unsafe_is_documented(&row(2), &file).len(), 2);
        assert_eq!(unsafe_is_documented(head, &file).len(), 1);
        assert_eq!(unsafe_is_documented(&row(1), &[]).len(), 1);
    }

    #[test]
    fn an_exit_code_without_a_row_is_found() {
        let source = "/// A.\npub const EXIT_A: u8 = 1;\npub const EXIT_B: u8 = 77;\n\
                      pub const EXIT_C: u8 = 78;\n";
        let good = File::new("a.md", "\n| 0 | a |\n| 1 | b |\n| 77 | c |\n| 78 | d |\n");
        assert_eq!(exit_codes_are_documented(source, &[&good]), [""; 0]);
        let bad = File::new("a.md", &good.text.replace("| 77", "| 76"));
        assert_eq!(exit_codes_are_documented(source, &[&good, &bad]).len(), 1);
        assert!(!exit_codes_are_documented("", &[&good]).is_empty());
    }

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let text = "Say `make demo`, then\n\n    make shine   # not there\n    cgnat run x --fast\n\n\
                    ```\ncgnat fly\ncgnat run x --seed 1\n```\nmake plans and cgnat walks\n\
                    ```\ncgnat ask near --loud\ncgnat ask far --slow\n```\n";
        let makefile = "deps:\nDEPS := x ## y\ndemo: deps ## show it\n";
        assert_eq!(
            make_targets_exist(&readme(text), makefile),
            ["README.md: there is no make shine"]
        );
        let help = |subcommand: &str| match subcommand {
            "" => "  run  Run it\n  ask  Ask it".to_owned(),
            "ask" => "\nCommands:\n  near  Loudly".to_owned(),
            "ask near" => "  --loud  Shout".to_owned(),
            _ => "  --seed <N>  Seed".to_owned(),
        };
        let found = program_calls_exist(&readme(text), &help);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].ends_with("there is no cgnat ask far"), "{found:?}");
    }

    #[test]
    fn files_that_do_not_exist_are_found() {
        let text = "See LICENSE, configs/b.yaml, target/c.md and docs/decisions/.";
        let found = named_files_exist(&readme(text), &|path| path == "docs/decisions/");
        assert_eq!(found.len(), 2, "{found:?}");
        let rust = [File::new("dpdk/src/a.rs", concat!("// doc", "s/a.md and tests/b.rs"))];
        assert_eq!(named_files_exist(&rust, &|_| false).len(), 1);
        assert_eq!(blocks("a\n```yaml\nb: 1\n```\nc\n```\nd\n```\n", "yaml"), ["b: 1\n"]);
    }

    #[test]
    fn examples_without_a_test_are_found() {
        let file = |path: &str| File::new(path, "");
        let good = [
            file("configs/a.yaml"),
            file("configs/broken/1.yaml"),
            file("configs/broken/1.expected"),
        ];
        assert_eq!(examples_are_whole(&good), [""; 0]);
        assert_eq!(examples_are_whole(&good[..2]).len(), 1);
        assert_eq!(examples_are_whole(&[file("configs/broken/2.expected")]).len(), 1);
        assert_eq!(examples_are_whole(&[file("configs/notes.txt")]).len(), 1);
        let named = File::new("tests/src/a.rs", "include_str!(\"../../configs/a.conf\")");
        assert_eq!(examples_are_whole(&[file("configs/a.conf"), named]), [""; 0]);
        assert_eq!(examples_are_whole(&[file("configs/a.conf")]).len(), 1);
    }
}

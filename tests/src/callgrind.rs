//! Instructions as valgrind's callgrind counts them: by function, and by the place that a line of
//! it came from when the compiler put functions into each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::run;

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `program` under callgrind, counting only below the functions that match `below`; what it
/// printed, and the instructions.
///
/// # Errors
/// valgrind is missing, the program fails, or nothing was counted.
pub fn count(program: &Path, arguments: &[&str], below: &str) -> Result<(String, Counts)> {
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let path = directory.path().join("counts");
    let mut command = Command::new("valgrind");
    // Which memcpy the C library takes must not depend on the CPU.
    let same = "-AVX512VL,-AVX512F,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";
    command.env("GLIBC_TUNABLES", format!("glibc.cpu.hwcaps={same}"));
    command.args(["-q", "--tool=callgrind"]);
    command.arg(format!("--callgrind-out-file={}", path.display()));
    command.arg(format!("--toggle-collect={below}")).arg(program).args(arguments);
    let printed = run(command, LIMIT).context("callgrind")?;
    let text = std::fs::read_to_string(&path).context("callgrind wrote no counts")?;
    let counts = Counts::parse(&text)?;
    ensure!(counts.total() > 0, "nothing below {below} was counted in {}", program.display());
    Ok((printed, counts))
}

/// Instructions by `function in place`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    by_name: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads what callgrind wrote, with costs of lines, one event.
    ///
    /// # Errors
    /// It is not of this form.
    pub fn parse(text: &str) -> Result<Counts> {
        let (mut files, mut functions) = (BTreeMap::new(), BTreeMap::new());
        let (mut file, mut function) = (String::new(), String::new());
        let mut counts = Counts::default();
        // The line after `calls=` has what the called function cost.
        let mut called = false;
        let body = text.lines().skip_while(|line| !line.starts_with("events:")).skip(1);
        for line in body {
            if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                let cost = line.split(' ').nth(1).unwrap_or("0").parse::<u64>();
                let cost = cost.with_context(|| format!("callgrind: no cost in {line:?}"))?;
                if !std::mem::take(&mut called) {
                    let name = format!("{function} in {}", place(&file));
                    *counts.by_name.entry(name).or_default() += cost;
                }
                continue;
            }
            let Some((kind, value)) = line.split_once('=') else { continue };
            match kind {
                "fl" | "fi" | "fe" => file = named(&mut files, value)?,
                "cfi" | "cfl" => drop(named(&mut files, value)?),
                "fn" => function = without_generics(&named(&mut functions, value)?),
                "cfn" => drop(named(&mut functions, value)?),
                "calls" => called = true,
                _ => {}
            }
        }
        counts.by_name.retain(|_, cost| *cost > 0);
        Ok(counts)
    }

    /// All instructions.
    pub fn total(&self) -> u64 {
        self.by_name.values().sum()
    }

    /// Instructions of names with `part`.
    pub fn of(&self, part: &str) -> u64 {
        self.by_name.iter().filter(|(name, _)| name.contains(part)).map(|(_, count)| count).sum()
    }
}

/// `(7) name` names number 7, and `(7)` is that name.
fn named(names: &mut BTreeMap<String, String>, value: &str) -> Result<String> {
    let (number, name) = value.split_once(')').context("callgrind: a name without a number")?;
    let name = name.trim();
    if !name.is_empty() {
        names.insert(number.to_owned(), name.to_owned());
    }
    names.get(number).cloned().with_context(|| format!("callgrind: nothing has number {number}"))
}

/// A file of the project, or the crate or library that it belongs to.
fn place(path: &str) -> String {
    for member in ["cgnat-core/", "cgnat-app/", "dpdk/", "tests/"] {
        let at = path.find(member).filter(|at| *at == 0 || path[..*at].ends_with('/'));
        if let Some(at) = at.filter(|_| !path.contains("/registry/")) {
            return path[at..].to_owned();
        }
    }
    let mut parts = path.split('/');
    if path.contains("/registry/src/") {
        let krate = parts.find(|part| part.starts_with("index.")).and_then(|_| parts.next());
        let krate = krate.unwrap_or("a crate");
        return krate.rsplit_once('-').map_or(krate, |(name, _)| name).to_owned();
    }
    match parts.find(|part| *part == "library").and_then(|_| parts.next()) {
        Some(library) => library.to_owned(),
        None => "libc".to_owned(),
    }
}

/// What the compiler generated for which type says little, and changes with the compiler.
fn without_generics(name: &str) -> String {
    // Recursion is numbered: `walk'2`.
    let name = name.rsplit_once('\'').map_or(name, |(name, _)| name);
    let hash = |part: &str| part.len() == 17 && part.starts_with('h');
    match name.rsplit_once("::") {
        Some((name, last)) if hash(last) => name.to_owned(),
        _ => name.to_owned(),
    }
}

/// Instructions for one thing of a kind, as they are kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// By kind: all instructions, and those of each name that has at least one in a hundred.
    pub cases: BTreeMap<String, (f64, BTreeMap<String, f64>)>,
}

const HEAD: &str = "\
# Instructions of the worker's loop for each packet (or ended mapping) of a kind, and of each
# function in each place that has at least one in a hundred of them. Written by
#     CGNAT_BLESS=1 cargo test -p cgnat-tests --test instructions
# which says why counts can be repeated, and fails when they rise by more than 3 %.
";

/// Percent by which a count may rise.
const MOST_RISE: f64 = 3.0;

impl Kept {
    /// Adds the counts of `things` of one kind.
    pub fn add(&mut self, case: &str, counts: &Counts, things: u64) {
        let each = |count: u64| (count as f64 * 10.0 / things as f64).round() / 10.0;
        let total = counts.total();
        let names = counts.by_name.iter().filter(|(_, count)| **count * 100 >= total);
        let names = names.map(|(name, count)| (name.clone(), each(*count))).collect();
        self.cases.insert(case.to_owned(), (each(total), names));
    }

    /// As a file.
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (case, (total, names)) in &self.cases {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{case} {total:.1}\n");
            let mut names: Vec<_> = names.iter().collect();
            names.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
            for (name, count) in names {
                let _ = writeln!(text, "{count:>8.1} {name}");
            }
        }
        text
    }

    /// From a file.
    ///
    /// # Errors
    /// A line is not as [`Kept::text`] writes it.
    pub fn parse(text: &str) -> Result<Kept> {
        let mut kept = Kept::default();
        let mut last: Option<&mut BTreeMap<String, f64>> = None;
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let wrong = || format!("not a line of instruction counts: {line:?}");
            let (first, second) = line.trim().split_once(' ').with_context(wrong)?;
            if line.starts_with(' ') {
                let Some(names) = &mut last else { bail!(wrong()) };
                names.insert(second.to_owned(), first.parse().with_context(wrong)?);
            } else {
                let total = second.parse().with_context(wrong)?;
                let case = kept.cases.entry(first.to_owned());
                last = Some(&mut case.insert_entry((total, BTreeMap::new())).into_mut().1);
            }
        }
        Ok(kept)
    }

    /// What has risen too much in `new`, with the names that grew most; and cases that only one
    /// of the two has.
    pub fn risen(&self, new: &Kept) -> Vec<String> {
        let mut wrong = Vec::new();
        for (case, (before, names_before)) in &self.cases {
            let Some((after, names_after)) = new.cases.get(case) else {
                wrong.push(format!("{case} is kept and was not counted"));
                continue;
            };
            if *after <= before * (1.0 + MOST_RISE / 100.0) {
                continue;
            }
            let percent = (after / before - 1.0) * 100.0;
            let mut text =
                format!("{case}: {before:.1} instructions became {after:.1}, {percent:.1} % more:");
            let mut grown: Vec<_> = names_after
                .iter()
                .map(|(name, count)| (count - names_before.get(name).unwrap_or(&0.0), name))
                .filter(|(more, _)| *more > 0.0)
                .collect();
            grown.sort_by(|a, b| b.0.total_cmp(&a.0));
            for (more, name) in grown.iter().take(8) {
                let _ = write!(text, "\n  {more:+8.1} {name}");
            }
            wrong.push(text);
        }
        let unknown = new.cases.keys().filter(|case| !self.cases.contains_key(*case));
        wrong.extend(unknown.map(|case| format!("{case} was counted and is not kept")));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "version: 1\npositions: line\nevents: Ir\n\n\
        fl=(1) cgnat-core/src/a.rs\nfn=(1) core::walk::h0123456789abcdef\n10 5\n+1 7\n\
        fi=(2) /rustc/0/library/core/src/num.rs\n3 8\nfe=(1)\n* 1\n\
        cfi=(3) /x/registry/src/index.crates.io-1/array-vec-0.7.2/src/lib.rs\ncfn=(2) push\n\
        calls=3 10\n12 3000\n13 9\nfl=(3)\nfn=(2)\n1 30\ntotals: 60\n";

    #[test]
    fn counts_are_those_of_functions_themselves_by_place() {
        let counts = Counts::parse(WRITTEN).expect("good");
        let all: Vec<_> = counts.by_name.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let expected = [
            ("core::walk in cgnat-core/src/a.rs", 22),
            ("core::walk in core", 8),
            ("push in array-vec", 30),
        ];
        assert_eq!(all, expected);
        assert_eq!((counts.total(), counts.of("walk")), (60, 30));
        assert!(Counts::parse("events: Ir\nfn=(1)\n").is_err());
        assert_eq!(place("./string/memmove.S"), "libc");
        assert_eq!(place("/a/b/cgnat-core/src/c.rs"), "cgnat-core/src/c.rs");
    }

    fn kept(total: f64, walk: f64, new: f64) -> Kept {
        let names = [("walk in a", walk), ("fly in b", new)].map(|(n, c)| (n.to_owned(), c));
        Kept { cases: [("hit".to_owned(), (total, names.into()))].into() }
    }

    #[test]
    fn a_rise_of_more_than_three_percent_is_told_with_what_grew() {
        let before = kept(100.0, 50.0, 50.0);
        assert_eq!(before.risen(&kept(103.0, 53.0, 50.0)), [""; 0]);
        assert_eq!(before.risen(&kept(60.0, 60.0, 0.0)), [""; 0]);
        let wrong = before.risen(&kept(104.0, 49.0, 55.0));
        let told = "hit: 100.0 instructions became 104.0, 4.0 % more:\n      +5.0 fly in b";
        assert_eq!(wrong, [told]);
        assert_eq!(before.risen(&Kept::default()).len(), 1);
        assert_eq!(Kept::default().risen(&before).len(), 1);
    }

    #[test]
    fn what_is_kept_is_read_as_it_was_written() {
        let mut kept = Kept::default();
        kept.add("hit", &Counts::parse(WRITTEN).expect("good"), 2);
        let text = kept.text();
        assert!(
            text.ends_with(
                "\nhit 30.0\n    15.0 push in array-vec\n    11.0 core::walk in \
                                cgnat-core/src/a.rs\n     4.0 core::walk in core\n"
            ),
            "{text}"
        );
        assert_eq!(Kept::parse(&text).expect("good"), kept);
        assert!(Kept::parse(" 1.0 alone\n").is_err() && Kept::parse("hit many\n").is_err());
    }
}

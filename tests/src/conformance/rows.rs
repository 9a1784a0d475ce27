//! docs/rfc-compliance.md: a row per clause, and what rows and cases owe each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::Case;

/// Whether a clause is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// By default.
    Met,
    /// If an option is set.
    ByOption,
    /// No; the row says why.
    NotMet,
    /// It belongs to a part that is not there yet.
    Waits,
    /// It binds somebody else, or something that cgnat does not have.
    NotApplicable,
}

impl Status {
    const ALL: [(Status, &'static str); 5] = [
        (Status::Met, "met"),
        (Status::ByOption, "by option"),
        (Status::NotMet, "not met"),
        (Status::Waits, "waits"),
        (Status::NotApplicable, "not applicable"),
    ];
}

/// One clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// RFC and number, as in `4787-REQ-5a`.
    pub clause: String,
    /// Whether it is met.
    pub status: Status,
    /// What it asks, and what cgnat does.
    pub words: [String; 2],
    /// Names of cases.
    pub cases: Vec<String>,
}

impl Row {
    /// The RFC of its clause.
    pub fn rfc(&self) -> &str {
        self.clause.split('-').next().unwrap_or_default()
    }
}

const HEADING: &str = "| Clause | Asks | Status | cgnat | Option | Cases |";
const COUNTS: &str = "| RFC | Rows | Met | By option | Not met | Waits | Not applicable | Cases |";

/// The rows of the document, in order.
///
/// # Errors
/// A row that cannot be read.
pub fn parse(document: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if line == HEADING {
            inside = true;
        } else if inside && !line.starts_with("| ---") {
            rows.push(row(line).with_context(|| format!("row {line:?}"))?);
        }
    }
    ensure!(!rows.is_empty(), "there is no table under {HEADING:?}");
    Ok(rows)
}

fn row(line: &str) -> Result<Row> {
    let cells = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    let cells: Vec<&str> = cells.context("no row")?.split('|').map(str::trim).collect();
    let [clause, asks, status, does, _option, cases] = cells[..] else {
        anyhow::bail!("{} cells, not 6", cells.len());
    };
    let found = Status::ALL.iter().find(|(_, name)| *name == status);
    let names = cases.split('`').skip(1).step_by(2);
    Ok(Row {
        clause: clause.to_owned(),
        status: found.with_context(|| format!("no such status: {status}"))?.0,
        words: [asks.to_owned(), does.to_owned()],
        cases: names.map(str::to_owned).collect(),
    })
}

/// What is wrong between rows and cases.
pub fn mismatches(rows: &[Row], cases: &[&Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    let by_name: BTreeMap<&str, &Case> = cases.iter().map(|case| (case.name, *case)).collect();
    let mut clauses = BTreeSet::new();
    for row in rows {
        let clause = row.clause.as_str();
        if !clauses.insert(clause) {
            wrong.push(format!("{clause}: two rows"));
        }
        if row.words.iter().any(String::is_empty) {
            wrong.push(format!("{clause}: does not say what is asked or what cgnat does"));
        }
        if matches!(row.status, Status::Met | Status::ByOption) && row.cases.is_empty() {
            wrong.push(format!("{clause}: met, but by no case"));
        }
        for name in &row.cases {
            match by_name.get(name.as_str()) {
                None => wrong.push(format!("{clause}: there is no case {name}")),
                Some(case) if !case.clauses.contains(&clause) => {
                    wrong.push(format!("{clause}: case {name} does not carry it"));
                }
                Some(_) => {}
            }
        }
    }
    for case in cases {
        for clause in case.clauses {
            let names = |row: &&Row| {
                row.clause == *clause && row.cases.iter().any(|name| name == case.name)
            };
            if rows.iter().find(names).is_none() {
                wrong.push(format!("{clause}: its row does not name case {}", case.name));
            }
        }
    }
    wrong
}

/// The document with its table of counts written anew.
///
/// # Errors
/// It has no such table.
pub fn with_counts(document: &str, rows: &[Row]) -> Result<String> {
    let (before, after) = document.split_once(COUNTS).context("there is no table of counts")?;
    let rest = after.find("\n\n").map_or("\n", |end| &after[end..]);
    let mut table = format!("{COUNTS}\n| --- |{}", " --- |".repeat(7));
    let mut rfcs: Vec<&str> = Vec::new();
    for row in rows {
        if !rfcs.contains(&row.rfc()) {
            rfcs.push(row.rfc());
        }
    }
    let line = |name: &str, rows: &[&Row]| {
        let mut line = format!("\n| {name} | {} |", rows.len());
        for (status, _) in Status::ALL {
            // Writing to a String cannot fail.
            let _ = write!(line, " {} |", rows.iter().filter(|row| row.status == status).count());
        }
        let cases: BTreeSet<_> = rows.iter().flat_map(|row| &row.cases).collect();
        let _ = write!(line, " {} |", cases.len());
        line
    };
    for rfc in rfcs {
        let own: Vec<&Row> = rows.iter().filter(|row| row.rfc() == rfc).collect();
        table.push_str(&line(rfc, &own));
    }
    table.push_str(&line("all", &rows.iter().collect::<Vec<_>>()));
    Ok(format!("{before}{table}{rest}"))
}

/// The document with the last column of each row written anew: the cases that carry its clause.
///
/// # Errors
/// A row that cannot be read.
pub fn with_cases(document: &str, cases: &[&Case]) -> Result<String> {
    let mut text = String::new();
    let mut inside = false;
    for line in document.lines() {
        inside = line.starts_with('|') && (inside || line == HEADING);
        if !inside || line == HEADING || line.starts_with("| ---") {
            text.push_str(line);
        } else {
            let row = row(line).with_context(|| format!("row {line:?}"))?;
            let own = cases.iter().filter(|case| case.clauses.contains(&row.clause.as_str()));
            let names: Vec<_> = own.map(|case| format!("`{}`", case.name)).collect();
            let cells: Vec<&str> = line.split('|').skip(1).map(str::trim).collect();
            for cell in cells[..5].iter().copied().chain([names.join(", ").as_str()]) {
                text.push_str("| ");
                text.push_str(cell);
                text.push_str(if cell.is_empty() { "" } else { " " });
            }
            text.push('|');
        }
        text.push('\n');
    }
    Ok(text)
}

/// The table at the end of `make conformance`, and whether all that is claimed is proven.
/// `failed` has the names of the cases that failed.
pub fn result(rows: &[Row], failed: &BTreeSet<&str>) -> (String, bool) {
    let mut text = String::from("RFC    rows  proven  unproven  not met  waits  not applicable\n");
    let claims = |row: &&Row| matches!(row.status, Status::Met | Status::ByOption);
    let proven = |row: &&Row| {
        claims(row)
            && !row.cases.is_empty()
            && row.cases.iter().all(|name| !failed.contains(name.as_str()))
    };
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|(rfc, _)| *rfc == row.rfc()) {
            Some((_, group)) => group.push(row),
            None => groups.push((row.rfc(), vec![row])),
        }
    }
    groups.push(("all", rows.iter().collect()));
    let mut good = true;
    for (rfc, group) in &groups {
        let count = |is: &dyn Fn(&&Row) -> bool| group.iter().filter(|row| is(row)).count();
        let unproven = count(&|row| claims(row) && !proven(row));
        good &= unproven == 0;
        let of = |status| count(&|row| row.status == status);
        let _ = writeln!(
            text,
            "{rfc:<6}{:>5}{:>8}{unproven:>10}{:>9}{:>7}{:>16}",
            group.len(),
            count(&proven),
            of(Status::NotMet),
            of(Status::Waits),
            of(Status::NotApplicable),
        );
    }
    let missed: Vec<_> = rows.iter().filter(|row| row.status == Status::NotMet).collect();
    if !missed.is_empty() {
        text.push_str("\nNot met:\n");
    }
    for row in missed {
        let _ = writeln!(text, "  {:<16} {}", row.clause, row.words[1]);
    }
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case { name: "a_b", clauses: &["1-A", "1-B"], run: || Ok(()) };

    fn document(rows: &str) -> String {
        format!("# T\n\n{COUNTS}\n| --- |\n\n## X\n\n{HEADING}\n| --- |\n{rows}\n")
    }

    #[test]
    fn rows_and_cases_that_do_not_fit_are_found() {
        let good = "| 1-A | asks | met | does | | `a_b` |\n| 1-B | asks | by option | x | y | `a_b` |\n\
                    | 2-C | asks | waits | why | | |";
        let rows = parse(&document(good)).expect("rows");
        assert_eq!(rows.len(), 3);
        assert_eq!(mismatches(&rows, &[&CASE]), [""; 0]);
        for bad in [
            good.replace(
                "| 1-A | asks | met | does | | `a_b` |",
                "| 1-A | asks | met | does | | |",
            ),
            good.replace("`a_b` |\n| 1-B", "`other` |\n| 1-B"),
            good.replace("| why |", "| |"),
            good.replace("2-C", "1-A"),
            good.replace("| why | | |", "| why | | `a_b` |"),
        ] {
            let rows = parse(&document(&bad)).expect("rows");
            assert!(!mismatches(&rows, &[&CASE]).is_empty(), "{bad}");
        }
        assert!(parse(&document("| 1-A | asks | perhaps | does | | |")).is_err());
    }

    #[test]
    fn counts_and_results_follow_from_the_rows() {
        let text = document("| 1-A | a | met | d | | `a_b` |\n| 2-C | a | not met | why | | |");
        let rows = parse(&text).expect("rows");
        let counted = with_counts(&text, &rows).expect("a table");
        assert!(counted.contains("\n| 1 | 1 | 1 | 0 | 0 | 0 | 0 | 1 |\n| 2 | 1 | 0 | 0 | 1 |"));
        assert!(counted.contains("\n| all | 2 | 1 | 0 | 1 | 0 | 0 | 1 |\n\n## X\n"));
        assert_eq!(with_counts(&counted, &rows).expect("a table"), counted);
        let emptied = text.replace("`a_b` ", "");
        assert_eq!(with_cases(&emptied, &[&CASE]).expect("rows"), text);
        let (table, good) = result(&rows, &BTreeSet::new());
        assert!(good && table.contains("why"), "{table}");
        assert!(!result(&rows, &BTreeSet::from(["a_b"])).1);
    }
}

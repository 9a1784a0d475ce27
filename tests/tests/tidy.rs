//! The repository checks itself: who may know whom, nothing left behind, documents that say what
//! is there. Needs no root; the rules about commands ask the program of the release build.
//!
//! `CGNAT_BLESS=1` writes the table of drop reasons in docs/counters.md and the counts and cases of
//! docs/rfc-compliance.md anew instead of comparing.
//!
//! Each rule is a function from files to what is wrong, in tidy/; beside it are tests that show
//! that it can fail.

#[path = "tidy/attacks.rs"]
mod attacks;
#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;
use std::process::{Command, Output};

use cgnat_tests::appliance;
use cgnat_tests::conformance::rows;
use source::{File, files, project};

/// Reasons that no test names yet, in the order of their counters. This list may only shrink: a
/// reason that a test does name has to leave it.
const UNASSERTED: &[&str] = &["subscriber-table-full"];

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn text<'a>(files: &'a [File], path: &str) -> &'a str {
    let file = files.iter().find(|file| file.path == path);
    &file.unwrap_or_else(|| panic!("there is no {path}")).text
}

/// Runs the program at the top of the project.
fn cgnat(arguments: &[&str]) -> Output {
    let mut command = Command::new(appliance::program().expect("the release build"));
    command.args(arguments).current_dir(project()).output().expect("it starts")
}

fn check(file: &Path) -> Result<(), String> {
    let output = cgnat(&["check", file.to_str().expect("UTF-8")]);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // This machine may lack the devices; the configuration itself is good.
    let good = out.starts_with("configuration ok") && output.status.code() != Some(78);
    if good { Ok(()) } else { Err(format!("{}: {}\n{err}", file.display(), output.status)) }
}

#[test]
fn folders_of_the_core_know_only_what_they_may() {
    let files = files();
    for folder in code::layered() {
        let inside = format!("cgnat-core/src/{folder}/");
        assert!(files.iter().any(|file| file.path.starts_with(&inside)), "there is no {inside}");
    }
    none(code::layers(&files));
}

#[test]
fn the_core_has_no_clock_no_system_call_no_lock_and_no_thread() {
    none(code::core_is_pure(&files()));
}

#[test]
fn dependencies_point_one_way() {
    none(code::dependencies(&files()));
}

#[test]
fn every_workspace_dependency_is_used() {
    none(code::unused_dependencies(&files()));
}

#[test]
fn unsafe_code_is_only_in_dpdk_sys_and_dpdk_and_is_documented() {
    let files = files();
    none(code::unsafe_only_at_the_door(&files));
    none(documents::unsafe_is_documented(text(&files, "docs/unsafe.md"), &files));
}

#[test]
fn nothing_is_left_behind() {
    let files = files();
    none(code::leftovers(&files));
    none(code::machine_paths(&files));
    none(code::long_files(&files));
}

#[test]
fn every_drop_reason_has_a_row_with_its_sentence() {
    let files = files();
    let reasons = code::reasons(text(&files, "cgnat-core/src/verdict.rs"));
    assert!(reasons.len() > 40, "only {} reasons were read", reasons.len());
    if std::env::var_os("CGNAT_BLESS").is_some() {
        let document = documents::with_reasons(text(&files, "docs/counters.md"), &reasons);
        std::fs::write(project().join("docs/counters.md"), document).expect("writable");
        return;
    }
    none(documents::reasons_are_documented(text(&files, "docs/counters.md"), &reasons));
}

#[test]
fn every_clause_has_a_row_that_names_its_cases() {
    let path = "docs/rfc-compliance.md";
    let files = files();
    let document = text(&files, path);
    let cases: Vec<_> = cgnat_tests::conformance::cases().collect();
    let counted = |text: &str| rows::with_counts(text, &rows::parse(text)?);
    if std::env::var_os("CGNAT_BLESS").is_some() {
        let blessed = rows::with_cases(document, &cases).and_then(|text| counted(&text));
        std::fs::write(project().join(path), blessed.expect("rows")).expect("writable");
        return;
    }
    none(rows::mismatches(&rows::parse(document).expect("rows"), &cases));
    assert_eq!(counted(document).expect("a table of counts"), document, "{path}: counts");
}

#[test]
fn every_attack_has_a_row_that_names_its_tests() {
    let files = files();
    let cases: Vec<_> = cgnat_tests::conformance::cases().map(|case| case.name).collect();
    let tests = attacks::tests_in(&files, &cases);
    none(attacks::attacks_are_tested(text(&files, "docs/attacks.md"), &tests));
}

#[test]
fn every_counter_has_a_row() {
    let files = files();
    let (document, source) =
        (text(&files, "docs/counters.md"), text(&files, "cgnat-core/src/control/counters.rs"));
    for (name, heading) in
        [("PortCounters", "## Of each port"), ("WorkerCounters", "## Of each worker")]
    {
        none(documents::counters_are_documented(document, source, name, heading));
    }
}

#[test]
fn every_drop_reason_is_asserted_by_a_test() {
    let files = files();
    let reasons = code::reasons(text(&files, "cgnat-core/src/verdict.rs"));
    // This test's own text is no assertion.
    let others: Vec<File> =
        files.into_iter().filter(|file| !file.path.starts_with("tests/tests/tidy")).collect();
    assert_eq!(code::unasserted(&reasons, &others), UNASSERTED);
}

#[test]
fn documents_name_files_and_commands_that_exist() {
    let files = files();
    none(documents::named_files_exist(&files, &|path| project().join(path).exists()));
    none(documents::make_targets_exist(&files, text(&files, "Makefile")));
    let help = |subcommand: &str| {
        let arguments: Vec<_> = subcommand.split_whitespace().chain(["--help"]).collect();
        let output = cgnat(&arguments);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    none(documents::program_calls_exist(&files, &help));
}

#[test]
fn exit_codes_are_documented() {
    let files = files();
    let listing = ["README.md", "docs/operations.md", "docs/configuration.md"];
    let documents: Vec<_> =
        files.iter().filter(|file| listing.contains(&file.path.as_str())).collect();
    assert_eq!(documents.len(), listing.len());
    let source = text(&files, "cgnat-app/src/check.rs");
    none(documents::exit_codes_are_documented(source, &documents));
}

#[test]
fn every_example_is_loaded_by_a_test() {
    let files = files();
    none(documents::examples_are_whole(&files));
    let examples: Vec<_> = files
        .iter()
        .filter(|file| file.path.starts_with("configs/") && file.path.matches('/').count() == 1)
        // Those of other programs are run by the tests that name them.
        .filter(|file| file.path.ends_with(".yaml"))
        .collect();
    assert!(examples.len() >= 4, "only {} examples", examples.len());
    none(examples.iter().filter_map(|file| check(Path::new(&file.path)).err()).collect());
}

#[test]
fn the_configuration_in_the_readme_is_good() {
    let files = files();
    let blocks = documents::blocks(text(&files, "README.md"), "yaml");
    assert!(!blocks.is_empty(), "README.md shows no configuration");
    let directory = tempfile::tempdir().expect("a directory");
    for block in blocks {
        let file = directory.path().join("readme.yaml");
        std::fs::write(&file, block).expect("writable");
        none(check(&file).err().into_iter().collect());
    }
}

#[test]
fn what_a_project_needs_is_there() {
    let files = files();
    for path in [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "deny.toml",
        "docs/attacks.md",
        "docs/configuration.md",
        "docs/counters.md",
        "docs/operations.md",
        "docs/rfc-compliance.md",
        "docs/unsafe.md",
        "docker/README.md",
        "rust-toolchain.toml",
        "rustfmt.toml",
    ] {
        text(&files, path);
    }
    let version = text(&files, "Cargo.toml").split("\nversion = \"").nth(1).expect("a version");
    let version = version.split('"').next().expect("a version");
    let heading = format!("\n## {version}");
    assert!(text(&files, "CHANGELOG.md").contains(&heading), "CHANGELOG.md has no {version}");
    let pinned = text(&files, "rust-toolchain.toml");
    let oldest = text(&files, "Cargo.toml").split("rust-version = \"").nth(1).expect("a version");
    let oldest = oldest.split('"').next().expect("a version");
    assert!(pinned.contains(&format!("channel = \"{oldest}")), "the toolchain is not {oldest}");
}

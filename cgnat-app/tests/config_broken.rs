//! Every broken configuration says exactly what is wrong with it, and all of it at once.
//!
//! `configs/broken/NN-name.yaml` must give the text in `NN-name.expected`. After a change of
//! words on purpose: `CGNAT_BLESS=1 cargo test -p cgnat-app --test config_broken`, then read
//! the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cgnat_app::check;
use cgnat_core::config::Config;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/broken")
}

fn stems(extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory()).expect("configs/broken is a directory");
    let paths = entries.map(|entry| entry.expect("readable entry").path());
    let matching = paths.filter(|path| path.extension().is_some_and(|e| e == extension));
    matching
        .map(|path| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned())
        .collect()
}

#[test]
fn every_broken_file_gives_exactly_its_expected_text() {
    let names = stems("yaml");
    assert!(names.len() >= 45, "only {} broken files", names.len());
    let bless = std::env::var_os("CGNAT_BLESS").is_some();
    let mut wrong = Vec::new();
    for name in &names {
        let text = fs::read_to_string(directory().join(format!("{name}.yaml"))).expect("text");
        let Err(problems) = Config::from_yaml(&format!("{name}.yaml"), &text) else {
            panic!("{name}.yaml is accepted");
        };
        let said = check::render(&problems) + "\n";
        let path = directory().join(format!("{name}.expected"));
        if bless {
            fs::write(&path, &said).expect("writable");
        }
        let expected = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{name}.yaml has no .expected: {error}"));
        if said != expected {
            wrong.push(format!("{name}:\n--- expected\n{expected}--- said\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_expected_text_has_its_file() {
    assert_eq!(stems("expected"), stems("yaml"));
}

#[test]
fn problems_are_in_order_and_say_where_they_are() {
    for name in stems("yaml") {
        let text = fs::read_to_string(directory().join(format!("{name}.yaml"))).expect("text");
        let Err(problems) = Config::from_yaml(&name, &text) else { panic!("{name} is accepted") };
        let places: Vec<_> = problems.iter().map(|p| (p.line(), p.column())).collect();
        assert!(places.is_sorted(), "{name}: {places:?}");
        assert!(problems.errors() > 0, "{name}");
        for problem in &problems {
            assert!(problem.line() as usize <= text.lines().count().max(1), "{name}: {problem}");
            assert!(!problem.message().is_empty());
        }
    }
}

//! Examples load, and the documentation has a row for each key that is read and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cgnat_app::check;
use cgnat_core::config::{Config, KEYS, NOT_YET};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn load(name: &str) -> Config {
    let path = project().join("configs").join(name);
    check::load(&path).unwrap_or_else(|refusal| panic!("{refusal}"))
}

#[test]
fn every_example_loads_without_a_warning() {
    let entries = fs::read_dir(project().join("configs")).expect("configs is a directory");
    let mut seen = 0;
    for entry in entries {
        let path = entry.expect("readable entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let config = load(path.file_name().expect("a name").to_str().expect("UTF-8"));
            assert!(config.warnings().is_empty(), "{}: {:?}", path.display(), config.warnings());
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} examples");
}

#[test]
fn the_summary_counts_addresses_blocks_and_possible_subscribers() {
    // 64 + 6 + 1 - 5 addresses of 126 blocks, and 32 - 2 of 20 ranges; the business group
    // takes 512 addresses out of the residential range.
    let expected = "configuration ok: 4 pools, 136 addresses, 2 subscriber groups\n\
        residential  66 addresses  8,316 blocks of 512 ports  4,193,792 possible subscribers \
        (1 in 505 may be active at once)\n\
        spare        32 addresses  4,032 blocks of 512 ports  4,193,792 possible subscribers \
        (1 in 1,041 may be active at once)\n\
        dns          8 addresses  8,064 blocks of 64 ports  4,193,792 possible subscribers \
        (1 in 521 may be active at once)\n\
        business     30 addresses  600 ranges of 2016 ports for 512 subscribers; overflow on \
        each address: 17 blocks of 512 ports\n\
        IPv6 passes between internal0 and external0; inside: 2001:db8:a::/64, 2001:db8:100::/40\n";
    assert_eq!(check::summary(&load("isp.yaml")), expected);
}

/// The words in backticks at the start of each table row below `heading`.
fn rows(text: &str, heading: &str) -> BTreeSet<String> {
    let section = text.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().expect("a first part");
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn the_documentation_has_exactly_the_keys_that_are_read() {
    let path = project().join("docs/configuration.md");
    let text = fs::read_to_string(path).expect("docs/configuration.md");
    assert_eq!(rows(&text, "\n## Keys"), set(KEYS));
    assert_eq!(rows(&text, "\n## Not supported in this version"), set(NOT_YET));
}

#[test]
fn check_prints_a_summary_and_ends_with_the_code_of_what_it_found() {
    let root = tempfile::tempdir().expect("a directory");
    let file = project().join("configs/smallest.yaml");
    let capacity = |config: &Config| match config.system().max_mappings() {
        1_000_000 => Ok(vec!["1,000,000 mappings".to_owned()]),
        _ => Err("too small".to_owned()),
    };
    let check = |file: &Path| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check::check(file, root.path(), &capacity, &mut out, &mut err).expect("memory");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (code, text(out), text(err))
    };

    // No such network card here.
    let (code, out, err) = check(&file);
    assert_eq!(code, 1);
    assert!(out.ends_with("1,000,000 mappings\n"), "{out}");
    assert!(err.ends_with("2 errors\n"), "{err}");

    // A network card bound to vfio-pci, behind an IOMMU.
    let nodes = root.path().join("dev/vfio");
    fs::create_dir_all(&nodes).expect("a directory");
    for node in ["vfio", "7"] {
        fs::write(nodes.join(node), "").expect("writable");
    }
    for device in ["0000:3b:00.0", "0000:3b:00.1"] {
        let device = root.path().join("sys/bus/pci/devices").join(device);
        fs::create_dir_all(&device).expect("a directory");
        std::os::unix::fs::symlink("/drivers/vfio-pci", device.join("driver")).expect("a link");
        std::os::unix::fs::symlink("/groups/7", device.join("iommu_group")).expect("a link");
    }
    let (code, _, err) = check(&file);
    assert_eq!((code, err.contains("error")), (0, false), "{err}");

    // Tables that do not fit.
    let text = fs::read_to_string(&file).expect("text") + "system: { max-mappings: 2000 }\n";
    let other = root.path().join("other.yaml");
    fs::write(&other, text).expect("writable");
    let (code, out, err) = check(&other);
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(err.ends_with("system.memory: too small\n1 error\n"), "{err}");

    // Files that cannot be read.
    assert_eq!(check(&root.path().join("none.yaml")).0, 78);
    assert_eq!(check(root.path()).0, 78);
    fs::write(&other, [0xff, 0xfe, 0x00]).expect("writable");
    let (code, _, err) = check(&other);
    assert!(code == 78 && err.ends_with("this is not text; expected UTF-8\n"), "{err}");
}

//! Rules about code. Each is a function from files to what is wrong with them.

use super::source::{File, code, is_below, line, paths, product, tests, words};

/// Folders of cgnat-core and what their code may name of the rest of the crate, with the reason.
/// A folder may name itself, except `table`.
const LAYERS: &[(&str, &[(&str, &str)])] = &[
    (
        "packet",
        &[
            ("crate::verdict", "a parser says why it refuses"),
            ("crate::endpoint::IpProtocol", "a number with a name"),
        ],
    ),
    (
        "policy",
        &[
            ("crate::config", "timeouts are built from the configuration"),
            ("crate::endpoint", "vocabulary: plain values"),
            ("crate::packet::tcp", "names of four bits and the numbers of a segment, not bytes"),
            ("crate::policy", "decisions may build on each other"),
            ("crate::time", "ticks are plain values; what time it is comes as an argument"),
        ],
    ),
    (
        "table",
        &[
            ("crate::endpoint", "what records hold"),
            ("crate::time", "what records hold"),
            ("crate::packet::checksum::Delta", "precomputed in a mapping"),
            ("crate::packet::rewrite::NewEndpoint", "a mapping says what to write"),
            ("crate::policy::port_choice", "choosing a free port of a block is a pure decision"),
            ("crate::policy::alg::ftp::Dialog", "what is said on a control connection"),
            ("crate::policy::alg::pptp", "likewise, and the call that came of it"),
            ("crate::policy::tcp_state", "a session holds its TCP state"),
            ("crate::policy::tcp_window", "and its sequence numbers"),
            ("crate::policy::filtering", "a mapping holds who may use it"),
            ("crate::table::slab", "a leaf: numbered records in provided memory"),
            ("crate::table::hash", "a leaf: hashing for the index"),
            ("crate::table::session::Peer", "a mapping carries its first session inside"),
            ("crate::table::session::Numbers", "likewise"),
        ],
    ),
    (
        "path",
        &[
            ("crate::endpoint", "vocabulary"),
            ("crate::packet", "reads and rewrites bytes"),
            ("crate::path", "a path may call another"),
            ("crate::policy", "asks for decisions"),
            ("crate::shard", "what it works on"),
            ("crate::space", "whose an external endpoint is"),
            ("crate::table", "changes tables"),
            ("crate::time", "vocabulary"),
            ("crate::verdict", "its answer"),
        ],
    ),
    (
        "config",
        &[
            ("crate::config", "stands alone"),
            ("crate::endpoint", "rules name protocols, and lists of pools by number"),
            ("crate::packet::ethernet", "the VLAN tags of a port are plain values"),
        ],
    ),
];

/// What cgnat-core may name of the standard library beyond plain data.
const STD_ALLOWED: &[&str] = &[
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::AddrParseError",
    "std::sync::Arc",
    "std::sync::atomic",
    "std::cell::Cell",
];

/// Parts of the standard library that bring a clock, a system call, a lock or a thread.
const STD_WATCHED: &[&str] = &[
    "std::cell",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::rc",
    "std::sync",
    "std::thread",
    "std::time",
];

/// Crates that cgnat-core may depend on, each chosen for its field.
const CORE_DEPENDENCIES: &[&str] = &[
    "arrayvec",
    "crossbeam-channel",
    "hashbrown",
    "ipnet",
    "rand_chacha",
    "serde",
    "serde_yaml",
    "thiserror",
    "wide",
    "zerocopy",
];

/// Lines that a file may have before it is taken to hold two things.
const MOST_LINES: usize = 700;

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

fn of_crate<'a>(files: &'a [File], name: &'a str) -> impl Iterator<Item = &'a File> {
    rust(files).filter(move |file| {
        file.path.strip_prefix(name).is_some_and(|rest| rest.starts_with("/src/"))
    })
}

/// The folders that have a rule.
pub fn layered() -> impl Iterator<Item = &'static str> {
    LAYERS.iter().map(|(folder, _)| *folder)
}

/// Folders of cgnat-core name only what [`LAYERS`] lists.
pub fn layers(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (folder, allowed) in LAYERS {
        let own = format!("crate::{folder}");
        for file in of_crate(files, "cgnat-core") {
            let inside = file.path.trim_start_matches("cgnat-core/src/");
            if !inside.starts_with(&format!("{folder}/")) && inside != format!("{folder}.rs") {
                continue;
            }
            // A table in several files is one table.
            let table = inside.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs");
            let this = format!("{own}::{table}");
            for path in paths(&file.path, &product(file)) {
                let in_own = is_below(&path, &own) && (*folder != "table" || path == own);
                let allowed = allowed.iter().any(|(prefix, _)| is_below(&path, prefix));
                if path.starts_with("crate::") && !in_own && !allowed && !is_below(&path, &this) {
                    wrong.push(format!("{}: {folder} must not know {path}", file.path));
                }
            }
        }
    }
    wrong
}

/// cgnat-core has no clock, system call, lock, thread or output, and no unsafe code.
pub fn core_is_pure(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in of_crate(files, "cgnat-core") {
        let product = product(file);
        for path in paths(&file.path, &product) {
            let watched = STD_WATCHED.iter().any(|prefix| is_below(&path, prefix));
            if watched && !STD_ALLOWED.iter().any(|prefix| is_below(&path, prefix)) {
                // A group's common part is a path too, and says nothing.
                if !STD_WATCHED.contains(&path.as_str()) || !is_group(&product, &path) {
                    wrong.push(format!("{}: cgnat-core must not use {path}", file.path));
                }
            }
            if ["dpdk", "dpdk_sys", "cgnat_app"].iter().any(|name| is_below(&path, name)) {
                wrong.push(format!("{}: cgnat-core must not know {path}", file.path));
            }
        }
        for print in ["print!", "println!", "eprint!", "eprintln!"] {
            for at in words(&product, print.trim_end_matches('!')) {
                if product[at..].starts_with(print) {
                    wrong.push(format!("{}:{}: {print}", file.path, line(&product, at)));
                }
            }
        }
    }
    for name in ["cgnat-core", "cgnat-app"] {
        let lib = files.iter().find(|file| file.path == format!("{name}/src/lib.rs"));
        if !lib.is_some_and(|lib| code(&lib.text).contains("#![forbid(unsafe_code)]")) {
            wrong.push(format!("{name}/src/lib.rs: does not forbid unsafe code"));
        }
    }
    wrong
}

fn is_group(code: &str, path: &str) -> bool {
    code.contains(&format!("{path}::{{"))
}

/// Dependencies point one way.
pub fn dependencies(files: &[File]) -> Vec<String> {
    const OURS: [&str; 5] = ["dpdk-sys", "dpdk", "cgnat-core", "cgnat-app", "cgnat-tests"];
    let rules: [(&str, &[&str]); 4] = [
        ("dpdk-sys", &[]),
        ("dpdk", &["dpdk-sys"]),
        ("cgnat-core", &[]),
        ("cgnat-app", &["dpdk", "cgnat-core"]),
    ];
    let mut wrong = Vec::new();
    for (name, allowed) in rules {
        let path = format!("{name}/Cargo.toml");
        let Some(manifest) = files.iter().find(|file| file.path == path) else {
            wrong.push(format!("{path}: is not there"));
            continue;
        };
        for dependency in listed(&manifest.text, "[dependencies]") {
            if OURS.contains(&dependency) && !allowed.contains(&dependency) {
                wrong.push(format!("{path}: must not depend on {dependency}"));
            }
            if name == "cgnat-core" && !CORE_DEPENDENCIES.contains(&dependency) {
                wrong.push(format!("{path}: {dependency} is not on the list of tidy"));
            }
        }
        for file in of_crate(files, name) {
            for path in paths(&file.path, &product(file)) {
                let other = OURS.iter().find(|other| is_below(&path, &other.replace('-', "_")));
                if let Some(other) = other.filter(|o| **o != name && !allowed.contains(*o)) {
                    wrong.push(format!("{}: {name} must not know {other}", file.path));
                }
            }
        }
    }
    let joints = of_crate(files, "cgnat-app").filter(|f| product(f).contains("PacketIo for "));
    let joints: Vec<_> = joints.map(|file| file.path.as_str()).collect();
    if joints.len() != 1 {
        wrong.push(format!("PacketIo for DPDK belongs into one file, is in {joints:?}"));
    }
    wrong
}

/// The names below one heading of a manifest.
fn listed<'a>(manifest: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.lines().skip_while(move |line| *line != heading).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
}

/// Workspace dependencies are used by some crate.
pub fn unused_dependencies(files: &[File]) -> Vec<String> {
    let manifest = |path: &str| files.iter().find(|file| file.path == path).map(|f| &f.text);
    let Some(workspace) = manifest("Cargo.toml") else { return vec!["no Cargo.toml".to_owned()] };
    let members = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let members: Vec<_> = members.map(|file| file.text.as_str()).collect();
    let used = |name: &str| {
        members.iter().any(|text| {
            text.lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            })
        })
    };
    listed(workspace, "[workspace.dependencies]")
        .filter(|name| !used(name))
        .map(|name| format!("Cargo.toml: no crate depends on {name}"))
        .collect()
}

/// What is unsafe in a file: blocks, implementations, functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsafe {
    pub blocks: usize,
    pub implementations: usize,
    pub functions: usize,
}

/// Counts unsafe code.
pub fn unsafe_in(code: &str) -> Unsafe {
    let mut count = Unsafe::default();
    for at in words(code, "unsafe") {
        match code[at + 6..].trim_start() {
            rest if rest.starts_with('{') => count.blocks += 1,
            rest if rest.starts_with("impl") => count.implementations += 1,
            _ => count.functions += 1,
        }
    }
    count
}

/// Only dpdk-sys and dpdk have unsafe code.
pub fn unsafe_only_at_the_door(files: &[File]) -> Vec<String> {
    let others = rust(files).filter(|file| !file.path.starts_with("dpdk"));
    let has = others.filter(|file| unsafe_in(&code(&file.text)) != Unsafe::default());
    has.map(|file| format!("{}: unsafe code outside dpdk-sys and dpdk", file.path)).collect()
}

/// Nothing half-done is left, nothing ignored, no unwrap in the product.
pub fn leftovers(files: &[File]) -> Vec<String> {
    // In two parts, so that this file is not found.
    let marks = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let macros = ["todo", "unimplemented", "dbg"];
    let mut wrong = Vec::new();
    for file in files {
        for mark in marks {
            for at in words(&file.text, mark) {
                wrong.push(format!("{}:{}: {mark}", file.path, line(&file.text, at)));
            }
        }
    }
    for file in rust(files) {
        let code = code(&file.text);
        for name in macros {
            for at in words(&code, name) {
                if code[at + name.len()..].starts_with('!') {
                    wrong.push(format!("{}:{}: {name}!", file.path, line(&code, at)));
                }
            }
        }
        for (at, _) in code.match_indices("#[ignore") {
            wrong.push(format!("{}:{}: an ignored test", file.path, line(&code, at)));
        }
        let product = product(file);
        for (at, _) in product.match_indices(".unwrap()") {
            wrong.push(format!("{}:{}: unwrap", file.path, line(&product, at)));
        }
    }
    wrong
}

/// No file names a place that exists on one machine only.
pub fn machine_paths(files: &[File]) -> Vec<String> {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/tmp/", "target"),
        concat!("file:", "///"),
    ];
    let mut wrong = Vec::new();
    for file in files {
        for place in places {
            for (at, _) in file.text.match_indices(place) {
                let at = line(&file.text, at);
                wrong.push(format!("{}:{at}: {place} is a place of one machine", file.path));
            }
        }
    }
    wrong
}

/// No Rust file is too long.
pub fn long_files(files: &[File]) -> Vec<String> {
    let long = rust(files).map(|file| (file, file.text.lines().count()));
    long.filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines, more than {MOST_LINES}", file.path))
        .collect()
}

/// One row of the macro in verdict.rs: variant, name, sentence.
pub type Reason = (String, String, String);

/// All reasons for a drop, in order.
pub fn reasons(verdict: &str) -> Vec<Reason> {
    let body = verdict.split("\ndrop_reasons! {\n").nth(1).unwrap_or_default();
    let rows = body.split("\n}\n").next().unwrap_or_default().lines().map(str::trim);
    rows.filter(|row| !row.starts_with("//"))
        .filter_map(|row| {
            let (variant, rest) = row.strip_suffix("\";")?.split_once(", \"")?;
            let (name, sentence) = rest.split_once("\", \"")?;
            Some((variant.to_owned(), name.to_owned(), sentence.to_owned()))
        })
        .collect()
}

/// Reasons that no test names, by variant or by name.
pub fn unasserted(reasons: &[Reason], files: &[File]) -> Vec<String> {
    let tests: Vec<String> = rust(files).map(tests).collect();
    let named = |variant: &str, name: &str| {
        let (full, name) = (format!("DropReason::{variant}"), format!("\"{name}\""));
        tests.iter().any(|text| {
            let short = ["DropReason::*", "DropReason::{self, *}"].iter().any(|g| text.contains(g));
            let variant = if short { variant } else { full.as_str() };
            text.contains(&name) || words(text, variant).next().is_some()
        })
    };
    let missing = reasons.iter().filter(|(variant, name, _)| !named(variant, name));
    missing.map(|(_, name, _)| name.clone()).collect()
}

mod rules {
    use super::*;

    fn core(path: &str, text: &str) -> Vec<File> {
        vec![File::new(&format!("cgnat-core/src/{path}"), text)]
    }

    #[test]
    fn a_layer_that_looks_up_is_found() {
        let bad = [
            ("packet/ipv4.rs", "use crate::table::mapping::Mapping;"),
            ("packet/ipv4.rs", "fn f() { crate::shard::f() }"),
            ("packet/ipv4.rs", "use super::super::policy::tcp_state;"),
            ("policy/filtering.rs", "use crate::{table::slab, verdict};"),
            ("table/mapping.rs", "use super::subscriber::Subscriber;"),
            ("table/mapping.rs", "use crate::table::session::Session;"),
            ("path/outbound.rs", "use crate::worker::Worker;"),
            ("config/mod.rs", "use crate::shard::Shard;"),
        ];
        for (path, text) in bad {
            assert!(!layers(&core(path, text)).is_empty(), "{path}: {text}");
        }
        let good = [
            ("packet/ipv4.rs", "use super::checksum; use crate::verdict::DropReason;"),
            ("packet/ipv4.rs", "// crate::table::x\n#[cfg(test)] mod t { use crate::table::x; }"),
            ("table/mapping.rs", "use crate::table::{slab::Record, session::Peer};"),
            ("tables.rs", "use crate::worker::Worker;"),
        ];
        for (path, text) in good {
            assert_eq!(layers(&core(path, text)), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn a_clock_a_socket_a_lock_or_a_print_in_core_is_found() {
        let sound = "#![forbid(unsafe_code)]\n";
        let with = |text: &str| {
            let mut files = core("x.rs", text);
            files.push(File::new("cgnat-core/src/lib.rs", sound));
            files.push(File::new("cgnat-app/src/lib.rs", sound));
            core_is_pure(&files)
        };
        for bad in [
            "use std::time::Instant;",
            "use std::{fs, fmt};",
            "use std::net::{Ipv4Addr, UdpSocket};",
            "fn f(x: &std::sync::Mutex<u8>) {}",
            "use std::sync::{Arc, RwLock};",
            "fn f() { std::thread::yield_now() }",
            "use dpdk::Mbuf;",
            "fn f() { println!() }",
        ] {
            assert!(!with(bad).is_empty(), "{bad}");
        }
        let good = "use std::net::{Ipv4Addr}; use std::sync::{Arc, atomic::AtomicU8};";
        assert_eq!(with(good), [""; 0]);
        assert_eq!(core_is_pure(&core("lib.rs", "")).len(), 2);
    }

    #[test]
    fn a_dependency_that_points_back_is_found() {
        let manifest = |name: &str, text: &str| File::new(&format!("{name}/Cargo.toml"), text);
        let mut files = vec![
            manifest("dpdk-sys", ""),
            manifest("dpdk", "[dependencies]\ndpdk-sys.workspace = true\n"),
            manifest("cgnat-core", "[dependencies]\nserde = { workspace = true }\n"),
            manifest("cgnat-app", "[dependencies]\ndpdk.workspace = true\n"),
            File::new("cgnat-app/src/run/io.rs", "impl PacketIo for DpdkIo {}"),
        ];
        assert_eq!(dependencies(&files), [""; 0]);
        files.push(File::new("cgnat-app/src/run/other.rs", "impl PacketIo for Other {}"));
        files.push(File::new("dpdk/src/port.rs", "use cgnat_core::shard::Shard;"));
        files[0] = manifest("dpdk-sys", "[dependencies]\ndpdk.workspace = true\n");
        files[2] = manifest("cgnat-core", "[dependencies]\ndpdk = \"1\"\ntokio = \"1\"\n");
        assert_eq!(dependencies(&files).len(), 6, "{:?}", dependencies(&files));
    }

    #[test]
    fn a_dependency_that_nobody_uses_is_found() {
        let root = "[workspace.dependencies]\nserde = \"1\"\n# why\nserde_json = \"1\"\n\n[x]\n";
        let member = "[dependencies]\nserde_json.workspace = true\n";
        let files = [File::new("Cargo.toml", root), File::new("a/Cargo.toml", member)];
        assert_eq!(unused_dependencies(&files), ["Cargo.toml: no crate depends on serde"]);
    }

    #[test]
    fn unsafe_code_is_counted_and_refused_elsewhere() {
        let text = "// unsafe {\nunsafe fn a() { unsafe { b() } } unsafe impl Send for C {}\n\
                    #![forbid(unsafe_code)] \"unsafe {\"";
        let expected = Unsafe { blocks: 1, implementations: 1, functions: 1 };
        assert_eq!(unsafe_in(&code(text)), expected);
        let found = unsafe_only_at_the_door(&[File::new("tests/src/a.rs", text)]);
        assert_eq!(found.len(), 1);
        assert!(unsafe_only_at_the_door(&[File::new("dpdk/src/a.rs", text)]).is_empty());
    }

    #[test]
    fn leftovers_are_found() {
        let macros = "fn a() { todo!() } fn b() { dbg!(1); c.unwrap(); unimplemented!() }";
        assert_eq!(leftovers(&core("x.rs", macros)).len(), 4);
        assert_eq!(leftovers(&core("x.rs", "#[ignore = \"slow\"] fn a() {}")).len(), 1);
        let mark = format!("# {}: later", concat!("FIX", "ME"));
        assert_eq!(leftovers(&[File::new("Makefile", &mark)]).len(), 1);
        let good = "// dbg!\n#[cfg(test)] mod t { fn a() { b.unwrap(); } } fn c() { \"todo!\" }";
        assert_eq!(leftovers(&core("x.rs", good)), [""; 0]);
    }

    #[test]
    fn machine_paths_and_long_files_are_found() {
        let path = concat!("see /wo", "rk/notes");
        assert_eq!(machine_paths(&[File::new("README.md", path)]).len(), 1);
        assert_eq!(long_files(&core("x.rs", &"\n".repeat(701))).len(), 1);
        assert!(long_files(&core("x.rs", &"\n".repeat(700))).is_empty());
    }

    #[test]
    fn reasons_are_read_and_those_without_a_test_are_found() {
        let verdict = "macro\ndrop_reasons! {\n    // Why.\n    TooBig, \"too-big\", \"It \\\"is\\\", \
                       big.\";\n    Ipv6, \"ipv6\", \"Six.\";\n    Cold, \"cold\", \"C.\";\n}\n";
        let reasons = reasons(verdict);
        assert_eq!(reasons.len(), 3);
        assert_eq!(reasons[1], ("Ipv6".to_owned(), "ipv6".to_owned(), "Six.".to_owned()));
        let product = File::new("cgnat-core/src/a.rs", "fn a() { DropReason::Cold }");
        let test = File::new("tests/tests/a.rs", "fn a() { DropReason::TooBigger; f(\"ipv6\") }");
        assert_eq!(unasserted(&reasons, &[product.clone(), test.clone()]), ["too-big", "cold"]);
        let short = File::new("a/tests/b.rs", "use x::DropReason::{self, *}; fn b() { Cold }");
        assert_eq!(unasserted(&reasons, &[product, test, short]), ["too-big"]);
    }
}

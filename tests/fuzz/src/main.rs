//! One program for all targets, because libFuzzer has one entry: `CGNAT_FUZZ_TARGET` names the
//! target.

#![no_main]

use std::sync::OnceLock;

use cgnat_fuzz::targets::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("CGNAT_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, body)) => *body,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("CGNAT_FUZZ_TARGET is `{name}`; expected one of {}", names.join(", "));
            std::process::exit(2);
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHOSEN.get_or_init(chosen)(data));

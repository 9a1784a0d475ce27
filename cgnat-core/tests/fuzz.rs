//! The fuzz targets without libFuzzer: every seed, and many mutations of the seeds.
//!
//! `CGNAT_FUZZ` sets the mutations of each target, `CGNAT_SEED` their order. What `make fuzz`
//! finds becomes a seed: a file in tests/fuzz/seeds, by the name of what it showed.

#![allow(clippy::unwrap_used)]

#[path = "../../tests/fuzz/src/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use targets::{TARGETS, Target};

const MUTATIONS: u64 = 100_000;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target)
}

/// The seeds of a target, in order of their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = std::fs::read_dir(folder(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// Runs the body; says which input it was if it panics.
fn run(target: &str, body: Target, from: &str, input: &[u8]) {
    let result = std::panic::catch_unwind(|| body(input));
    assert!(result.is_ok(), "{target}: a mutation of {from}: {input:02x?}");
}

fn mutate(random: &mut ChaCha8Rng, seeds: &[(String, Vec<u8>)], input: &mut Vec<u8>) {
    let mut below = |bound: usize| random.next_u32() as usize % bound.max(1);
    for _ in 0..1 + below(4) {
        let at = below(input.len());
        match below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << below(8),
            1 if !input.is_empty() => input[at] = below(256) as u8,
            2 if !input.is_empty() => input[at] = [0, 1, 4, 0x40, 0x7f, 0x80, 0xff][below(7)],
            3 => input.truncate(at),
            4 => input.insert(at, below(256) as u8),
            5 if !input.is_empty() => _ = input.remove(at),
            _ => {
                let other = &seeds[below(seeds.len())].1;
                let from = below(other.len());
                let piece = &other[from..];
                let length = below(piece.len()).min(400);
                input.splice(at..at, piece[..length].iter().copied());
            }
        }
    }
}

#[test]
fn every_seed_and_many_mutations_pass() {
    for (target, body) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() > 3, "{target} has only {} seeds", seeds.len());
        for (name, seed) in &seeds {
            run(target, *body, name, seed);
        }
        let mut random = ChaCha8Rng::seed_from_u64(variable("CGNAT_SEED", 1));
        for n in 0..variable("CGNAT_FUZZ", MUTATIONS) {
            let (name, seed) = &seeds[(n % seeds.len() as u64) as usize];
            let mut input = seed.clone();
            mutate(&mut random, &seeds, &mut input);
            run(target, *body, name, &input);
        }
    }
}

/// Targets and folders of seeds are the same.
#[test]
fn every_target_has_seeds_and_every_seed_a_target() {
    let folders: std::collections::BTreeSet<String> = std::fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into())
        .collect();
    assert_eq!(folders, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
}

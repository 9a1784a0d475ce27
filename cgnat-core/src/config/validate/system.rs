//! `system`: the box as a whole.

use super::super::problem::Report;
use super::super::read::{Cursor, Located};
use super::super::{HugePages, Idle, System, Workers, keys, scalar};

const MEMORY: (u64, u64) = (64 << 20, 4 << 40);

/// Reads the section; what is absent or wrong gets its default.
pub(super) fn read(report: &mut Report<'_>, cursor: Option<&Cursor<'_>>) -> System {
    let mut system = System {
        name: "cgnat".to_owned(),
        workers: Workers::Auto,
        control_cpus: Vec::new(),
        memory_bytes: 1 << 30,
        max_mappings: 1_000_000,
        max_sessions: None,
        new_flows_under_load: Some(500_000),
        flood_guard: true,
        huge_pages: HugePages::Auto,
        idle: Idle::Adaptive,
        control_socket: None,
    };
    let Some(fields) = cursor.and_then(|c| c.fields(report)) else { return system };
    if let Some(name) =
        fields.get("name").and_then(|c| c.parse(report, "a name", scalar::instance_name))
    {
        system.name = name;
    }
    let workers = fields.get("workers").and_then(|c| workers(report, c));
    let control = fields
        .get("control-cpus")
        .and_then(|c| c.located(report, "CPUs as in \"0\" or \"0-1\"", scalar::cpus));
    if let (Some(Workers::Cpus(cpus)), Some(control)) = (&workers, &control) {
        warn_of_shared_cpus(report, cpus, control);
    }
    if let Some(workers) = workers {
        system.workers = workers;
    }
    if let Some(control) = control {
        system.control_cpus = control.value;
    }
    if let Some(bytes) = fields.get("memory").and_then(|c| c.parse(report, "a size", memory)) {
        system.memory_bytes = bytes;
    }
    if let Some(n) = fields.get("max-mappings").and_then(|c| c.whole(report, 1000, 268_435_456)) {
        system.max_mappings = n as u32;
    }
    let sessions = fields.get("max-sessions").and_then(|c| c.whole(report, 64, 268_435_456));
    system.max_sessions = sessions.map(|n| n as u32);
    if let Some(rate) = fields.get("new-flows-under-load").and_then(|c| new_flows(report, c)) {
        system.new_flows_under_load = rate;
    }
    if let Some(is_on) = fields.get("flood-guard").and_then(|c| c.flag(report)) {
        system.flood_guard = is_on;
    }
    if let Some(huge_pages) = fields.get("huge-pages").and_then(|c| huge_pages(report, c)) {
        system.huge_pages = huge_pages;
    }
    let idle = fields.get("idle");
    // With an interrupt of the card a rest would end at once; its drivers are not asked for one.
    match idle.and_then(|c| c.choice(report, &["adaptive", "busy"], &["interrupt"])) {
        Some("busy") => system.idle = Idle::Busy,
        _ => system.idle = Idle::Adaptive,
    }
    let socket = fields.get("control-socket");
    system.control_socket = socket.and_then(|c| c.parse(report, "a path", socket_path));
    system
}

fn workers(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<Workers> {
    let expected = "auto, a number of workers, or a CPU list as in \"2-7\"";
    let (text, quoted) = cursor.text(report, expected)?;
    // A number in quotes is a CPU, one without is how many.
    if !quoted && scalar::whole(text).is_some() {
        return cursor.whole(report, 1, 64).map(|n| Workers::Count(n as u16));
    }
    cursor.parse(report, expected, |text| {
        if text == "auto" {
            return Ok(Workers::Auto);
        }
        if text.starts_with(|c: char| c.is_alphabetic()) {
            return Err(match keys::nearest(text, ["auto"]) {
                Some(word) => {
                    format!("{} is not a choice; did you mean `{word}`?", scalar::shown(text))
                }
                None => format!("{} is not a choice; expected {expected}", scalar::shown(text)),
            });
        }
        let cpus = scalar::cpus(text)?;
        match cpus.len() {
            1..=64 => Ok(Workers::Cpus(cpus)),
            n => Err(format!("this lists {n} workers; expected at most 64")),
        }
    })
}

fn warn_of_shared_cpus(report: &mut Report<'_>, workers: &[u16], control: &Located<Vec<u16>>) {
    let shared: Vec<u16> =
        control.value.iter().copied().filter(|cpu| workers.contains(cpu)).collect();
    if let Some(cpu) = shared.first() {
        let message = format!(
            "CPU {cpu} carries a worker too; a worker that has packets never gives its CPU away"
        );
        report.warning(&control.at, message);
    }
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = scalar::size(text)?;
    if (MEMORY.0..=MEMORY.1).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("{} is out of range; expected 64MiB to 4TiB", scalar::shown(text)))
}

/// Longest path of a Unix socket, with room for the name that it is made under.
const LONGEST_SOCKET: usize = 96;

fn socket_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || text.ends_with('/') {
        return Err(format!("{} is not an absolute path of a socket", scalar::shown(text)));
    }
    if text.len() > LONGEST_SOCKET || text.contains('\0') {
        let length = text.len();
        return Err(format!("this path has {length} bytes; expected at most {LONGEST_SOCKET}"));
    }
    Ok(text.to_owned())
}

/// A rate, or `off`, which is no bound.
fn new_flows(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<Option<u32>> {
    match cursor.text(report, "a number, or off")? {
        // Some YAML writers turn `off` into `false`.
        ("off", _) | ("false", false) => Some(None),
        _ => cursor.whole(report, 1000, 100_000_000).map(|rate| Some(rate as u32)),
    }
}

fn huge_pages(report: &mut Report<'_>, cursor: &Cursor<'_>) -> Option<HugePages> {
    let (text, quoted) = cursor.text(report, "auto, required or off")?;
    // Some YAML writers turn `off` into `false`.
    if text == "false" && !quoted {
        return Some(HugePages::Off);
    }
    match cursor.choice(report, &["auto", "required", "off"], &[])? {
        "auto" => Some(HugePages::Auto),
        "required" => Some(HugePages::Required),
        _ => Some(HugePages::Off),
    }
}

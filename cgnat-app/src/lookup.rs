//! `cgnat lookup`: whose is an external endpoint, what has a subscriber? From the file alone
//! (RFC 7422 section 2): no box, no device, no root.
//!
//! The answer goes to stdout, problems of the file to stderr. Exit codes: 0 the file alone
//! answers, 1 it does not (a log is needed, or there is nobody), 77 and 78 as `cgnat check`.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;

use cgnat_core::config::Config;
use cgnat_core::endpoint::{InternalEndpoint, Protocol};
use cgnat_core::space::ExternalSpace;
use cgnat_core::space::lookup::{Forward, OwnRange, Reverse};
use serde_json::{Value, json};

use crate::check;

/// The file alone does not answer.
pub const EXIT_NO_ANSWER: u8 = 1;

/// Arguments of `cgnat lookup`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The configuration file, as it was in use at the time in question.
    pub file: PathBuf,
    /// What is asked.
    #[command(flatten)]
    pub question: Question,
    /// Answer with a JSON object.
    #[arg(long)]
    pub json: bool,
}

/// One of the two directions.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Question {
    /// Internal address of a subscriber.
    #[arg(long, value_name = "ADDRESS")]
    pub internal: Option<Ipv4Addr>,
    /// External address and port (or ICMP identifier).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub external: Option<SocketAddrV4>,
}

/// `cgnat lookup` with the process's own stdout and stderr.
pub fn run(options: &Options) -> ExitCode {
    let (out, err) = (&mut io::stdout().lock(), &mut io::stderr().lock());
    match lookup(options, out, err) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has gone.
        Err(_) => ExitCode::from(check::EXIT_ENVIRONMENT),
    }
}

/// [`run`] with its streams as arguments; answers with the exit code.
///
/// # Errors
/// Only those of `out` and `err`.
pub fn lookup(options: &Options, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let config = match check::load(&options.file) {
        Ok(config) => config,
        Err(refusal) => {
            writeln!(err, "{refusal}")?;
            return Ok(refusal.code);
        }
    };
    for warning in config.warnings() {
        writeln!(err, "{warning}")?;
    }
    let space = ExternalSpace::new(&config);
    let answer = match (options.question.internal, options.question.external) {
        (Some(internal), _) => forward(&config, internal, space.forward(&config, internal)),
        (None, Some(external)) => {
            reverse(&config, external, space.reverse(*external.ip(), external.port()))
        }
        (None, None) => unreachable!("the command line requires one of the two"),
    };
    if options.json {
        writeln!(out, "{}", answer.json)?;
    } else {
        writeln!(out, "{}", answer.text)?;
    }
    out.flush()?;
    Ok(if answer.found { 0 } else { EXIT_NO_ANSWER })
}

struct Answer {
    found: bool,
    text: String,
    json: Value,
}

impl Answer {
    fn none(text: String) -> Answer {
        let json = json!({ "answer": "none", "reason": text });
        Answer { found: false, text, json }
    }
}

fn forward(config: &Config, internal: Ipv4Addr, found: Forward) -> Answer {
    let name = |pool: usize| config.pools()[pool].name();
    match found {
        Forward::OneToOne(external) => Answer {
            found: true,
            text: format!("{internal} has {external} to itself, by a static mapping"),
            json: json!({ "answer": "static", "internal": internal, "external": external }),
        },
        Forward::NotSubscriber => Answer::none(format!("{internal} is no subscriber")),
        Forward::Pools { ranges, on_demand } => {
            let on_demand: Vec<&str> = on_demand.into_iter().map(name).collect();
            pools(config, internal, &ranges, &on_demand)
        }
    }
}

/// Ranges first: they are known. Of the others only a log can tell.
fn pools(config: &Config, internal: Ipv4Addr, ranges: &[OwnRange], on_demand: &[&str]) -> Answer {
    let mut lines = Vec::new();
    for range in ranges {
        let OwnRange { pool, number, external, ports: (first, last), overflow, .. } = range;
        lines.push(format!(
            "{internal} has {external} ports {first}-{last}: subscriber {number} of pool {}",
            config.pools()[*pool].name()
        ));
        lines.extend(overflow.map(|(first, last)| {
            format!(
                "{internal} may have overflow blocks of {external} ports {first}-{last}: only a \
                 log can tell which"
            )
        }));
    }
    if !on_demand.is_empty() {
        let (word, names) =
            (if on_demand.len() > 1 { "pools" } else { "pool" }, on_demand.join(", "));
        lines.push(format!(
            "{internal} gets blocks of {word} {names} on demand: only a log can tell which"
        ));
    }
    let json = match (ranges, on_demand) {
        ([range], []) => range_json(config, range),
        ([], [pool]) => json!({ "answer": "log", "pool": pool, "subscriber": internal }),
        _ => json!({
            "answer": "pools",
            "subscriber": internal,
            "ranges": ranges.iter().map(|range| range_json(config, range)).collect::<Vec<_>>(),
            "on_demand": on_demand,
        }),
    };
    Answer { found: !ranges.is_empty(), text: lines.join("\n"), json }
}

fn range_json(config: &Config, range: &OwnRange) -> Value {
    let overflow =
        range.overflow.map(|(first, last)| json!({ "first_port": first, "last_port": last }));
    json!({
        "answer": "range",
        "pool": config.pools()[range.pool].name(),
        "number": range.number,
        "subscriber": range.internal,
        "external": range.external,
        "first_port": range.ports.0,
        "last_port": range.ports.1,
        "overflow": overflow,
    })
}

fn reverse(config: &Config, external: SocketAddrV4, found: Reverse) -> Answer {
    let name = |pool: usize| config.pools()[pool].name();
    match found {
        Reverse::Static(mapped) => {
            let one = |(protocol, internal): &(Protocol, InternalEndpoint)| {
                format!("{protocol} {external} is {internal}, by a static mapping")
            };
            let list = |(protocol, internal): &(Protocol, InternalEndpoint)| {
                json!({
                    "protocol": protocol.to_string(),
                    "internal": Ipv4Addr::from(internal.address),
                    "port": internal.port,
                })
            };
            Answer {
                found: true,
                text: mapped.iter().map(one).collect::<Vec<_>>().join("\n"),
                json: json!({
                    "answer": "static",
                    "external": external.ip(),
                    "mapped": mapped.iter().map(list).collect::<Vec<_>>(),
                }),
            }
        }
        Reverse::Elsewhere => Answer::none(format!("{} is in no pool", external.ip())),
        Reverse::NotLent { pool } => {
            Answer::none(format!("pool {} does not lend {external}", name(pool)))
        }
        Reverse::Nobody { pool, ports: (first, last) } => Answer::none(format!(
            "{external} is nobody's: no subscriber of pool {} has its ports {first}-{last}",
            name(pool)
        )),
        Reverse::Dynamic { pool, ports: (first, last), overflow } => Answer {
            found: false,
            text: format!(
                "{external} is in {} {first}-{last} of pool {}: only a log can tell whose it was",
                if overflow { "overflow block" } else { "block" },
                name(pool)
            ),
            json: json!({
                "answer": "log",
                "pool": name(pool),
                "external": external.ip(),
                "first_port": first,
                "last_port": last,
            }),
        },
        Reverse::Range(range) => {
            let OwnRange { pool, number, internal, ports: (first, last), .. } = range;
            let text = format!(
                "{external} is {internal}: subscriber {number} of pool {}, ports {first}-{last}",
                name(pool)
            );
            Answer { found: true, text, json: range_json(config, &range) }
        }
    }
}

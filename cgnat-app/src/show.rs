//! `cgnat show`, `cgnat drain` and `cgnat undrain`: ask a running box by its control socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::check;
use crate::run::{readiness, routes, steering};

/// How long the box may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the longest answer that is read.
const ANSWER: u64 = 16 << 20;

/// Options of `cgnat show`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Whether the box carries traffic, which condition is missing, and what neighbours are told.
    Readiness(Answer),
    /// Routes and next hops as workers use them, where the kernel's are followed; and how they came.
    Routes(Answer),
    /// How packets come to the worker whose they are: each port's method, the share that is
    /// handed off, and each worker's load.
    Steering(Answer),
}

/// How and of whom something is asked.
#[derive(Args)]
struct Answer {
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    from: Asked,
}

/// Who is asked; the options of `cgnat drain` and `cgnat undrain`.
#[derive(Args)]
pub struct Asked {
    /// The `system.control-socket` of the box.
    #[arg(long, value_name = "PATH", default_value = "/run/cgnat/control.sock")]
    socket: PathBuf,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error(
        "no box listens on {path}: {error}; start one with `system.control-socket: {path}`, or \
         name the one that it has with --socket"
    )]
    Connect { path: PathBuf, error: std::io::Error },
    #[error("asking the box on {path} failed: {error}; is it stopping or overloaded?")]
    Talk { path: PathBuf, error: std::io::Error },
    #[error("what listens on {path} does not answer like cgnat; expected one line of JSON")]
    Strange { path: PathBuf },
    #[error("the box on {path} refuses: {said}")]
    Refused { path: PathBuf, said: String },
}

/// Asks and prints.
pub fn run(options: &Options) -> ExitCode {
    let (name, answer, text): (_, _, fn(&Value) -> String) = match &options.what {
        What::Readiness(answer) => ("readiness", answer, readiness::text),
        What::Routes(answer) => ("routes", answer, routes::text),
        What::Steering(answer) => ("steering", answer, steering::text),
    };
    let Answer { json, from } = answer;
    print(&from.socket, &json!({ "show": name }), |answer| match json {
        true => format!("{answer:#}\n"),
        false => text(answer),
    })
}

/// Has a box withdraw its external addresses, or announce them again.
pub fn drain(asked: &Asked, is_wanted: bool) -> ExitCode {
    print(&asked.socket, &json!({ "drain": is_wanted }), |answer| {
        format!("{}\n", answer["says"].as_str().unwrap_or("?"))
    })
}

fn print(socket: &Path, request: &Value, text: impl FnOnce(&Value) -> String) -> ExitCode {
    match ask(socket, request) {
        Ok(answer) => print!("{}", text(&answer)),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(check::EXIT_ENVIRONMENT);
        }
    }
    ExitCode::SUCCESS
}

fn ask(path: &Path, request: &Value) -> Result<Value, ShowError> {
    let stream = UnixStream::connect(path)
        .map_err(|error| ShowError::Connect { path: path.to_owned(), error })?;
    let talk = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        writeln!(&stream, "{request}")?;
        let mut line = String::new();
        BufReader::new((&stream).take(ANSWER)).read_line(&mut line)?;
        Ok(line)
    };
    let line = talk().map_err(|error| ShowError::Talk { path: path.to_owned(), error })?;
    let mut answer: Value = serde_json::from_str(&line).unwrap_or_default();
    if let Some(said) = answer["error"].as_str() {
        return Err(ShowError::Refused { path: path.to_owned(), said: said.to_owned() });
    }
    match answer["ok"].take() {
        Value::Null => Err(ShowError::Strange { path: path.to_owned() }),
        shown => Ok(shown),
    }
}

//! The control socket of a running box: `system.control-socket`.
//!
//! A client sends a line of JSON and gets one: `{"show": "steering"}`, `"readiness"`, `"routes"` and
//! `{"drain": true}` are answered by `{"ok": {...}}`, anything else by `{"error": "a sentence"}`.
//! The main thread serves it between its other looks and never waits for a client.
//!
//! Always true:
//! 1. clients, the bytes of a request, and how long a client may stay silent are bounded;
//! 2. the socket has mode 0660 from the moment it can be found;
//! 3. who may ask can have external addresses withdrawn and announced, and can change nothing else.

use std::fs::Permissions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Clients at one time.
const CLIENTS: usize = 8;

/// Connections that are taken in one look.
const ACCEPTED: usize = 16;

/// Bytes of a request, with its end of line.
const REQUEST: usize = 4096;

/// How long a client may neither ask nor take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked for, for those who ask for something else.
const EXPECTED: &str = "expected {\"show\": \"steering\"}, {\"show\": \"readiness\"}, {\"show\": \"routes\"}, \
                        {\"drain\": true} or {\"drain\": false}";

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// To be shown something.
    Show(&'a str),
    /// That external addresses are withdrawn, or that this is taken back.
    Drain(bool),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A process answers there.
    #[error(
        "system.control-socket: somebody listens on {path} already; stop that instance, or give \
         this one another path"
    )]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// There is a file, a directory or the like.
    #[error("system.control-socket: {path} is there and is not a socket; expected a free path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A step failed.
    #[error(
        "system.control-socket: cannot {step} {path}: {error}; expected a directory that is there \
         and that this user may write"
    )]
    Step {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// The socket and its clients.
pub struct Control {
    path: PathBuf,
    /// Of the socket that was made here: another instance may have made one since.
    inode: u64,
    listener: UnixListener,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    /// What came of a request.
    request: Vec<u8>,
    /// What is left of an answer.
    answer: Vec<u8>,
    last_active: Instant,
    /// Nothing more is read; it goes once it has its answer.
    is_leaving: bool,
}

impl Control {
    /// Makes the socket.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the directory is not writable.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |error| ControlError::Step { step, path, error }
        };
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(ControlError::NotASocket { path: path.to_owned() });
            }
            if UnixStream::connect(path).is_ok() {
                return Err(ControlError::Taken { path: path.to_owned() });
            }
        }
        // Made under a name that nobody knows, so that it never stands there with another mode;
        // a socket that a dead process has left is replaced in the same step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed("make", &fresh))?;
        let place = || {
            std::fs::set_permissions(&fresh, Permissions::from_mode(0o660))?;
            listener.set_nonblocking(true)?;
            let inode = std::fs::symlink_metadata(&fresh)?.ino();
            std::fs::rename(&fresh, path)?;
            Ok(inode)
        };
        let inode = place().inspect_err(|_| _ = std::fs::remove_file(&fresh));
        let inode = inode.map_err(failed("place", path))?;
        Ok(Self { path: path.to_owned(), inode, listener, clients: Vec::new() })
    }

    /// Takes new clients, requests that have come, and sends what clients take. Does not wait.
    /// `answer` answers what is asked, or says why not.
    pub fn mind(&mut self, mut answer: impl FnMut(Ask<'_>) -> Result<Value, String>) {
        for _ in 0..ACCEPTED {
            let Ok((stream, _)) = self.listener.accept() else { break };
            let mut client = match Client::new(stream) {
                Ok(client) => client,
                Err(_) => continue,
            };
            if self.clients.len() == CLIENTS {
                let error = format!("{CLIENTS} clients are connected; try again later");
                client.answer(&json!({ "error": error }));
                client.send();
                continue;
            }
            self.clients.push(client);
        }
        self.clients.retain_mut(|client| client.serve(&mut answer));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Client {
    fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (request, answer) = (Vec::new(), Vec::new());
        Ok(Self { stream, request, answer, last_active: Instant::now(), is_leaving: false })
    }

    fn answer(&mut self, document: &Value) {
        self.answer = document.to_string().into_bytes();
        self.answer.push(b'\n');
    }

    /// Whether the client stays.
    fn serve(&mut self, answer: &mut impl FnMut(Ask<'_>) -> Result<Value, String>) -> bool {
        // One request in one look; the next is not read before this one is answered.
        if self.answer.is_empty() {
            if !self.read() {
                return false;
            }
            if let Some(end) = self.request.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                self.answer(&respond(&line, answer));
            } else if self.request.len() >= REQUEST {
                let error = format!("the request has no end of line within {REQUEST} bytes");
                self.answer(&json!({ "error": error }));
                self.is_leaving = true;
            }
        }
        let is_there = self.send();
        let is_served = self.is_leaving && self.answer.is_empty();
        is_there && !is_served && self.last_active.elapsed() < PATIENCE
    }

    /// Reads what has come, up to a request; false if nobody is there any more.
    fn read(&mut self) -> bool {
        let mut bytes = [0; REQUEST];
        let room = REQUEST.saturating_sub(self.request.len());
        if room == 0 {
            return true;
        }
        match self.stream.read(&mut bytes[..room]) {
            // It may have shut its side only, and wait for the answer to what it has sent.
            Ok(0) => self.request.contains(&b'\n'),
            Ok(count) => {
                self.request.extend_from_slice(&bytes[..count]);
                self.last_active = Instant::now();
                true
            }
            Err(error) => is_passing(&error),
        }
    }

    /// Sends what the client takes; false if nobody is there any more.
    fn send(&mut self) -> bool {
        if self.answer.is_empty() {
            return true;
        }
        match self.stream.write(&self.answer) {
            Ok(count) => {
                self.answer.drain(..count);
                self.last_active = Instant::now();
                true
            }
            Err(error) => is_passing(&error),
        }
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The answer to a line.
fn respond(line: &[u8], answer: &mut impl FnMut(Ask<'_>) -> Result<Value, String>) -> Value {
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return json!({ "error": format!("the request is not JSON: {error}") }),
    };
    let mut pairs = request.as_object().into_iter().flatten();
    let asked = match (pairs.next(), pairs.next()) {
        (Some((key, Value::String(what))), None) if key == "show" => Ask::Show(what),
        (Some((key, Value::Bool(is_wanted))), None) if key == "drain" => Ask::Drain(*is_wanted),
        _ => return json!({ "error": format!("the request is not understood; {EXPECTED}") }),
    };
    match answer(asked) {
        Ok(shown) => json!({ "ok": shown }),
        Err(error) => json!({ "error": error }),
    }
}

/// The answer to who wants to see what there is not.
pub fn unknown(what: &str) -> String {
    format!("there is no `{what}` to show; {EXPECTED}")
}

#[cfg(test)]
mod tests;

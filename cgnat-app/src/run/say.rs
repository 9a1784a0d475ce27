//! Output that must never end the program: whoever reads it may go away at any time (a pipe
//! that is closed, a journal that restarts), and the NAT goes on.

use std::io::Write as _;

/// A line, or lines, to standard output.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line, or lines, to standard error; nothing if there is nothing to say.
pub fn complain(text: &str) {
    let text = text.trim_end();
    if !text.is_empty() {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

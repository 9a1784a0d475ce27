//! What the main thread asks of housekeeping while the box runs: two ends of a channel.
//!
//! An answer may need every worker, so it comes rounds later; nobody waits for it.

use std::sync::mpsc::{self, Receiver, Sender};

use cgnat_core::config::Config;
use cgnat_core::housekeeping::{Housekeeping, Notice, ReloadError, Reloaded};
use cgnat_core::refusals::Remembered;

use super::report::Space;

/// What became of a reload.
pub type ReloadAnswer = Result<Reloaded, ReloadError>;

/// What a running box says of itself beside its counters.
pub struct Told {
    /// What subscribers were refused.
    pub refusals: Remembered,
    /// What housekeeping knows of the pools.
    pub space: Space,
}

/// A question, with the way for its answer.
pub enum Request {
    /// Carry out this configuration.
    Reload(Box<Config>, Sender<ReloadAnswer>),
    /// Say what only workers and housekeeping know.
    Tell(Sender<Told>),
}

/// The main thread's end.
pub struct Front {
    requests: Sender<Request>,
    notices: Receiver<Notice>,
}

/// Housekeeping's end.
pub struct Back {
    requests: Receiver<Request>,
    notices: Sender<Notice>,
    /// Carried out, but not every worker has answered.
    reload: Option<(Sender<ReloadAnswer>, Reloaded)>,
    /// Asked, but not every worker has answered.
    tell: Option<Sender<Told>>,
}

/// Both ends.
pub fn ends() -> (Front, Back) {
    let (requests, taken) = mpsc::channel();
    // No more than addresses can come to an end of theirs between two requests.
    let (told, notices) = mpsc::channel();
    let back = Back { requests: taken, notices: told, reload: None, tell: None };
    (Front { requests, notices }, back)
}

impl Front {
    /// Asks; the answer comes at the other end of the channel in `request`. Says whether
    /// anybody is there.
    pub fn ask(&self, request: Request) -> bool {
        self.requests.send(request).is_ok()
    }

    /// What housekeeping has noticed since the last call.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        self.notices.try_iter()
    }
}

impl Back {
    /// One round: begins what is asked, answers what is done, passes on what was noticed.
    pub fn serve(&mut self, housekeeping: &mut Housekeeping) {
        // Whoever asked may have gone; then nobody wants the answer.
        if !housekeeping.is_reloading()
            && let Some((answer, done)) = self.reload.take()
        {
            let _ = answer.send(Ok(done));
        }
        if let Some(refusals) = housekeeping.take_refusals()
            && let Some(answer) = self.tell.take()
        {
            let _ = answer.send(Told { refusals, space: Space::of(housekeeping) });
        }
        if self.reload.is_none()
            && self.tell.is_none()
            && let Ok(request) = self.requests.try_recv()
        {
            self.begin(housekeeping, request);
        }
        for notice in housekeeping.take_notices() {
            let _ = self.notices.send(notice);
        }
    }

    fn begin(&mut self, housekeeping: &mut Housekeeping, request: Request) {
        match request {
            Request::Reload(config, answer) => match housekeeping.reload(&config) {
                Ok(done) => self.reload = Some((answer, done)),
                Err(error) => _ = answer.send(Err(error)),
            },
            Request::Tell(answer) => {
                housekeeping.ask_refusals();
                self.tell = Some(answer);
            }
        }
    }
}

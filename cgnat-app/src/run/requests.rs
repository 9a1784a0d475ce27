//! What the main thread asks of housekeeping while the box runs: two ends of a channel.
//!
//! An answer may need every worker, so it comes rounds later; nobody waits for it.

use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use cgnat_core::config::Config;
use cgnat_core::housekeeping::{Conflict, Housekeeping, Notice, ReloadError, Reloaded};
use cgnat_core::refusals::Remembered;

use super::report::Space;
use super::say::complain;

/// After this it is said that an answer is still awaited.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// A question that is not answered yet.
pub struct Awaited<T> {
    /// For the sentences about it.
    what: &'static str,
    answer: Receiver<T>,
    since: Instant,
    is_late: bool,
}

/// What has become of a question.
pub enum Heard<T> {
    /// It is answered.
    Answer(T),
    /// Not yet.
    Nothing,
    /// It never will be: housekeeping has ended.
    Lost,
}

impl<T> Awaited<T> {
    /// The question and the way for its answer; `what` names it to the operator.
    pub fn new(what: &'static str) -> (Self, Sender<T>) {
        let (sender, answer) = mpsc::channel();
        (Self { what, answer, since: Instant::now(), is_late: false }, sender)
    }

    /// Looks for the answer. Does not wait; says once that it takes long.
    pub fn hear(&mut self) -> Heard<T> {
        match self.answer.try_recv() {
            Ok(answer) => Heard::Answer(answer),
            Err(TryRecvError::Disconnected) => Heard::Lost,
            Err(TryRecvError::Empty) => {
                if !self.is_late && self.since.elapsed() > PATIENCE {
                    self.is_late = true;
                    complain(&format!("{}: not every worker has answered yet", self.what));
                }
                Heard::Nothing
            }
        }
    }
}

/// The main thread's end.
pub struct Front {
    requests: Sender<Request>,
    notices: Receiver<Notice>,
    conflicts: Receiver<Conflict>,
}

/// Housekeeping's end.
pub struct Back {
    requests: Receiver<Request>,
    notices: Sender<Notice>,
    conflicts: Sender<Conflict>,
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
    // Few: housekeeping does not repeat itself.
    let (seen, conflicts) = mpsc::channel();
    let back = Back { requests: taken, notices: told, conflicts: seen, reload: None, tell: None };
    (Front { requests, notices, conflicts }, back)
}

impl Front {
    /// Asks; whoever made the request hears what becomes of it, also that nobody is there.
    pub fn ask(&self, request: Request) {
        let _ = self.requests.send(request);
    }

    /// What housekeeping has noticed since the last call.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        self.notices.try_iter()
    }

    /// What neighbours did that is amiss, since the last call.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.conflicts.try_iter()
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
        for conflict in housekeeping.take_conflicts() {
            let _ = self.conflicts.send(conflict);
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

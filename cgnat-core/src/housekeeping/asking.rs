//! Asking the workers what their shards remember, while they go on.
//!
//! A worker fills a page at a time, in memory that housekeeping brings, so that no packet waits
//! for an operator's question. One worker after the other, page after page.

use super::Link;
use crate::control::Command;
use crate::refusals::{Page, Remembered};

/// One question at a time.
#[derive(Default)]
pub(super) struct Asking {
    under_way: Option<Remembered>,
    answer: Option<Remembered>,
}

impl Asking {
    /// Begins. While a question is under way its answer serves for this one too.
    pub(super) fn begin(&mut self, links: &mut [Link]) {
        if self.under_way.is_none() {
            self.under_way = Some(Remembered::default());
            links[0].send(Command::TellRefusals(Page::default()));
        }
    }

    /// A page has come from `worker`: asks for the next, of it or of the next worker.
    pub(super) fn told(&mut self, links: &mut [Link], worker: usize, page: Page) {
        let Some(remembered) = &mut self.under_way else {
            return;
        };
        remembered.add_page(&page);
        if page.has_more() {
            links[worker].send(Command::TellRefusals(page));
        } else if let Some(next) = links.get_mut(worker + 1) {
            next.send(Command::TellRefusals(Page::default()));
        } else {
            self.answer = self.under_way.take();
        }
    }

    /// The answer, once every worker has given its own.
    pub(super) fn take(&mut self) -> Option<Remembered> {
        self.answer.take()
    }
}

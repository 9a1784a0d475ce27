//! Handing learned routes to the workers: one version at a time.

use std::sync::Arc;

use super::Link;
use super::resolve::Resolver;
use crate::control::Command;
use crate::time::Instant;
use crate::worker::routes::Routes;

pub(super) struct Routing {
    /// Version that each worker has; 0 is none.
    versions: Vec<u64>,
    latest: Option<Arc<Routes>>,
    in_use: Option<Arc<Routes>>,
}

impl Routing {
    pub(super) fn new(workers: usize) -> Self {
        Self { versions: vec![0; workers], latest: None, in_use: None }
    }

    fn is_under_way(&self) -> bool {
        let latest = self.latest.as_ref().map_or(0, |routes| routes.version());
        self.versions.iter().any(|version| *version != latest)
    }

    pub(super) fn route(
        &mut self,
        links: &mut [Link],
        resolver: &mut Resolver<u32>,
        routes: Arc<Routes>,
        clock: Instant,
    ) -> Result<(), Arc<Routes>> {
        if self.is_under_way() {
            return Err(routes);
        }
        resolver.set_learned(routes.next_hops(), clock);
        for link in links {
            link.send(Command::Route(routes.clone()));
        }
        self.latest = Some(routes);
        Ok(())
    }

    /// A worker has answered.
    pub(super) fn routed(&mut self, worker: u16, version: u64) {
        self.versions[usize::from(worker)] = version;
        if !self.is_under_way() {
            self.in_use.clone_from(&self.latest);
        }
    }

    pub(super) fn in_use(&self) -> Option<&Arc<Routes>> {
        self.in_use.as_ref()
    }
}

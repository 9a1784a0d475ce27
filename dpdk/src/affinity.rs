//! Which CPUs a thread may run on.
//!
//! `Eal::init` pins its calling thread to the main lcore's CPU, and threads started from it
//! inherit that. Threads that do not forward packets reset it with the function here.

use rustix::io::Errno as OsError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Why a thread could not be bound to CPUs.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// The list is empty or names a CPU beyond what the kernel interface takes.
    #[error("CPU list {cpus:?}: name at least one CPU, each below {limit}")]
    Cpus {
        /// The list as given.
        cpus: Vec<u16>,
        /// First CPU number that cannot be named.
        limit: usize,
    },
    /// The kernel refused: no such CPU, or not in this process's cpuset.
    #[error(
        "sched_setaffinity to CPUs {cpus:?} failed: {source}; see Cpus_allowed_list in \
         /proc/self/status and the cpuset of the service or container"
    )]
    SetAffinity {
        /// The list as given.
        cpus: Vec<u16>,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Lets the calling thread run on `cpus` only. Threads it starts later inherit the list.
pub fn set_current_thread_affinity(cpus: &[u16]) -> Result<(), AffinityError> {
    if cpus.is_empty() || cpus.iter().any(|&cpu| usize::from(cpu) >= CpuSet::MAX_CPU) {
        return Err(AffinityError::Cpus { cpus: cpus.to_vec(), limit: CpuSet::MAX_CPU });
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(usize::from(cpu));
    }
    sched_setaffinity(None, &set)
        .map_err(|error| AffinityError::SetAffinity { cpus: cpus.to_vec(), source: error.into() })
}

/// The first of `cpus` that a thread of this process may not be bound to. Tried for real,
/// because the EAL ends the process with an abort when it finds out itself.
pub(crate) fn first_forbidden(cpus: impl Iterator<Item = u16>) -> Option<(u16, std::io::Error)> {
    let before = sched_getaffinity(None);
    let mut found = None;
    for cpu in cpus {
        let outcome = if usize::from(cpu) < CpuSet::MAX_CPU {
            let mut set = CpuSet::new();
            set.set(usize::from(cpu));
            sched_setaffinity(None, &set)
        } else {
            Err(OsError::INVAL)
        };
        if let Err(error) = outcome {
            found = Some((cpu, error.into()));
            break;
        }
    }
    if let Ok(before) = before {
        // Failing to widen it again leaves the thread on a CPU the caller listed.
        let _ = sched_setaffinity(None, &before);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_and_an_absent_cpu_are_refused() {
        assert!(matches!(set_current_thread_affinity(&[]), Err(AffinityError::Cpus { .. })));
        assert!(matches!(set_current_thread_affinity(&[5000]), Err(AffinityError::Cpus { .. })));
        assert!(matches!(
            set_current_thread_affinity(&[1023]),
            Err(AffinityError::SetAffinity { .. })
        ));
    }

    #[test]
    fn probing_cpus_leaves_the_affinity_as_it_was() {
        let before = sched_getaffinity(None).unwrap();
        let (cpu, _) = first_forbidden([1023].into_iter()).unwrap();
        assert_eq!(cpu, 1023);
        assert!(sched_getaffinity(None).unwrap() == before);
    }

    #[test]
    fn a_thread_can_be_bound_to_one_of_its_cpus() {
        let allowed = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
        set_current_thread_affinity(&[cpu as u16]).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
    }
}

//! One instance of a name at a time: a lock file that the kernel releases when we die.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The right to run under a name; held until dropped.
pub struct Instance {
    _lock: File,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one runs.
    #[error(
        "an instance named `{name}` is running already (process {pid}); stop it, or give this \
         one another `system.name`"
    )]
    Running {
        /// Its name.
        name: String,
        /// Its process.
        pid: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}: {error}; set RUNTIME_DIRECTORY to a directory you may write")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

impl Instance {
    /// Claims `name` below the runtime directory.
    ///
    /// # Errors
    /// Another instance has the name, or the lock file cannot be made.
    pub fn claim(name: &str) -> Result<Self, InstanceError> {
        Self::claim_in(&runtime_directory(), name)
    }

    fn claim_in(directory: &Path, name: &str) -> Result<Self, InstanceError> {
        let path = directory.join(format!("cgnat-{name}.lock"));
        let failed = |error| InstanceError::Lock { path: path.clone(), error };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed)?;
                let pid = pid.trim().to_owned();
                return Err(InstanceError::Running { name: name.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _lock: file })
    }
}

/// Where systemd or the user's session keeps run-time files; else `/run` for root.
fn runtime_directory() -> PathBuf {
    for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"] {
        if let Some(directory) = std::env::var_os(variable).filter(|d| !d.is_empty()) {
            return PathBuf::from(directory);
        }
    }
    let run = Path::new("/run");
    let writable = rustix::fs::access(run, rustix::fs::Access::WRITE_OK).is_ok();
    if writable { run.to_owned() } else { std::env::temp_dir() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_once_and_free_again_afterwards() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Instance::claim_in(directory.path(), "a").expect("free");
        let error = Instance::claim_in(directory.path(), "a").err().expect("taken");
        let pid = std::process::id();
        assert_eq!(
            error.to_string(),
            format!(
                "an instance named `a` is running already (process {pid}); stop it, or give \
                 this one another `system.name`"
            )
        );
        assert!(Instance::claim_in(directory.path(), "b").is_ok());
        drop(first);
        assert!(Instance::claim_in(directory.path(), "a").is_ok());
    }
}

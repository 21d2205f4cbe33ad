//! One call at a time for each volume.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

/// What is being worked on. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Locks {
    held: Arc<Mutex<HashSet<String>>>,
}

impl Locks {
    /// Takes `key` until the guard is dropped. Never waits: the caller asks again, as it does after any error.
    ///
    /// The guard goes into the job that does the work, not into the future that waits for it: a caller that
    /// gives up does not end a job that hangs.
    pub fn take(&self, key: &str) -> Result<Guard, Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(key.to_owned()) {
            return Err(Error::Aborted(format!("another call for {key:?} is under way")));
        }
        Ok(Guard { locks: self.clone(), key: key.to_owned() })
    }
}

/// Gives the key back when it is dropped.
#[derive(Debug)]
pub struct Guard {
    locks: Locks,
    key: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.locks.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_is_aborted() {
        let locks = Locks::default();
        let first = locks.take("a").unwrap();
        assert_eq!(locks.take("a").unwrap_err().code(), tonic::Code::Aborted);
        assert!(locks.take("b").is_ok());
        drop(first);
        assert!(locks.take("a").is_ok());
    }
}

//! The process that something was opened in.
//!
//! After a fork two processes have the same connections, generators and masks. If both used them,
//! one mask would be subtracted from two values. So whatever sends or spends asks first whether it
//! is still where it was opened, and in a child it is dropped without touching what the child
//! shares with its parent: the socket and the files.

/// Where something was opened. The system is asked each time: one call that does not wait.
#[derive(Clone, Copy, Debug)]
pub struct Home(u32);

impl Home {
    /// This process.
    pub fn here() -> Home {
        Home(this_process())
    }

    /// Whether this process is the one, not a child that was forked from it.
    pub fn is_here(self) -> bool {
        self.0 == this_process()
    }
}

fn this_process() -> u32 {
    #[cfg(test)]
    if CHILD.get() {
        return 0; // No process has this number.
    }
    std::process::id()
}

#[cfg(test)]
thread_local! {
    static CHILD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `act` as if in a child that was forked from this process; the real ones are in
/// `tests/python/test_fork.py`.
#[cfg(test)]
pub(crate) fn in_a_child<T>(act: impl FnOnce() -> T) -> T {
    CHILD.set(true);
    let result = act();
    CHILD.set(false);
    result
}

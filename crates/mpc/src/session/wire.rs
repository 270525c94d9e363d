//! A byte stream that can be interrupted: what frames travel on.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use super::error::SessionError;

/// How often a wait looks at the interrupt hook and the clock.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Most that is read of a peer behind our own last word, bytes as they travel.
pub(super) const DROPPED_BYTES: usize = 64 << 20;

/// Asks whether to give up; called about every 100 ms while waiting.
pub type Interrupt = Box<dyn FnMut() -> bool + Send>;

/// A byte stream. Both calls either do all of it or fail; bytes read before a failure stay in
/// `out`.
pub(super) trait Wire: Send {
    /// Writes `header` and `payload` together and flushes.
    fn write(&mut self, header: &[u8], payload: &[u8], watch: &mut Watch) -> Result<(), SessionError>;

    /// Appends exactly `n` bytes to `out`. Unless the caller has made room, the allocation follows
    /// what has arrived, not `n`.
    fn read(&mut self, out: &mut Vec<u8>, n: usize, watch: &mut Watch) -> Result<(), SessionError>;

    /// Ends this direction behind what was written, and drops what the peer still sends until it
    /// ends its own, `watch` says to stop, or [`DROPPED_BYTES`] have come. A socket that is closed
    /// with bytes unread resets the connection, and what was written may never be read.
    fn end(&mut self, watch: &mut Watch);
}

/// When to stop waiting.
pub(super) struct Watch {
    pub(super) interrupt: Option<Interrupt>,
    /// Longest silence of the peer.
    pub(super) idle: Duration,
    /// End of the handshake, or of a connection that we gave up, however chatty the peer is.
    pub(super) deadline: Option<(Instant, Duration)>,
    last_progress: Instant,
    last_look: Instant,
}

impl Watch {
    pub(super) fn new(idle: Duration) -> Watch {
        let now = Instant::now();
        Watch { interrupt: None, idle, deadline: None, last_progress: now, last_look: now }
    }

    /// Nothing takes longer than `allowed` from here on.
    pub(super) fn limit(&mut self, allowed: Duration) {
        self.deadline = Some((Instant::now() + allowed, allowed));
    }

    /// Bytes moved (or a new wait begins).
    pub(super) fn progress(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Called in every turn of a wait loop.
    pub(super) fn check(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        if now.duration_since(self.last_look) >= TICK {
            self.last_look = now;
            if self.interrupt.as_mut().is_some_and(|stop| stop()) {
                return Err(SessionError::Interrupted);
            }
        }
        if now.duration_since(self.last_progress) >= self.idle {
            return Err(SessionError::Timeout { seconds: self.idle.as_secs() });
        }
        match self.deadline {
            Some((end, allowed)) if now >= end => Err(SessionError::Timeout { seconds: allowed.as_secs() }),
            _ => Ok(()),
        }
    }
}

/// Appends `bytes`, growing `out` by doubling but never beyond `target` bytes.
pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8], target: usize) {
    if out.capacity() - out.len() < bytes.len() {
        let wanted =
            (2 * out.capacity()).max(out.len() + bytes.len()).min(target.max(out.len() + bytes.len()));
        out.reserve_exact(wanted - out.len());
    }
    out.extend_from_slice(bytes);
}

/// Waits one [`TICK`] at most for `events`; nothing is ready after a tick or a signal.
pub(super) fn wait_tick(socket: &impl AsFd, events: PollFlags) -> Result<PollFlags, SessionError> {
    let mut fds = [PollFd::new(socket, events)];
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as _ };
    match poll(&mut fds, Some(&tick)) {
        Ok(_) => Ok(fds[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(e) => Err(SessionError::io("waiting for the peer", &e.into())),
    }
}

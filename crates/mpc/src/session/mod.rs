//! A [`Connection`] to the other party: framed messages over TLS 1.3, counted per phase,
//! interruptible.
//!
//! # Wire format
//! A message is one or more frames; a frame is `length: u32 LE | kind: u8 | payload`,
//! `length ≤ 16 MiB` counting the payload alone.
//!
//! | kind | payload |
//! |---|---|
//! | 1 `DATA` | the message, or its last piece |
//! | 2 `PART` | a piece of a message, more follows; never empty |
//! | 3 `CONTROL` | a JSON document, at most 1 MiB |
//! | 4 `FAILURE` | JSON `{phase, kind, text}`, at most 4 KiB: the sender gives up |
//!
//! Data messages carry no length of their own that anyone trusts: the protocol knows how many bytes
//! come next.

mod connect;
mod error;
mod handshake;
mod identity;
#[cfg(any(test, feature = "test-transport"))]
mod memory;
mod stats;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::time::Duration;

use cryptogen_party::{Channel, ChannelError, MessageError, Party};
use serde_json::{json, Value};

use crate::Home;

pub use connect::{connect, Listener};
pub use error::SessionError;
pub use handshake::{AccessToken, Agreement, Hello, Introduction, Policy, Welcome, PROTOCOL_VERSION};
pub use identity::{Identity, Trust};
#[cfg(any(test, feature = "test-transport"))]
pub use memory::{Deviation, Heard};
pub use stats::{Phase, PhaseStats, SessionStats};
pub use wire::Interrupt;

use error::short;
use stats::Counter;
use wire::{Watch, Wire};

/// Largest payload of one frame, bytes.
pub const MAX_FRAME: usize = 16 << 20;
/// Largest control message, bytes.
pub const MAX_CONTROL: usize = 1 << 20;
/// Silence of the peer after which a wait fails, unless set otherwise.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(600);

/// Longest that a peer is still listened to when we have given up.
const ENDING: Duration = Duration::from_secs(2);

const MAX_FAILURE: usize = 4 << 10;
const HEADER: usize = 5;

const DATA: u8 = 1;
const PART: u8 = 2;
const CONTROL: u8 = 3;
const FAILURE: u8 = 4;

/// Party `P`'s end of the connection to its peer.
///
/// Messages are delivered whole and in order. After a failure in the middle of a message that
/// direction stays closed; an interrupt or time-out before a message's payload began loses nothing
/// and the call may be repeated.
pub struct Connection<P: Party> {
    home: Home,
    wire: Box<dyn Wire>,
    watch: Watch,
    counter: Counter,
    /// Header of the next frame as far as it has come; survives an interrupt.
    header: Vec<u8>,
    mid_message: bool,
    can_send: bool,
    can_receive: bool,
    failure: Option<SessionError>,
    party: PhantomData<P>,
}

impl<P: Party> Connection<P> {
    fn over(wire: Box<dyn Wire>) -> Self {
        Connection {
            home: Home::here(),
            wire,
            watch: Watch::new(DEFAULT_IDLE),
            counter: Counter::default(),
            header: Vec::with_capacity(HEADER),
            mid_message: false,
            can_send: true,
            can_receive: true,
            failure: None,
            party: PhantomData,
        }
    }

    /// Whether this process may use the connection.
    ///
    /// # Errors
    /// `Forked` in a child of the process that opened it. So do all messages, either way.
    pub fn check_home(&self) -> Result<(), SessionError> {
        if self.home.is_here() {
            Ok(())
        } else {
            Err(SessionError::Forked)
        }
    }

    /// Called about every 100 ms while waiting; returning true makes the wait fail with
    /// `Interrupted`.
    pub fn set_interrupt(&mut self, hook: Interrupt) {
        self.watch.interrupt = Some(hook);
    }

    /// Longest silence of the peer that is tolerated; 600 s by default.
    pub fn set_idle_timeout(&mut self, idle: Duration) {
        self.watch.idle = idle;
    }

    /// Limits everything up to [`Connection::opened`] to `allowed` in total.
    fn limit_handshake(&mut self, allowed: Duration) {
        self.watch.limit(allowed);
    }

    /// The handshake is over.
    fn opened(&mut self) {
        self.watch.deadline = None;
    }

    /// Books what follows on `phase`.
    pub fn set_phase(&mut self, phase: Phase) {
        self.counter.phase = phase;
    }

    /// The phase that is being booked.
    pub fn phase(&self) -> Phase {
        self.counter.phase
    }

    /// The counters so far.
    pub fn stats(&self) -> SessionStats {
        self.counter.stats
    }

    /// The last error in full, which [`Channel`]'s narrower error may have abridged.
    pub fn take_failure(&mut self) -> Option<SessionError> {
        self.failure.take()
    }

    /// Sends one message of any length.
    ///
    /// # Errors
    /// `Closed`, `Forked`, `Io`, `Interrupted`, `Timeout`; `Peer` if the peer reported a failure
    /// before it closed.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.sending(|this| {
            let last = bytes.len().saturating_sub(1) / MAX_FRAME * MAX_FRAME;
            for at in (0..=last).step_by(MAX_FRAME) {
                let piece = &bytes[at..bytes.len().min(at + MAX_FRAME)];
                this.write_frame(if at == last { DATA } else { PART }, piece)?;
            }
            this.counter.sent(bytes.len() + HEADER * (last / MAX_FRAME + 1));
            Ok(())
        })
    }

    /// Receives the next message, which must be data of exactly `len` bytes.
    ///
    /// # Errors
    /// `Message` for any other length or kind, `Peer` if the peer reports a failure, and those of
    /// [`Connection::send_bytes`].
    pub fn recv_bytes(&mut self, len: usize) -> Result<Vec<u8>, SessionError> {
        self.receiving(|this| {
            let (mut out, mut frames) = (Vec::new(), 0);
            loop {
                // From the second frame on, giving up would lose the first.
                this.mid_message = frames > 0;
                let (kind, size) = this.read_header()?;
                let more = match kind {
                    DATA => false,
                    PART if size > 0 => true,
                    PART => return Err(MessageError::Malformed("empty piece of a message").into()),
                    _ => {
                        return Err(MessageError::Malformed("control message where data was expected").into())
                    }
                };
                let actual = out.len() + size;
                if actual > len || (!more && actual < len) {
                    return Err(MessageError::Length { expected: len, actual }.into());
                }
                // At most a frame, and no more than the protocol expects: growing by doubling would
                // copy megabytes.
                out.reserve_exact(size);
                this.wire.read(&mut out, size, &mut this.watch)?;
                this.header.clear();
                frames += 1;
                if !more {
                    this.mid_message = false;
                    this.counter.received(len + HEADER * frames);
                    return Ok(out);
                }
            }
        })
    }

    /// Sends a JSON document of at most 1 MiB.
    ///
    /// # Errors
    /// `Unsendable`, and those of [`Connection::send_bytes`].
    pub fn send_control(&mut self, message: &Value) -> Result<(), SessionError> {
        let text = message.to_string();
        if text.len() > MAX_CONTROL {
            return Err(SessionError::Unsendable { limit: MAX_CONTROL, actual: text.len() });
        }
        self.sending(|this| {
            this.write_frame(CONTROL, text.as_bytes())?;
            this.counter.sent(text.len() + HEADER);
            Ok(())
        })
    }

    /// Receives a JSON document of at most 1 MiB. Its content is the peer's: check it.
    ///
    /// # Errors
    /// `Message` if it is too large, not JSON or not a control message, and those of
    /// [`Connection::send_bytes`].
    pub fn recv_control(&mut self) -> Result<Value, SessionError> {
        self.receiving(|this| {
            let (kind, size) = this.read_header()?;
            if kind != CONTROL {
                return Err(MessageError::Malformed("data where a control message was expected").into());
            }
            let text = this.read_small(size, MAX_CONTROL)?;
            this.counter.received(size + HEADER);
            serde_json::from_slice(&text)
                .map_err(|_| MessageError::Malformed("control message is not JSON").into())
        })
    }

    /// Tells the peer that we give up: the phase, a kind and a short text (cut at 200 characters),
    /// no secrets. It is the last message of the connection either way.
    ///
    /// So that the peer can read it however much it is sending, what still comes is dropped, for
    /// two seconds and 64 MiB at most: then the connection is over for a peer that goes on.
    ///
    /// # Errors
    /// Those of [`Connection::send_bytes`]; `Timeout` if the peer does not take it in that time.
    pub fn send_failure(&mut self, kind: &str, text: &str) -> Result<(), SessionError> {
        let message = json!({"phase": self.phase(), "kind": short(kind, 40), "text": short(text, 200)});
        self.watch.limit(ENDING);
        let sent = self.sending(|this| {
            this.write_frame(FAILURE, message.to_string().as_bytes())?;
            this.wire.end(&mut this.watch);
            Ok(())
        });
        if sent != Err(SessionError::Forked) {
            (self.can_send, self.can_receive) = (false, false);
        }
        sent
    }

    fn sending(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        self.check_home()?;
        if !self.can_send {
            return Err(SessionError::Closed);
        }
        self.watch.progress();
        let mut result = act(self);
        if result.is_err() {
            // Part of a frame may be out: whatever we sent next would be misread.
            self.can_send = false;
        }
        if result == Err(SessionError::Closed) && self.can_receive && self.header.is_empty() {
            // The peer may have said why before it closed, behind messages that nobody read.
            // Nothing here waits: the stream has ended.
            if let Err(why @ SessionError::Peer { .. }) = self.read_to_the_end() {
                result = Err(why);
            }
            self.can_receive = false;
        }
        self.noted(result)
    }

    fn receiving<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        self.check_home()?;
        if !self.can_receive {
            return Err(SessionError::Closed);
        }
        self.watch.progress();
        let result = act(self);
        if let Err(error) = &result {
            let waiting = matches!(error, SessionError::Interrupted | SessionError::Timeout { .. });
            self.can_receive = waiting && self.header.len() < HEADER && !self.mid_message;
        }
        self.noted(result)
    }

    fn noted<T>(&mut self, result: Result<T, SessionError>) -> Result<T, SessionError> {
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    fn write_frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), SessionError> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[4] = kind;
        self.wire.write(&header, payload, &mut self.watch)
    }

    /// Drops frame after frame. The error that ends it may be the peer's.
    fn read_to_the_end(&mut self) -> Result<(), SessionError> {
        loop {
            let (_, size) = self.read_header()?;
            self.read_small(size, MAX_FRAME)?;
        }
    }

    /// Kind and payload length of the next frame; a failure message becomes the error it reports.
    fn read_header(&mut self) -> Result<(u8, usize), SessionError> {
        let missing = HEADER - self.header.len();
        self.wire.read(&mut self.header, missing, &mut self.watch)?;
        let kind = self.header[4];
        let size = self.header[..4].iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
        if size > MAX_FRAME {
            return Err(MessageError::TooLarge { limit: MAX_FRAME, actual: size }.into());
        }
        match kind {
            DATA | PART | CONTROL => Ok((kind, size)),
            FAILURE => Err(parse_failure(&self.read_small(size, MAX_FAILURE)?)),
            _ => Err(MessageError::Malformed("unknown kind of frame").into()),
        }
    }

    fn read_small(&mut self, size: usize, limit: usize) -> Result<Vec<u8>, SessionError> {
        if size > limit {
            return Err(MessageError::TooLarge { limit, actual: size }.into());
        }
        let mut out = Vec::new();
        self.wire.read(&mut out, size, &mut self.watch)?;
        self.header.clear();
        Ok(out)
    }
}

fn parse_failure(bytes: &[u8]) -> SessionError {
    let Ok(message) = serde_json::from_slice::<Value>(bytes) else {
        return MessageError::Malformed("failure message is not JSON").into();
    };
    let field = |name: &str, max| short(message.get(name).and_then(Value::as_str).unwrap_or("unknown"), max);
    SessionError::Peer { phase: field("phase", 40), kind: field("kind", 40), text: field("text", 200) }
}

impl<P: Party> Channel for Connection<P> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        Ok(self.send_bytes(bytes)?)
    }

    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError> {
        Ok(self.recv_bytes(len)?)
    }
}

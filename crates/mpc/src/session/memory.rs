//! Two connections in one process, for tests of protocols. Nothing is encrypted. And a party that
//! deviates, on a connection of any kind.

use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};

use cryptogen_party::{Client, Party, Server};

use super::error::SessionError;
use super::wire::{append, Watch, Wire, TICK};
use super::{Connection, CONTROL, HEADER};

pub(super) struct MemoryWire {
    to: Sender<Vec<u8>>,
    from: Receiver<Vec<u8>>,
    rest: Vec<u8>,
    at: usize,
}

/// Both ends of an in-memory stream.
pub(super) fn wire_pair() -> (MemoryWire, MemoryWire) {
    let ((a_to, a_from), (b_to, b_from)) = (channel(), channel());
    let end = |to, from| MemoryWire { to, from, rest: Vec::new(), at: 0 };
    (end(a_to, b_from), end(b_to, a_from))
}

#[cfg(test)]
impl MemoryWire {
    /// Sends raw bytes to the other end.
    pub(super) fn sender(&self) -> Sender<Vec<u8>> {
        self.to.clone()
    }
}

impl Connection<Client> {
    /// A client and a server in one process, each for its own thread. Same framing and counters as
    /// over TLS.
    pub fn memory_pair() -> (Connection<Client>, Connection<Server>) {
        let (client, server) = wire_pair();
        (Connection::over(Box::new(client)), Connection::over(Box::new(server)))
    }
}

impl Wire for MemoryWire {
    fn write(&mut self, header: &[u8], payload: &[u8], _watch: &mut Watch) -> Result<(), SessionError> {
        let mut bytes = Vec::with_capacity(header.len() + payload.len());
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(payload);
        self.to.send(bytes).map_err(|_| SessionError::Closed)
    }

    fn read(&mut self, out: &mut Vec<u8>, n: usize, watch: &mut Watch) -> Result<(), SessionError> {
        let target = out.len() + n;
        while out.len() < target {
            let taken = (self.rest.len() - self.at).min(target - out.len());
            append(out, &self.rest[self.at..self.at + taken], target);
            self.at += taken;
            if out.len() < target {
                match self.from.recv_timeout(TICK) {
                    Ok(bytes) => {
                        (self.rest, self.at) = (bytes, 0);
                        watch.progress();
                    }
                    Err(RecvTimeoutError::Timeout) => watch.check()?,
                    Err(RecvTimeoutError::Disconnected) => return Err(SessionError::Closed),
                }
            }
        }
        Ok(())
    }

    /// What was written stays readable without it.
    fn end(&mut self, _watch: &mut Watch) {}
}

/// Whether a frame is a control message, and its payload, which may be changed.
pub type Deviation = Box<dyn FnMut(bool, &mut Vec<u8>) + Send>;

/// What has come over a connection: frames as they are.
pub type Heard = Arc<Mutex<Vec<u8>>>;

/// The wire of a party that changes what it sends and keeps what it hears.
struct Deviating {
    inner: Box<dyn Wire>,
    deviation: Deviation,
    heard: Heard,
}

impl Wire for Deviating {
    fn write(&mut self, header: &[u8], payload: &[u8], watch: &mut Watch) -> Result<(), SessionError> {
        let (kind, mut payload) = (header[HEADER - 1], payload.to_vec());
        (self.deviation)(kind == CONTROL, &mut payload);
        let size = u32::try_from(payload.len()).expect("frames are short").to_le_bytes();
        self.inner.write(&[&size[..], &[kind]].concat(), &payload, watch)
    }

    fn read(&mut self, out: &mut Vec<u8>, n: usize, watch: &mut Watch) -> Result<(), SessionError> {
        let start = out.len();
        let result = self.inner.read(out, n, watch);
        self.heard.lock().expect("nobody panics with it").extend_from_slice(&out[start..]);
        result
    }

    fn end(&mut self, watch: &mut Watch) {
        self.inner.end(watch);
    }
}

impl<P: Party> Connection<P> {
    /// From here on this end deviates: every frame that it sends goes through `deviation` first.
    /// Returns what it hears.
    pub fn insecure_deviate(&mut self, deviation: Deviation) -> Heard {
        let heard = Heard::default();
        // Nothing is sent over the wire that stands in while the real one is wrapped.
        let inner = std::mem::replace(&mut self.wire, Box::new(wire_pair().0));
        self.wire = Box::new(Deviating { inner, deviation, heard: heard.clone() });
        heard
    }
}

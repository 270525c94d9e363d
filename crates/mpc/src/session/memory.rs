//! Two connections in one process, for tests of protocols. Nothing is encrypted.

use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};

use cryptogen_party::{Client, Server};

use super::error::SessionError;
use super::wire::{append, Watch, Wire, TICK};
use super::Connection;

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
}

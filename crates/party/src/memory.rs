//! A channel within one process. Tests and benchmarks only: nothing is encrypted.

use std::sync::mpsc::{channel, Receiver, Sender};

use crate::channel::{Channel, ChannelError, MessageError};

/// One end of an in-memory channel; counts what it sends.
pub struct MemoryChannel {
    out: Sender<Vec<u8>>,
    inbox: Receiver<Vec<u8>>,
    /// Messages sent so far.
    pub messages: usize,
    /// Bytes sent so far.
    pub bytes: usize,
}

/// Two connected ends.
pub fn pair() -> (MemoryChannel, MemoryChannel) {
    let (a, b) = (channel(), channel());
    let end = |out, inbox| MemoryChannel { out, inbox, messages: 0, bytes: 0 };
    (end(a.0, b.1), end(b.0, a.1))
}

impl Channel for MemoryChannel {
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.messages += 1;
        self.bytes += bytes.len();
        self.out.send(bytes.to_vec()).map_err(|_| ChannelError::Closed)
    }

    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError> {
        let bytes = self.inbox.recv().map_err(|_| ChannelError::Closed)?;
        if bytes.len() != len {
            return Err(MessageError::Length { expected: len, actual: bytes.len() }.into());
        }
        Ok(bytes)
    }
}

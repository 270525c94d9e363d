//! TLS 1.3 over a non-blocking socket, driven by `poll` so that a wait can be interrupted and a
//! write goes on reading: two parties that send at the same time do not lock each other out.

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};

use rustix::event::PollFlags;
use rustls::Connection as Tls;

use super::error::{short, SessionError};
use super::wire::{append, wait_tick, Watch, Wire, DROPPED_BYTES};
use crate::Home;

/// Ciphertext taken from the socket in one call.
const SOCKET_BYTES: usize = 256 << 10;
/// Plaintext encrypted before it is handed to the socket in one call.
const SEND_BYTES: usize = 1 << 20;
/// Most plaintext kept for later while our own write is stuck; then the peer has to wait.
const INBOX_BYTES: usize = 64 << 20;

/// Fingerprint of a refused certificate and the one expected, left here by the verifier.
pub(super) type Refusal = Arc<OnceLock<(String, String)>>;

pub(super) struct TlsWire {
    home: Home,
    tls: Tls,
    socket: TcpStream,
    /// Ciphertext `[at, end)` not yet given to `tls`.
    cipher: Box<[u8]>,
    at: usize,
    end: usize,
    /// Plaintext that came while we were writing, from `inbox_at` on; older than what `tls` holds.
    inbox: Vec<u8>,
    inbox_at: usize,
    refusal: Refusal,
}

impl TlsWire {
    /// Wraps a connected socket. The TLS handshake runs in the first read or write.
    pub(super) fn new(mut tls: Tls, socket: TcpStream, refusal: Refusal) -> Result<TlsWire, SessionError> {
        let failed = |e: io::Error| SessionError::io("setting up the socket", &e);
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        tls.set_buffer_limit(Some(SEND_BYTES));
        let cipher = vec![0; SOCKET_BYTES].into_boxed_slice();
        Ok(TlsWire {
            home: Home::here(),
            tls,
            socket,
            cipher,
            at: 0,
            end: 0,
            inbox: Vec::new(),
            inbox_at: 0,
            refusal,
        })
    }

    fn handshake(&mut self, watch: &mut Watch) -> Result<(), SessionError> {
        while self.tls.is_handshaking() {
            self.flush(watch)?;
            if self.tls.is_handshaking() && !self.feed()? && !self.fill(watch)? {
                self.wait(PollFlags::IN, watch)?;
            }
        }
        self.flush(watch)
    }

    /// Writes out whatever TLS wants written.
    fn flush(&mut self, watch: &mut Watch) -> Result<(), SessionError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => watch.progress(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let room = self.inbox.len() - self.inbox_at < INBOX_BYTES && !self.tls.is_handshaking();
                    let ready =
                        self.wait(if room { PollFlags::IN | PollFlags::OUT } else { PollFlags::OUT }, watch)?;
                    if room && ready.intersects(PollFlags::IN | PollFlags::HUP) {
                        self.stow(watch)?;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SessionError::io("sending", &e)),
            }
            watch.check()?;
        }
        Ok(())
    }

    /// Reads what the socket has into the inbox.
    fn stow(&mut self, watch: &mut Watch) -> Result<(), SessionError> {
        self.fill(watch)?;
        loop {
            drain(&mut self.tls, &mut self.inbox, usize::MAX)?;
            if !self.feed()? {
                return Ok(());
            }
        }
    }

    /// Takes ciphertext from the socket if none is left over; false if there is none now.
    fn fill(&mut self, watch: &mut Watch) -> Result<bool, SessionError> {
        if self.at < self.end {
            return Ok(true);
        }
        match self.socket.read(&mut self.cipher) {
            Ok(0) => Err(SessionError::Closed),
            Ok(n) => {
                (self.at, self.end) = (0, n);
                watch.progress();
                Ok(true)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(SessionError::io("receiving", &e)),
        }
    }

    /// Decrypts some of the left-over ciphertext; false if there was none.
    fn feed(&mut self) -> Result<bool, SessionError> {
        if self.at == self.end {
            return Ok(false);
        }
        let mut rest = &self.cipher[self.at..self.end];
        self.tls.read_tls(&mut rest).map_err(|e| SessionError::io("receiving", &e))?;
        self.at = self.end - rest.len();
        match self.tls.process_new_packets() {
            Ok(_) => Ok(true),
            Err(error) => {
                // Tell the peer why, if the socket takes it; our own error is the one that counts.
                let _ = self.tls.write_tls(&mut self.socket);
                Err(match self.refusal.get() {
                    Some((expected, actual)) => {
                        SessionError::Fingerprint { expected: expected.clone(), actual: actual.clone() }
                    }
                    None => SessionError::Tls(short(&error.to_string(), 200)),
                })
            }
        }
    }

    fn wait(&self, events: PollFlags, watch: &mut Watch) -> Result<PollFlags, SessionError> {
        watch.check()?;
        wait_tick(&self.socket, events)
    }
}

/// Appends up to `n` bytes of the plaintext that TLS holds.
fn drain(tls: &mut Tls, out: &mut Vec<u8>, n: usize) -> Result<(), SessionError> {
    let target = out.len().saturating_add(n);
    while out.len() < target {
        let mut reader = tls.reader();
        let taken = match reader.fill_buf() {
            Ok([]) => return Err(SessionError::Closed),
            Ok(chunk) => {
                let taken = chunk.len().min(target - out.len());
                append(out, &chunk[..taken], target);
                taken
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(SessionError::io("receiving", &e)),
        };
        reader.consume(taken);
    }
    Ok(())
}

impl Wire for TlsWire {
    fn write(&mut self, header: &[u8], payload: &[u8], watch: &mut Watch) -> Result<(), SessionError> {
        self.handshake(watch)?;
        let (mut header, mut payload) = (header, payload);
        while !header.is_empty() || !payload.is_empty() {
            let slices = [IoSlice::new(header), IoSlice::new(payload)];
            let taken = self.tls.writer().write_vectored(&slices);
            let taken = taken.map_err(|e| SessionError::io("sending", &e))?;
            let of_header = taken.min(header.len());
            header = &header[of_header..];
            payload = &payload[taken - of_header..];
            self.flush(watch)?;
        }
        Ok(())
    }

    fn read(&mut self, out: &mut Vec<u8>, n: usize, watch: &mut Watch) -> Result<(), SessionError> {
        match self.handshake(watch) {
            // The peer takes nothing more. What it said before it closed can still be read.
            Err(SessionError::Closed) if !self.tls.is_handshaking() => {}
            done => done?,
        }
        let target = out.len() + n;
        if self.inbox_at < self.inbox.len() {
            let taken = n.min(self.inbox.len() - self.inbox_at);
            append(out, &self.inbox[self.inbox_at..self.inbox_at + taken], target);
            self.inbox_at += taken;
            if self.inbox_at == self.inbox.len() {
                (self.inbox, self.inbox_at) = (Vec::new(), 0);
            }
        }
        while out.len() < target {
            let missing = target - out.len();
            drain(&mut self.tls, out, missing)?;
            if out.len() < target && !self.feed()? && !self.fill(watch)? {
                self.wait(PollFlags::IN, watch)?;
            }
            watch.check()?;
        }
        Ok(())
    }

    fn end(&mut self, watch: &mut Watch) {
        self.tls.send_close_notify();
        if self.flush(watch).is_err() || self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        (self.inbox, self.inbox_at) = (Vec::new(), 0);
        let mut dropped = 0;
        while dropped < DROPPED_BYTES && watch.check().is_ok() {
            match self.socket.read(&mut self.cipher) {
                Ok(0) => return,
                Ok(n) => dropped += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if wait_tick(&self.socket, PollFlags::IN).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

impl Drop for TlsWire {
    fn drop(&mut self) {
        if !self.home.is_here() {
            return; // The parent goes on with the socket.
        }
        // A polite close as far as the socket takes it without waiting.
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut self.socket);
    }
}

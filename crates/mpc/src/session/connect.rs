//! From an address to a [`Connection`]: listen and accept, or connect.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{sync_channel, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptogen_party::{Client, Party, Server};
use rustix::event::PollFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::error::SessionError;
use super::identity::{Identity, Trust};
use super::tls::{Refusal, TlsWire};
use super::wire::{wait_tick, Interrupt, TICK};
use super::Connection;

/// Time for everything up to the end of the handshake, so that a silent stranger does not hold a
/// place.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Time for the TCP connection itself.
const CONNECT: Duration = Duration::from_secs(15);

/// A listening server socket.
pub struct Listener {
    socket: TcpListener,
    config: Arc<ServerConfig>,
}

impl Listener {
    /// Listens on `address` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// `AddressInUse`, `Address` if it cannot be resolved or is not ours, `Io`.
    pub fn bind(address: &str, identity: &Identity) -> Result<Listener, SessionError> {
        let socket = TcpListener::bind(address).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => SessionError::AddressInUse { address: address.to_owned() },
            _ => bad_address(address, &e),
        })?;
        socket.set_nonblocking(true).map_err(|e| SessionError::io("listening", &e))?;
        Ok(Listener { socket, config: identity.config.clone() })
    }

    /// The address in use, with the port that was taken.
    ///
    /// # Errors
    /// `Io`.
    pub fn local_addr(&self) -> Result<SocketAddr, SessionError> {
        self.socket.local_addr().map_err(|e| SessionError::io("listening", &e))
    }

    /// Waits for the next client. TLS begins with the connection's first use, which should be
    /// [`Connection::welcome`], in the client's own thread: nobody waits for a slow stranger here.
    ///
    /// # Errors
    /// `Interrupted` if `interrupt` returns true (asked about every 100 ms), `Io`, `Tls`.
    pub fn accept(&self, interrupt: &mut dyn FnMut() -> bool) -> Result<Connection<Server>, SessionError> {
        loop {
            if interrupt() {
                return Err(SessionError::Interrupted);
            }
            match self.socket.accept() {
                Ok((socket, _)) => {
                    let tls = ServerConnection::new(self.config.clone())
                        .map_err(|e| SessionError::Tls(e.to_string()))?;
                    return secure(tls.into(), socket, Refusal::default());
                }
                // A client that left before we came, or a signal, is no reason to stop serving.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_tick(&self.socket, PollFlags::IN)?;
                }
                Err(e) => return Err(SessionError::io("accepting", &e)),
            }
        }
    }
}

/// Connects to a server at `address` (`host:port`). TLS begins with the first use,
/// [`Connection::hello`]. `interrupt` is asked about every 100 ms and stays with the connection.
///
/// # Errors
/// `Address`, `Identity` for an unusable [`Trust`], `Interrupted`, `Timeout` after 15 s, `Io`
/// (refused, …).
pub fn connect(
    address: &str,
    trust: &Trust,
    interrupt: Option<Interrupt>,
) -> Result<Connection<Client>, SessionError> {
    let (config, refusal) = trust.config()?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host)
        .map_err(|e| SessionError::Address { address: address.to_owned(), reason: e.to_string() })?;
    let (socket, interrupt) = reach(address, interrupt)?;
    let tls = ClientConnection::new(config, name).map_err(|e| SessionError::Tls(e.to_string()))?;
    let mut connection = secure(tls.into(), socket, refusal)?;
    connection.watch.interrupt = interrupt;
    Ok(connection)
}

/// Resolves and connects in a thread of its own, because neither can be interrupted.
fn reach(
    address: &str,
    mut interrupt: Option<Interrupt>,
) -> Result<(TcpStream, Option<Interrupt>), SessionError> {
    let (done, result) = sync_channel(1);
    let target = address.to_owned();
    std::thread::spawn(move || {
        // Nobody listens any more after an interrupt; then the socket just closes.
        let _ = done.send(try_all(&target));
    });
    let end = Instant::now() + CONNECT;
    loop {
        match result.recv_timeout(TICK) {
            Ok(socket) => return Ok((socket?, interrupt)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => {
                if interrupt.as_mut().is_some_and(|stop| stop()) {
                    return Err(SessionError::Interrupted);
                }
            }
            Err(_) => return Err(SessionError::Timeout { seconds: CONNECT.as_secs() }),
        }
    }
}

fn try_all(address: &str) -> Result<TcpStream, SessionError> {
    let candidates = address.to_socket_addrs().map_err(|e| bad_address(address, &e))?;
    let mut last = SessionError::Address { address: address.to_owned(), reason: "no such host".into() };
    for candidate in candidates {
        match TcpStream::connect_timeout(&candidate, CONNECT) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = SessionError::Io { action: "connecting", kind: e.kind() },
        }
    }
    Err(last)
}

fn secure<P: Party>(
    tls: rustls::Connection,
    socket: TcpStream,
    refusal: Refusal,
) -> Result<Connection<P>, SessionError> {
    let mut connection = Connection::over(Box::new(TlsWire::new(tls, socket, refusal)?));
    connection.limit_handshake(HANDSHAKE);
    Ok(connection)
}

fn bad_address(address: &str, error: &io::Error) -> SessionError {
    SessionError::Address { address: address.to_owned(), reason: error.to_string() }
}

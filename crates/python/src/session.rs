//! Connections before the protocols start: identities, listening, connecting, handshakes.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cryptogen_mpc::session::{self as rust, AccessToken, Agreement, Introduction, Policy, Trust};
use cryptogen_mpc::store::{Binding, Store, StoreError};
use cryptogen_mpc::{Connection, Home, SessionError};
use cryptogen_party::{Client, Party, Server};
use cryptogen_protocols::endpoint::Protocol;
use pyo3::prelude::*;

use crate::encrypted::Choice;
use crate::endpoint::{ClientEndpoint, ServerEndpoint};
use crate::errors;
use crate::model::CheckedPlan;
use crate::shared::{lock, parse};

/// Names of the lattice parameter sets that both parties must use.
pub const PARAMETERS: &str = "N8192Q196 N4096Q84";
/// What both parties must speak; which of its protocols a session uses is agreed in
/// [`ClientConnection::open`].
const FAMILY: &str = "cryptogen";

/// Delivers Ctrl-C while Rust waits.
pub fn interrupted() -> bool {
    Python::attach(|py| py.check_signals().is_err())
}

/// The server's TLS certificate and key.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct Identity(rust::Identity);

#[pymethods]
impl Identity {
    #[staticmethod]
    fn load_or_create(directory: &str) -> PyResult<Identity> {
        rust::Identity::load_or_create(Path::new(directory)).map(Identity).map_err(errors::session)
    }
    #[staticmethod]
    fn from_pem(certificates: &str, key: &str) -> PyResult<Identity> {
        rust::Identity::from_pem(Path::new(certificates), Path::new(key))
            .map(Identity)
            .map_err(errors::session)
    }
    /// SHA-256 of the certificate, hex.
    #[getter]
    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }
}

/// A listening socket.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct Listener(rust::Listener);

#[pymethods]
impl Listener {
    #[new]
    fn new(address: &str, identity: &Identity) -> PyResult<Listener> {
        rust::Listener::bind(address, &identity.0).map(Listener).map_err(errors::session)
    }
    #[getter]
    fn address(&self) -> PyResult<String> {
        Ok(self.0.local_addr().map_err(errors::session)?.to_string())
    }
    /// The next client, or None after `timeout` seconds.
    fn accept(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<ServerConnection>> {
        let end = Instant::now() + Duration::from_secs_f64(timeout.clamp(0.0, 1e6));
        let mut stopped = false;
        let result = py.detach(|| {
            self.0.accept(&mut || {
                stopped = interrupted();
                stopped || Instant::now() >= end
            })
        });
        match result {
            Ok(mut c) => {
                c.set_interrupt(Box::new(interrupted));
                Ok(Some(ServerConnection(Held::new(c))))
            }
            Err(SessionError::Interrupted) if !stopped => Ok(None),
            Err(e) => Err(errors::session(e)),
        }
    }
}

/// A connection until the protocols start, which take it.
struct Held<P: Party> {
    home: Home,
    connection: Mutex<Option<Connection<P>>>,
}

impl<P: Party> Held<P> {
    fn new(connection: Connection<P>) -> Held<P> {
        Held { home: Home::here(), connection: Mutex::new(Some(connection)) }
    }

    /// The connection, if it is still here. Refused in a child before the lock, which a thread of
    /// the parent may hold.
    fn get(&self) -> PyResult<MutexGuard<'_, Option<Connection<P>>>> {
        if !self.home.is_here() {
            return Err(errors::session(SessionError::Forked));
        }
        Ok(lock(&self.connection))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Connection<P>) -> Result<T, SessionError>) -> PyResult<T> {
        self.get()?.as_mut().map_or(Err(SessionError::Closed), f).map_err(errors::session)
    }

    /// Takes the connection, and opens the store that belongs to it.
    fn take(&self, store: &str, binding: &Binding) -> PyResult<(Connection<P>, Store)> {
        let mut conn = self.get()?.take().ok_or_else(|| errors::session(SessionError::Closed))?;
        let store = open_store(Path::new(store), binding).map_err(|e| {
            // The peer learns that we stop, not where our files lie; our own error matters more
            // than a failure to tell.
            let _ = conn.send_failure("store", "the material store cannot be opened");
            errors::store(e)
        })?;
        Ok((conn, store))
    }
}

/// How long a store may still be in the hands of an earlier connection, which is ending.
const ENDING: Duration = Duration::from_secs(5);

/// Opens a store. A client that comes back at once may find the server busy with the end of its
/// last connection: what is spent is overwritten then.
fn open_store(path: &Path, binding: &Binding) -> Result<Store, StoreError> {
    let end = Instant::now() + ENDING;
    loop {
        match Store::open(path, binding) {
            Err(StoreError::Locked { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

/// A client as the server sees it, before the protocols start.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ServerConnection(Held<Server>);

/// A connection to a server, before the protocols start.
#[pyclass(frozen, module = "cryptogen._core")]
pub struct ClientConnection(Held<Client>);

/// Material of one protocol is of no use to another, so a store is bound to its protocol too.
fn bound(plan_digest: String, protocol: Protocol) -> String {
    match protocol {
        Protocol::PREPROCESSED => plan_digest,
        _ => format!("{plan_digest} {}", protocol.name),
    }
}

macro_rules! control {
    ($class:ident) => {
        #[pymethods]
        impl $class {
            /// Both parties must mean the same model, plan, tables and lattice parameters.
            fn agree(&self, py: Python<'_>, model: String, plan: String, tables: String) -> PyResult<()> {
                let mine = Agreement { model, plan, tables, parameters: PARAMETERS.into() };
                py.detach(|| self.0.with(|c| c.agree(&mine)))
            }
            /// Sends a JSON document.
            fn send_control(&self, py: Python<'_>, json: &str) -> PyResult<()> {
                let value = parse(json)?;
                py.detach(|| self.0.with(|c| c.send_control(&value)))
            }
            /// Receives a JSON document of at most 1 MiB.
            fn recv_control(&self, py: Python<'_>) -> PyResult<String> {
                py.detach(|| self.0.with(|c| c.recv_control().map(|v| v.to_string())))
            }
            /// Tells the peer that we give up.
            fn send_failure(&self, py: Python<'_>, kind: &str, text: &str) -> PyResult<()> {
                py.detach(|| self.0.with(|c| c.send_failure(kind, text)))
            }
            /// Longest silence of the peer that is tolerated.
            fn set_idle_timeout(&self, seconds: f64) -> PyResult<()> {
                self.0.with(|c| {
                    c.set_idle_timeout(Duration::from_secs_f64(seconds.clamp(0.1, 1e6)));
                    Ok(())
                })
            }
        }
    };
}
control!(ServerConnection);
control!(ClientConnection);

#[pymethods]
impl ServerConnection {
    /// Lets the client in; returns its id.
    fn welcome(&self, py: Python<'_>, access_token: Option<String>) -> PyResult<String> {
        let policy = Policy {
            package_version: env!("CARGO_PKG_VERSION").into(),
            protocol: FAMILY.into(),
            access_token: access_token.map(AccessToken::new),
        };
        py.detach(|| self.0.with(|c| c.welcome(&policy).map(|hello| hello.client_id)))
    }

    /// Starts the protocols; the connection moves into the endpoint.
    #[allow(clippy::too_many_arguments)]
    fn open(
        &self,
        py: Python<'_>,
        plan: &CheckedPlan,
        store: &str,
        peer: String,
        model: String,
        plan_digest: String,
        resync: bool,
        protocol: &str,
    ) -> PyResult<ServerEndpoint> {
        let protocol = Choice::named(protocol)?;
        let plan_digest = bound(plan_digest, protocol.protocol());
        let binding = Binding { peer, model, plan: plan_digest, role: cryptogen_party::Role::Server };
        py.detach(|| {
            let (conn, store) = self.0.take(store, &binding)?;
            protocol.open(conn, plan.inner.clone(), store, resync).map_err(errors::protocol)
        })
        .map(ServerEndpoint::new)
    }
}

#[pymethods]
impl ClientConnection {
    /// Connects over TLS, pinning a fingerprint or trusting a CA file (the system's roots without
    /// either).
    #[staticmethod]
    fn connect(
        py: Python<'_>,
        address: &str,
        fingerprint: Option<String>,
        ca_file: Option<String>,
    ) -> PyResult<ClientConnection> {
        let trust = match (fingerprint, ca_file) {
            (Some(f), _) => Trust::Fingerprint(f),
            (None, Some(path)) => Trust::CaFile(path.into()),
            (None, None) => Trust::PublicAuthorities,
        };
        let c = py
            .detach(|| rust::connect(address, &trust, Some(Box::new(interrupted))))
            .map_err(errors::session)?;
        Ok(ClientConnection(Held::new(c)))
    }

    /// Introduces us to the server.
    fn hello(&self, py: Python<'_>, client_id: String, access_token: Option<String>) -> PyResult<()> {
        let me = Introduction {
            package_version: env!("CARGO_PKG_VERSION").into(),
            protocol: FAMILY.into(),
            client_id,
            access_token: access_token.map(AccessToken::new),
        };
        py.detach(|| self.0.with(|c| c.hello(&me).map(|_| ())))
    }

    /// Starts the protocols with fresh lattice keys; the connection moves into the endpoint.
    #[allow(clippy::too_many_arguments)]
    fn open(
        &self,
        py: Python<'_>,
        plan: &CheckedPlan,
        store: &str,
        peer: String,
        model: String,
        plan_digest: String,
        resync: bool,
        protocol: &str,
    ) -> PyResult<ClientEndpoint> {
        let protocol = Choice::named(protocol)?;
        let plan_digest = bound(plan_digest, protocol.protocol());
        let binding = Binding { peer, model, plan: plan_digest, role: cryptogen_party::Role::Client };
        py.detach(|| {
            let (conn, store) = self.0.take(store, &binding)?;
            protocol.open(conn, plan.inner.clone(), store, resync).map_err(errors::protocol)
        })
        .map(ClientEndpoint::new)
    }
}

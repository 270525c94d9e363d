//! The two protocols as the online phase sees them: what it asks of a protocol
//! ([`cryptogen_protocols::online::products`]), computed on ciphertexts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptogen_mpc::store::Store;
use cryptogen_mpc::Connection;
use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_protocols::endpoint::Endpoint;
use cryptogen_protocols::material::Row;
use cryptogen_protocols::model::{Plan, Prefix, ServerModel, Site};
use cryptogen_protocols::online::products::{Awaited, Call, ClientProducts, Products, ServerProducts, Side};
use cryptogen_protocols::share::qkv::NewRows;
use cryptogen_protocols::share::{Opened, Opening};
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

use super::encoded::Encoded;
use super::{attention, linear, State, Variant};

/// One party's state, shared by the steps of its session and by whoever saves and counts.
pub struct Handle<P: Party> {
    pub(super) plan: Arc<Plan>,
    variant: Variant,
    state: Arc<Mutex<State<P>>>,
}

impl Variant {
    /// As [`Endpoint::open`]; moreover the server gets the evaluation keys that it lacks.
    ///
    /// # Errors
    /// Those of [`Endpoint::open`]; `Corrupt` for damaged keys.
    pub fn open<P: Side>(
        self,
        conn: Connection<P>,
        plan: Arc<Plan>,
        store: Store,
        resync: bool,
    ) -> Result<(Endpoint<P>, Handle<P>)>
    where
        Box<P::Products>: From<Handle<P>>,
    {
        Endpoint::open_with(conn, plan.clone(), store, resync, self.protocol(), |conn, dir, rng| {
            let state = State::open(conn, &plan, dir, self, rng)?;
            let handle = Handle { plan, variant: self, state: Arc::new(Mutex::new(state)) };
            Ok((handle.share().into(), handle))
        })
    }
}

impl From<Handle<Client>> for Box<dyn ClientProducts> {
    fn from(handle: Handle<Client>) -> Box<dyn ClientProducts> {
        Box::new(handle)
    }
}

impl From<Handle<Server>> for Box<dyn ServerProducts> {
    fn from(handle: Handle<Server>) -> Box<dyn ServerProducts> {
        Box::new(handle)
    }
}

impl<P: Party> Handle<P> {
    /// Another handle of the same state.
    fn share(&self) -> Handle<P> {
        Handle { plan: self.plan.clone(), variant: self.variant, state: self.state.clone() }
    }

    /// The state itself; it cannot be used by a step meanwhile.
    pub fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A known row would be a plaintext in the cache's ciphertexts, which nothing makes so far.
    fn no_prefix(&self) -> Result<()> {
        Err(ProtocolError::caller(
            "protocol that begins with known rows",
            "preprocessed",
            self.variant.name(),
        ))
    }

    /// The encrypted cache must hold exactly the rows before the new ones.
    fn check_cache(&self, call: &Call) -> Result<()> {
        match (call.positions().first(), self.state().cache_shape().length(call.layer())) {
            (Some(&first), actual) if first != actual => {
                Err(ProtocolError::caller("rows of the encrypted cache", first, actual))
            }
            _ => Ok(()),
        }
    }
}

impl<P: Party> Products<P> for Handle<P> {
    fn length(&self) -> usize {
        self.state().cache_shape().len()
    }

    /// Blocks of ciphertexts are sums of rows, so no row leaves them.
    fn crop(&mut self, _: usize) -> Result<bool> {
        Err(ProtocolError::caller("protocol that drops rows", "preprocessed", self.variant.name()))
    }

    fn reset(&mut self) {
        self.state().reset();
    }
}

impl ClientProducts for Handle<Client> {
    fn put_prefix(&mut self, _: usize) -> Result<()> {
        self.no_prefix()
    }

    fn linear(&mut self, ch: &mut dyn Channel, site: Site, rows: &[Row<Client>], y: &[Fp]) -> Result<()> {
        let mut r = Zeroizing::new(Vec::with_capacity(rows.len() * self.plan.linear(site).d_in));
        rows.iter().for_each(|row| r.extend_from_slice(&row.input_share(&self.plan, site)));
        linear::client(&mut self.state(), ch, site, rows.len(), &r, y)
    }

    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        _: &[Row<Client>],
        new: &NewRows,
    ) -> Result<Vec<Fp>> {
        self.check_cache(call)?;
        attention::client::scores(&mut self.state(), ch, call.layer(), new)
    }

    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        weights: &[Fp],
        _: &mut Opening,
    ) -> Result<Vec<Fp>> {
        attention::client::values(&mut self.state(), ch, call.layer(), rows.len(), weights)
    }
}

impl Handle<Server> {
    /// Uses weights of this model that were encoded, and encodes into them what they lack: all
    /// sessions of a model may share them.
    pub fn share_encoded(&self, encoded: &Arc<Encoded>) {
        self.state().encoded = encoded.clone();
    }
}

impl ServerProducts for Handle<Server> {
    fn put_prefix(&mut self, _: &Prefix) -> Result<()> {
        self.no_prefix()
    }

    fn linear(
        &mut self,
        ch: &mut dyn Channel,
        model: &ServerModel,
        site: Site,
        rows: &[Row<Server>],
        x: &[Fp],
    ) -> Result<Vec<Fp>> {
        let key = site.index(self.plan.model.layers);
        linear::server(&mut self.state(), ch, model, (site, key), rows.len(), x)
    }

    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        _: &[Row<Server>],
        new: &NewRows,
    ) -> Result<Vec<Fp>> {
        self.check_cache(call)?;
        attention::server::scores(&mut self.state(), ch, call.layer(), new)
    }

    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        weights: &[Fp],
        next: Awaited,
    ) -> Result<(Vec<Fp>, Opened)> {
        let sums = attention::server::values(&mut self.state(), ch, call.layer(), rows.len(), weights)?;
        Ok((sums, next.recv(ch, 0)?))
    }
}

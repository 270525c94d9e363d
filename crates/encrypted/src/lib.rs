//! The paper's two protocols beside `preprocessed`: linear layers and attention on the client's
//! ciphertexts, online.
//!
//! Source: CryptoGen (arXiv 2602.08798). `encrypted-cache` keeps an encrypted key/value cache and
//! computes one new row per token; `recompute` is the same without a cache between tokens, as BOLT
//! does when it is made to generate. Everything non-linear, the embedding and the output head are
//! the steps and the material of [`cryptogen_protocols::online`] and
//! [`cryptogen_protocols::offline`], so a comparison measures the cache and nothing else.
//!
//! Roles: the client owns the secret key of [`cryptogen_he::evaluate`], the server computes with
//! the client's evaluation keys.

#![deny(missing_docs)]

pub mod attention;
pub mod cache;
pub mod diagonals;
pub mod encoded;
mod exchange;
mod handle;
pub mod keys;
pub mod layout;
pub mod linear;
mod pass;
pub mod planner;
pub mod refresh;
mod saved;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cryptogen_he::evaluate::{Context, EvaluationKeys, Operations, SecretKey};
use cryptogen_mpc::Connection;
use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_protocols::endpoint::Protocol;
use cryptogen_protocols::model::{ModelShape, Plan};
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::{Prg, Seed};

pub use handle::Handle;

use self::attention::cost::Workload;
use self::cache::{Cache, CacheShape};
use self::encoded::Encoded;
use self::keys::KeyId;
use self::layout::CacheLayout;
use self::planner::LinearPlan;

/// Which of the two. They differ in how often a session is begun anew, and so in what a layout of
/// the cache is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// CryptoGen's: an encrypted cache is kept, one new row per token.
    EncryptedCache,
    /// BOLT's way to generate: every row again for every token.
    Recompute,
}

impl Variant {
    /// Both of them.
    pub const ALL: [Variant; 2] = [Variant::EncryptedCache, Variant::Recompute];

    /// The name on the command line and between the parties.
    pub fn name(self) -> &'static str {
        match self {
            Variant::EncryptedCache => "encrypted-cache",
            Variant::Recompute => "recompute",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Variant> {
        Variant::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// What an endpoint must know of it.
    pub fn protocol(self) -> Protocol {
        Protocol { name: self.name(), prepared: false }
    }
}

/// What was done so far in a session; the server counts operations, both count the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// the server's, on ciphertexts
    pub operations: Operations,
    /// ciphertexts that the client encrypted
    pub encrypted: u64,
    /// cache ciphertexts that were refreshed
    pub refreshes: u64,
    /// those that would have been by refreshing after every append
    pub refreshes_if_always: u64,
}

impl Counts {
    /// Adds what an evaluator did.
    pub fn add(&mut self, done: Operations) {
        let o = &mut self.operations;
        o.ct_pt += done.ct_pt;
        o.ct_ct += done.ct_ct;
        o.rotations += done.rotations;
        o.hoisted_rotations += done.hoisted_rotations;
        o.relinearisations += done.relinearisations;
        o.masked += done.masked;
    }
}

/// A party's keys.
pub(crate) enum Keys {
    Client(SecretKey),
    Server(EvaluationKeys),
}

impl Keys {
    pub(crate) fn secret(&self) -> Result<&SecretKey> {
        match self {
            Keys::Client(key) => Ok(key),
            Keys::Server(_) => Err(wrong_party()),
        }
    }

    pub(crate) fn evaluation(&self) -> Result<&EvaluationKeys> {
        match self {
            Keys::Server(keys) => Ok(keys),
            Keys::Client(_) => Err(wrong_party()),
        }
    }
}

/// One party's state of the two protocols, which outlives a session's
/// [`cryptogen_protocols::online::Online`].
pub struct State<P: Party> {
    pub(crate) context: &'static Context,
    pub(crate) plan: LinearPlan,
    pub(crate) rng: Prg,
    pub(crate) counts: Counts,
    pub(crate) cache: Cache,
    /// server: weights that this session encoded, or shares with others of the same model
    pub(crate) encoded: Arc<Encoded>,
    keys: Keys,
    key_id: KeyId,
    key_bytes: usize,
    _party: std::marker::PhantomData<P>,
}

/// Slots to rotate by in a session: exactly the Galois keys that are made.
pub fn steps(linear: &LinearPlan, cache: &CacheLayout) -> BTreeSet<usize> {
    linear.steps().union(&cache.steps()).copied().collect()
}

/// The layout of the encrypted cache, and why it is so.
///
/// # Errors
/// A model that does not fit into ciphertexts.
pub fn cache_layout(variant: Variant, m: &ModelShape) -> Result<(CacheLayout, String)> {
    attention::cost::cheapest(m, Workload::of(variant, m))
}

impl<P: Party> State<P> {
    /// Plans, and brings the server the evaluation keys that it lacks. `dir`: this party's store.
    pub(crate) fn open(
        conn: &mut Connection<P>,
        plan: &Plan,
        dir: &Path,
        variant: Variant,
        rng: &mut Prg,
    ) -> Result<State<P>> {
        let linear = LinearPlan::new(&plan.model)?;
        let (layout, _) = cache_layout(variant, &plan.model)?;
        let steps = steps(&linear, &layout);
        let shape = CacheShape::new(layout, plan.model.layers, 0)?;
        let (keys, key_id) = match P::ROLE {
            Role::Client => {
                let (secret, id) = keys::client(conn, dir, &steps, rng)?;
                (Keys::Client(secret), id)
            }
            Role::Server => {
                let (keys, id) = keys::server(conn, dir, &steps)?;
                (Keys::Server(keys), id)
            }
        };
        Ok(State {
            context: Context::get(),
            plan: linear,
            rng: Prg::new(&Seed::random(rng)),
            counts: Counts::default(),
            cache: Cache::new(P::ROLE, shape),
            encoded: Arc::default(),
            keys,
            key_id,
            key_bytes: EvaluationKeys::bytes(steps.len()),
            _party: std::marker::PhantomData,
        })
    }

    /// A state with given keys, for tests of single steps.
    #[cfg(test)]
    pub(crate) fn insecure_new(keys: Keys, plan: LinearPlan, shape: CacheShape, seed: Seed) -> State<P> {
        State {
            context: Context::get(),
            plan,
            rng: Prg::new(&seed),
            counts: Counts::default(),
            cache: Cache::new(P::ROLE, shape),
            encoded: Arc::default(),
            keys,
            key_id: KeyId::default(),
            key_bytes: 0,
            _party: std::marker::PhantomData,
        }
    }

    /// What was done since the connection was opened.
    pub fn counts(&self) -> Counts {
        let (refreshes, refreshes_if_always) = self.cache.shape().refreshes();
        Counts { refreshes, refreshes_if_always, ..self.counts }
    }

    /// Names the client's key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Bytes of the evaluation keys that this session needs, as they were sent once and are stored.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Lengths, ciphertexts and refreshes of the encrypted cache.
    pub fn cache_shape(&self) -> &CacheShape {
        self.cache.shape()
    }

    /// The plan of the linear layers, which can say why it is as it is.
    pub fn plan(&mut self) -> &mut LinearPlan {
        &mut self.plan
    }

    /// Forgets the session, not the keys.
    pub(crate) fn reset(&mut self) {
        self.cache.clear();
    }
}

fn wrong_party() -> ProtocolError {
    ProtocolError::bug("keys", "those of this party", "the other party's")
}

impl State<Client> {
    pub(crate) fn secret(&self) -> Result<&SecretKey> {
        self.keys.secret()
    }
}

impl State<Server> {
    pub(crate) fn evaluation_keys(&self) -> Result<&EvaluationKeys> {
        self.keys.evaluation()
    }
}

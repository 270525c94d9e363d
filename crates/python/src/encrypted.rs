//! The paper's two protocols: the one place that knows their crate beside `preprocessed`. What only
//! they can do is in `ciphertexts.rs`.

use std::sync::Arc;

use cryptogen_encrypted::encoded::Encoded;
use cryptogen_encrypted::planner::LinearPlan;
use cryptogen_encrypted::{cache_layout, Handle, Variant};
use cryptogen_mpc::store::Store;
use cryptogen_mpc::Connection;
use cryptogen_party::Party;
use cryptogen_protocols::endpoint::{Endpoint, Protocol};
use cryptogen_protocols::model::Site;
use cryptogen_protocols::online::products::Side;
use cryptogen_protocols::{model, ProtocolError, Result};
use pyo3::prelude::*;

use crate::errors;

/// A protocol by its name: one of the two, or `preprocessed`.
#[derive(Clone, Copy)]
pub struct Choice(Option<Variant>);

/// What an endpoint keeps of one of the two, beside what its steps use.
pub type Kept<P> = Option<Handle<P>>;

/// A model's weights as the two need them, as far as they have been needed.
pub type Weights = Arc<Encoded>;

impl Choice {
    /// The protocol of that name.
    pub fn named(name: &str) -> PyResult<Choice> {
        if name == Protocol::PREPROCESSED.name {
            return Ok(Choice(None));
        }
        Variant::parse(name).map(|variant| Choice(Some(variant))).ok_or_else(|| {
            let names = [Protocol::PREPROCESSED.name].into_iter().chain(Variant::ALL.map(Variant::name));
            let (known, given) = (names.collect::<Vec<_>>().join(", "), name.chars().take(40));
            errors::protocol(ProtocolError::caller("protocol", known, given.collect::<String>()))
        })
    }

    /// What an endpoint must know of it.
    pub fn protocol(self) -> Protocol {
        self.0.map_or(Protocol::PREPROCESSED, Variant::protocol)
    }

    /// Opens an endpoint.
    pub fn open<P: Side>(
        self,
        conn: Connection<P>,
        plan: Arc<model::Plan>,
        store: Store,
        resync: bool,
    ) -> Result<(Endpoint<P>, Kept<P>)>
    where
        Box<P::Products>: From<Handle<P>>,
    {
        match self.0 {
            None => Endpoint::open(conn, plan, store, resync).map(|endpoint| (endpoint, None)),
            Some(variant) => {
                variant.open(conn, plan, store, resync).map(|(endpoint, handle)| (endpoint, Some(handle)))
            }
        }
    }

    /// How it lays a model out in ciphertexts for `rows` rows, and why: a text per linear layer,
    /// then the cache's.
    pub fn why(self, m: &model::ModelShape, rows: usize) -> Result<Vec<String>> {
        let Some(variant) = self.0 else { return Ok(vec![]) };
        let mut linear = LinearPlan::new(m)?;
        let (_, cache) = cache_layout(variant, m)?;
        Ok(Site::of_layer(0).into_iter().map(|site| linear.why(site, rows)).chain([cache]).collect())
    }
}

/// The handle of an endpoint whose protocol keeps an encrypted cache.
pub fn handle<P: Party>(kept: &Kept<P>) -> Result<&Handle<P>> {
    let (what, name) = ("protocol of a saved cache", Protocol::PREPROCESSED.name);
    kept.as_ref().ok_or_else(|| ProtocolError::caller(what, "one with an encrypted cache", name))
}

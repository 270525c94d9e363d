//! Linear layers `y = TR(W·x + b, out_shift)` (A5.3): the server holds `x − r'` in the clear.
//!
//! Functionality: `x − r'` with the server → shares of `y`.
//! Source: `docs/protocols/preprocessed.md` §4.3.
//! Inputs: server `x − r'`, `[T, d_in]`, at scale F, with `W` at scale `f_w` and `b` at scale F +
//! `f_w`; client nothing, as `y_c` follows from its material. Result: `y`, `[T, d_out]`, over `F_p`
//! at scale F.
//! Cost: no message.
//! Material: per row shares of `W·r'`, `[d_out]`.
//! Leaks: nothing.
//!
//! Server: `y_s = TR(W·(x − r') + share_s + b)`. Client: `y_c = TR(share_c)`. The server's share of
//! `W·x` is the protocol's ([`super::products`]); the client's is in its material, whatever the
//! protocol.

use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::trunc::trunc_server;
use cryptogen_ring::word::word_trunc_server;
use cryptogen_ring::{Fp, Word};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::products::Side;
use super::{Online, Turn};
use crate::error::{ProtocolError, Result};
use crate::model::{Linear, ServerModel, Site};
use crate::share::local::trunc;
use crate::share::{Kind, Tensor};

/// Adds a layer's bias, if it has one, to a row of its outputs.
pub(super) fn add_bias(row: &mut [Fp], bias: Option<&[i64]>) {
    for (v, b) in row.iter_mut().zip(bias.unwrap_or_default()) {
        *v += Fp::from_i64(*b);
    }
}

impl<P: Side> Online<P> {
    /// As [`Online::check`]; the head is evaluated by `logits`.
    fn check_linear(&self, x: &Tensor<P>, site: Site) -> Result<()> {
        if site == Site::Head {
            return Err(ProtocolError::caller("linear layer", "one of a layer", site.name()));
        }
        self.check(x, Kind::Input(site))
    }
}

impl Online<Server> {
    /// `TR(x̂ − r, in_shift)`: what the server holds of the input of a linear layer.
    pub(crate) fn enter(&self, site: Site, x: impl Iterator<Item = Fp>) -> Vec<Fp> {
        x.zip(&self.plan.linear(site).in_shift).map(|(x, &k)| trunc_server(x, k)).collect()
    }

    /// The same behind an activation, modulo `2^64` (A6).
    pub(crate) fn enter_words(&self, site: Site, x: impl Iterator<Item = Word>) -> Vec<Fp> {
        x.zip(&self.plan.linear(site).in_shift).map(|(x, &k)| word_trunc_server(x, k)).collect()
    }

    /// The server's side.
    pub fn linear(
        &mut self,
        ch: &mut dyn Channel,
        model: &ServerModel,
        x: &Tensor<Server>,
        site: Site,
    ) -> Result<Tensor<Server>> {
        self.check_linear(x, site)?;
        self.take_turn(Turn::Linear(site))?;
        let plan = self.plan.clone();
        let l = plan.linear(site);
        let mut y = self.products.linear(ch, model, site, &self.active, &x.data)?;
        let bias = model.bias(site);
        y.par_chunks_mut(l.d_out).for_each(|row| {
            add_bias(row, bias);
            shorten::<Server>(row, l);
        });
        self.trace.truncated(x.data.iter().copied());
        self.trace.truncated(y.iter().copied());
        Ok(Tensor::new(Kind::Output(site), x.rows, y))
    }
}

impl Online<Client> {
    /// The client's side: its share comes straight from the material.
    pub fn linear(&mut self, ch: &mut dyn Channel, x: &Tensor<Client>, site: Site) -> Result<Tensor<Client>> {
        self.check_linear(x, site)?;
        self.take_turn(Turn::Linear(site))?;
        let plan = self.plan.clone();
        let l = plan.linear(site);
        let mut y = Zeroizing::new(Vec::with_capacity(x.rows * l.d_out));
        for row in &self.active {
            y.extend(row.material.words(self.layout.linear(site), l.d_out)?);
        }
        self.products.linear(ch, site, &self.active, &y)?;
        y.chunks_mut(l.d_out).for_each(|row| shorten::<Client>(row, l));
        self.log_remask(site, x.rows);
        self.trace.truncated(y.iter().copied());
        Ok(Tensor::new(Kind::Output(site), x.rows, std::mem::take(&mut *y)))
    }
}

/// The final truncation of one row of outputs, `[d_out]`.
fn shorten<P: Party>(row: &mut [Fp], linear: &Linear) {
    row.iter_mut().enumerate().for_each(|(i, v)| *v = trunc::<P>(*v, linear.out_shift(i)));
}

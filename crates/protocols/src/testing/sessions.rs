//! Both parties' ends of a connection in memory, and the decoder's passes over them.

use std::path::Path;

use cryptogen_he::{Params, SecretKey};
use cryptogen_mpc::session::Connection;
use cryptogen_mpc::store::{Binding, Store};
use cryptogen_party::{Client, Party, Server};
use cryptogen_ring::{Prg, Seed};
use rand_core::OsRng;

use super::tiny::Tiny;
use crate::endpoint::{Endpoint, PARAMETERS};
use crate::error::Result;
use crate::model::Site;

/// Logits and range events of a pass.
pub type Logits = (Vec<i64>, Vec<u64>);

/// A party's store in `dir` and a new lattice key.
pub fn store_and_key<P: Party>(dir: &Path) -> Result<(Store, SecretKey)> {
    let binding = Binding { peer: "peer".into(), model: "tiny".into(), plan: "tiny".into(), role: P::ROLE };
    let store = Store::open(&dir.join(format!("{:?}", P::ROLE)), &binding)?;
    let mut rng = Prg::new(&Seed::random(&mut OsRng));
    Ok((store, SecretKey::generate(Params::get(PARAMETERS), &mut rng)))
}

/// Runs both parties of a connection over the stores in `dir`; each end is dropped with its party.
pub fn pair<A, B: Send>(
    client: impl FnOnce(Connection<Client>) -> A,
    server: impl FnOnce(Connection<Server>) -> B + Send,
) -> (A, B) {
    let (near, far) = Connection::memory_pair();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || server(far));
        let own = client(near);
        (own, other.join().expect("the server panicked"))
    })
}

/// A forward pass of the client, of whose rows the last `sampled` get logits.
pub fn client_pass(
    e: &mut Endpoint<Client>,
    layers: usize,
    tokens: &[usize],
    sampled: usize,
) -> Result<Logits> {
    let mut h = e.embed(tokens, sampled)?;
    let (o, ch) = e.online();
    for l in 0..layers {
        let x = o.norm(ch, &h, Site::Qkv(l))?;
        let qkv = o.linear(ch, &x, Site::Qkv(l))?;
        let x = o.attention(ch, &qkv, l)?;
        h = h.add(&o.linear(ch, &x, Site::O(l))?)?;
        let x = o.norm(ch, &h, Site::Up(l))?;
        let u = o.linear(ch, &x, Site::Up(l))?;
        let x = o.activation(ch, &u, l)?;
        h = h.add(&o.linear(ch, &x, Site::Down(l))?)?;
    }
    if sampled == 0 {
        return Ok(Default::default());
    }
    let h = if sampled < h.rows() { h.last() } else { h };
    let x = o.norm(ch, &h, Site::Head)?;
    o.logits(ch, &x)
}

/// The server's side.
pub fn server_pass(e: &mut Endpoint<Server>, tiny: &Tiny, rows: usize, sampled: usize) -> Result<()> {
    let model = &tiny.model;
    let mut h = e.embed(model, rows, sampled)?;
    let (o, ch) = e.online();
    for l in 0..tiny.plan.model.layers {
        let x = o.norm(ch, &h, Site::Qkv(l))?;
        let qkv = o.linear(ch, model, &x, Site::Qkv(l))?;
        let x = o.attention(ch, &qkv, l)?;
        h = h.add(&o.linear(ch, model, &x, Site::O(l))?)?;
        let x = o.norm(ch, &h, Site::Up(l))?;
        let u = o.linear(ch, model, &x, Site::Up(l))?;
        let x = o.activation(ch, &u, l)?;
        h = h.add(&o.linear(ch, model, &x, Site::Down(l))?)?;
    }
    if sampled == 0 {
        return Ok(());
    }
    let h = if sampled < h.rows() { h.last() } else { h };
    let x = o.norm(ch, &h, Site::Head)?;
    o.logits(ch, model, &x)
}

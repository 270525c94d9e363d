//! Both parties' ends of a connection in memory, and the decoder's passes over them.

use std::path::Path;

use cryptogen_mpc::session::Connection;
use cryptogen_mpc::store::{Binding, Store};
use cryptogen_party::{Client, Party, Server};

use super::tiny::Tiny;
use crate::endpoint::Endpoint;
use crate::error::{ProtocolError, Result};
use crate::model::Site;
use crate::online::products::Side;

/// Logits and range events of a pass.
pub type Logits = (Vec<i64>, Vec<u64>);

/// A party's store in `dir`.
pub fn store<P: Party>(dir: &Path) -> Result<Store> {
    let binding = Binding { peer: "peer".into(), model: "tiny".into(), plan: "tiny".into(), role: P::ROLE };
    Ok(Store::open(&dir.join(format!("{:?}", P::ROLE)), &binding)?)
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

/// How often a pass tries each of its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tries {
    /// As often as it should.
    Once,
    /// Again after it has succeeded, which must be refused.
    Twice,
}

impl Tries {
    /// A step, tried so often.
    fn step<T>(self, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        let out = step()?;
        if self == Tries::Twice {
            let again = step().err();
            assert!(matches!(again, Some(ProtocolError::Caller { what: "step of a pass", .. })), "{again:?}");
        }
        Ok(out)
    }
}

/// In the middle of a pass the session neither grows nor shrinks.
fn stays<P: Side>(e: &mut Endpoint<P>) {
    let state = (e.stock(), e.state().ready_rows());
    for refused in [e.crop(0), e.extend(1)] {
        assert!(matches!(refused, Err(ProtocolError::Caller { .. })), "{refused:?}");
    }
    assert_eq!((e.stock(), e.state().ready_rows()), state);
}

/// A forward pass of the client, of whose rows the last `sampled` get logits.
pub fn client_pass(
    e: &mut Endpoint<Client>,
    layers: usize,
    tokens: &[usize],
    sampled: usize,
) -> Result<Logits> {
    client_pass_tried(e, layers, tokens, sampled, Tries::Once)
}

/// The same, with the steps tried so often.
pub fn client_pass_tried(
    e: &mut Endpoint<Client>,
    layers: usize,
    tokens: &[usize],
    sampled: usize,
    tries: Tries,
) -> Result<Logits> {
    let mut h = tries.step(|| e.embed(tokens, sampled))?;
    stays(e);
    let (o, ch) = e.online();
    for l in 0..layers {
        let x = tries.step(|| o.norm(ch, &h, Site::Qkv(l)))?;
        let qkv = tries.step(|| o.linear(ch, &x, Site::Qkv(l)))?;
        let x = tries.step(|| o.attention(ch, &qkv, l))?;
        let attended = h.add(&tries.step(|| o.linear(ch, &x, Site::O(l)))?)?;
        let read = if o.plan.model.parallel { &h } else { &attended };
        let x = tries.step(|| o.norm(ch, read, Site::Up(l)))?;
        let u = tries.step(|| o.linear(ch, &x, Site::Up(l)))?;
        let x = tries.step(|| o.activation(ch, &u, l))?;
        h = attended.add(&tries.step(|| o.linear(ch, &x, Site::Down(l)))?)?;
    }
    if sampled == 0 {
        return Ok(Default::default());
    }
    let h = if sampled < h.rows() { h.last() } else { h };
    let x = tries.step(|| o.norm(ch, &h, Site::Head))?;
    let logits = o.logits(ch, &x)?;
    if tries == Tries::Twice {
        assert!(matches!(o.logits(ch, &x), Err(ProtocolError::Caller { .. })), "the logits");
    }
    Ok(logits)
}

/// The server's side.
pub fn server_pass(e: &mut Endpoint<Server>, tiny: &Tiny, rows: usize, sampled: usize) -> Result<()> {
    server_pass_tried(e, tiny, rows, sampled, Tries::Once)
}

/// The same, with the steps tried so often.
pub fn server_pass_tried(
    e: &mut Endpoint<Server>,
    tiny: &Tiny,
    rows: usize,
    sampled: usize,
    tries: Tries,
) -> Result<()> {
    let model = &tiny.model;
    let mut h = tries.step(|| e.embed(model, rows, sampled))?;
    stays(e);
    let (o, ch) = e.online();
    for l in 0..tiny.plan.model.layers {
        let x = tries.step(|| o.norm(ch, &h, Site::Qkv(l)))?;
        let qkv = tries.step(|| o.linear(ch, model, &x, Site::Qkv(l)))?;
        let x = tries.step(|| o.attention(ch, &qkv, l))?;
        let attended = h.add(&tries.step(|| o.linear(ch, model, &x, Site::O(l)))?)?;
        let read = if o.plan.model.parallel { &h } else { &attended };
        let x = tries.step(|| o.norm(ch, read, Site::Up(l)))?;
        let u = tries.step(|| o.linear(ch, model, &x, Site::Up(l)))?;
        let x = tries.step(|| o.activation(ch, &u, l))?;
        h = attended.add(&tries.step(|| o.linear(ch, model, &x, Site::Down(l)))?)?;
    }
    if sampled == 0 {
        return Ok(());
    }
    let h = if sampled < h.rows() { h.last() } else { h };
    let x = tries.step(|| o.norm(ch, &h, Site::Head))?;
    o.logits(ch, model, &x)?;
    if tries == Tries::Twice {
        assert!(matches!(o.logits(ch, model, &x), Err(ProtocolError::Caller { .. })), "the logits");
    }
    Ok(())
}

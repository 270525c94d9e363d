//! The net under a layer's weights (A5.5e): a guard of the sum of a row's σ, each shifted so that
//! the windows of 1/σ end together. It is met by the garbage that exponentials of scores below
//! their bottom are, and by σ far beyond their windows.

use cryptogen_ot::TableKey;
use cryptogen_ring::Fp;

use super::Call;
use crate::error::Result;
use crate::material::net_shape;
use crate::model::{NET_BITS, NET_SEGMENT, NET_SHIFT};
use crate::online::products::Side;
use crate::online::tables::{look_up, Lookup};
use crate::online::Online;
use crate::share::local::{index, join, rotation, trunc};
use crate::share::{Opening, Trace};

/// A look-up of every row that runs the softmax, prepared for opening.
pub(super) struct Net {
    keys: Vec<TableKey>,
    rotations: Vec<u32>,
    reduced: Vec<Fp>,
    indices: Vec<u32>,
}

impl Net {
    /// Appends this party's half.
    pub(super) fn push(&self, message: &mut Opening) {
        message.rotations(&self.rotations);
    }

    /// Logs its truncations and indices.
    pub(super) fn log(&self, trace: &mut Trace) {
        trace.truncated(self.reduced.iter().copied());
        trace.index(self.indices.iter().copied(), NET_BITS);
    }
}

impl<P: Side> Online<P> {
    /// This party's half of the net, from its shares of the σ of every pair.
    pub(super) fn net(&mut self, call: &Call, sigma: &[Fp]) -> Result<Net> {
        let at = self.layout.net_table(call.layer);
        let mut net = Net { keys: vec![], rotations: vec![], reduced: vec![], indices: vec![] };
        for (i, sigma) in call.softmax_rows().zip(sigma.chunks(self.plan.model.heads)) {
            let key = self.active[i].material.table(net_shape(), at, 0)?;
            let attention = &self.plan.attention[call.layer];
            let lifted = sigma.iter().enumerate().map(|(g, s)| *s * Fp::new(1 << attention.net_lift(g)));
            let reduced = trunc::<P>(lifted.sum(), NET_SHIFT);
            let i = index::<P>(reduced, NET_SEGMENT, NET_BITS);
            net.rotations.push(rotation(i, key.alpha(), NET_BITS));
            net.reduced.push(reduced);
            net.indices.push(i);
            net.keys.push(key);
        }
        Ok(net)
    }

    /// With the peer's half: adds this party's shares of the guards to the events of the rows.
    pub(super) fn add_net_events(&mut self, call: &Call, net: Net, rotations: &[u32]) -> Result<()> {
        net.log(&mut self.trace);
        let tables = [self.plan.net_guard()];
        let joined = net.rotations.iter().zip(rotations).map(|(a, b)| join(*a, *b, NET_BITS));
        let lookup = |(key, rotation)| Lookup { key, rotation, tables };
        let guards = look_up::<P, 1>(net.keys.into_iter().zip(joined).map(lookup).collect())?;
        for (i, guard) in call.softmax_rows().zip(guards) {
            self.add_events(i, 1, guard);
        }
        Ok(())
    }
}

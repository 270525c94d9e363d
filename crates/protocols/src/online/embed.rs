//! The embedding of private tokens (A5.1): the client selects a column of the encrypted model.
//!
//! Messages: 1 (C→S), one masked ciphertext (150 KB) per row: `Enc(E[token]) − mask`, re-randomised and flooded, so the server sees
//! uniformly random values. Material: the slot's embedding mask. Leaks: nothing.

use cryptogen_he::{Combiner, MaskedCiphertext, N};
use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::trunc::{trunc_client, trunc_server};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::products::Side;
use super::Online;
use crate::error::{ProtocolError, Result};
use crate::material::packing::fold;
use crate::material::{decrypted, embed_slots, EncryptedModel, Mask, PartyKeys};
use crate::model::ServerModel;
use crate::share::{Cost, Kind, Tensor};

/// Rounds and bytes of `rows` rows.
pub fn cost(rows: usize) -> Cost {
    Cost::of(&[(Role::Client, rows * MaskedCiphertext::BYTES)])
}

/// What the client needs for embeddings.
pub struct EmbedClient<'a> {
    pub keys: &'a PartyKeys<Client>,
    pub model: &'a EncryptedModel,
}

impl Online<Client> {
    /// Starts a forward pass over `tokens`, of which the last `heads` rows will be sampled.
    pub fn embed(
        &mut self,
        ch: &mut dyn Channel,
        from: &EmbedClient<'_>,
        tokens: &[usize],
        heads: usize,
        rng: &mut Prg,
    ) -> Result<Tensor<Client>> {
        self.begin(tokens.len(), heads)?;
        let plan = self.plan.clone();
        let m = &from.model.layout.embed;
        let seed = Seed::random(rng);
        let parts: Vec<(Vec<u8>, Vec<Fp>)> = tokens
            .par_iter()
            .enumerate()
            .map(|(i, &token)| {
                if token >= plan.model.vocab {
                    return Err(ProtocolError::Shape {
                        what: "token",
                        expected: format!("below {}", plan.model.vocab),
                        got: "a larger id".into(),
                    });
                }
                let (k, slot) = m.place(token);
                let ct = from.model.expanded(from.keys.params, m.layout, k..k + 1)?;
                let mut pick = vec![Fp::ZERO; m.slots()];
                pick[slot] = Fp::ONE;
                let mask = self.active[i].slot.mask(Mask::Embed, 0, N);
                let mut combiner = Combiner::new(from.keys.params, m.layout, 1);
                combiner.add_block(&ct, &pick)?;
                let mut rng = Prg::new(&seed.derive("embed", i as u64));
                let out = combiner.finish(&from.keys.peer, &mask, &mut rng)?;
                let share = fold(&mask, m.coefficients, plan.model.d);
                Ok((
                    out.iter().flat_map(|ct| ct.to_bytes(from.keys.params)).collect(),
                    share.into_iter().map(|c| trunc_client(c, plan.embed.shift)).collect(),
                ))
            })
            .collect::<Result<_>>()?;
        let (bytes, shares): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        ch.send(&bytes.concat())?;
        self.trace.truncated(shares.iter().flatten().copied());
        Ok(Tensor::new(Kind::Hidden, tokens.len(), shares.concat()))
    }
}

impl Online<Server> {
    /// Starts a forward pass over `rows` rows, of which the last `heads` will be sampled.
    pub fn embed(
        &mut self,
        ch: &mut dyn Channel,
        keys: &PartyKeys<Server>,
        model: &ServerModel,
        rows: usize,
        heads: usize,
    ) -> Result<Tensor<Server>> {
        self.begin(rows, heads)?;
        let plan = self.plan.clone();
        let d = plan.model.d;
        let (layout, coefficients) = embed_slots(d);
        let mut h = Vec::with_capacity(rows * d);
        let bytes = ch.recv(rows * MaskedCiphertext::BYTES)?;
        let values = decrypted(keys.params, &keys.mine, layout, &bytes)?;
        for (row, values) in self.active.iter().zip(values.chunks(N)) {
            let position = model.positions.as_ref().map(|p| &p[row.position * d..(row.position + 1) * d]);
            for (j, v) in fold(values, coefficients, d).into_iter().enumerate() {
                let p = position.map_or(0, |p| i64::from(p[j]));
                h.push(trunc_server(v + Fp::from_i64(p), plan.embed.shift));
            }
        }
        self.trace.truncated(h.iter().copied());
        Ok(Tensor::new(Kind::Hidden, rows, h))
    }
}

impl<P: Side> Online<P> {
    /// Takes the rows and head material of a forward pass.
    fn begin(&mut self, rows: usize, heads: usize) -> Result<()> {
        if rows == 0 {
            return Err(ProtocolError::Shape {
                what: "rows of a pass",
                expected: "1 or more".into(),
                got: "0".into(),
            });
        }
        if heads > rows || self.heads.len() < heads {
            return Err(ProtocolError::Short {
                what: "output head",
                needed: heads as u64,
                available: self.heads.len().min(rows) as u64,
            });
        }
        self.activate(rows)?;
        self.head_now = self.heads.drain(..heads).collect();
        Ok(())
    }
}

//! The embedding of private tokens (A5.1): the client selects a column of the encrypted model.
//!
//! Functionality: token ids → shares of `h = TR(E[token] + P[t], shift)`, where `P` is there only
//! if the model has learned positions.
//! Source: `docs/protocols/preprocessed.md` §4.1.
//! Inputs: client `T` token ids and its encrypted model; server its lattice key and `P`, which has
//! the scale of `E`, F + `embed.shift`. Result: `h`, `[T, d]`, over `F_p` at scale F.
//! Cost: 1 message (C→S), 149 504 bytes per row: a masked ciphertext of 8192 numbers.
//! Material: the slot's mask `Embed`; added up over slots, it is the client's share of `h` before
//! truncation.
//! Leaks: nothing. The ciphertext is padded in every number, re-randomised and flooded.
//!
//! 1. C→S `Enc(E[token]) − mask`. The server decrypts, adds up the slots and adds `P[t]`; both
//!    truncate.

use cryptogen_he::{Combiner, MaskedCiphertext, N};
use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::trunc::{trunc_client, trunc_server};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::products::Side;
use super::{Online, Turn};
use crate::error::{ProtocolError, Result};
use crate::material::packing::sum_features;
use crate::material::{decrypt_all, embed_slots, EncryptedModel, MaskLabel, PartyKeys};
use crate::model::ServerModel;
use crate::share::{Cost, Kind, Tensor};

/// Rounds and bytes of `rows` rows.
pub fn cost(rows: usize) -> Cost {
    Cost::of(&[(Role::Client, rows * MaskedCiphertext::BYTES)])
}

/// What the client needs for embeddings.
pub struct EmbedClient<'a> {
    /// lattice keys of the connection
    pub keys: &'a PartyKeys<Client>,
    /// its copy of the encrypted model
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
                    let expected = format!("below {}", plan.model.vocab);
                    return Err(ProtocolError::caller("token", expected, "a larger id"));
                }
                let (k, slot) = m.place(token);
                let ct = from.model.read(from.keys.params, m.layout, k..k + 1)?;
                let mut pick = vec![Fp::ZERO; m.slots()];
                pick[slot] = Fp::ONE;
                let mask = self.active[i].slot.expand_mask(MaskLabel::Embed, 0, N);
                let mut combiner = Combiner::new(from.keys.params, m.layout, 1);
                combiner.add_block(&ct, &pick)?;
                let mut rng = Prg::new(&seed.derive("embed", i as u64));
                let out = combiner.finish(&from.keys.peer, &mask, &mut rng)?;
                let share = sum_features(&mask, m.coefficients, plan.model.d);
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
        let values = decrypt_all(keys.params, &keys.mine, layout, &bytes)?;
        for (row, values) in self.active.iter().zip(values.chunks(N)) {
            let position = model.positions.as_ref().map(|p| &p[row.position * d..(row.position + 1) * d]);
            for (j, v) in sum_features(values, coefficients, d).into_iter().enumerate() {
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
        self.between_passes("step of a pass")?;
        if rows == 0 {
            return Err(ProtocolError::caller("rows of a pass", "1 or more", 0));
        }
        if heads > rows {
            return Err(ProtocolError::caller("rows with logits", format!("up to {rows}"), heads));
        }
        if self.heads.len() < heads {
            return Err(ProtocolError::Short {
                what: "logits",
                needed: heads as u64,
                available: self.heads.len() as u64,
            });
        }
        self.activate(rows)?;
        self.head_now = self.heads.drain(..heads).collect();
        self.turn = Some(Turn::FIRST);
        Ok(())
    }
}

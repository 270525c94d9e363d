//! The part of preparation that makes look-up tables: activations with their products, scalars.

use std::num::Wrapping;

use cryptogen_ot::TableShape;
use cryptogen_party::{Channel, Client, Party, Role};
use cryptogen_ring::{Fp, Seed, Word};

use super::{write_words, Preparer, Sink};
use crate::error::Result;
use crate::material::{
    activation_shape, hi_shape, lo_shape, masks, masks_words, net_shape, record_alpha, record_share,
    MaskLabel, ScalarLabels, ScalarPlaces, FACTOR, HI_MASKS, NORM_LABELS, SIGMA_LABELS,
};
use crate::model::{Plan, Scalar};
use crate::offline::tables;
use crate::share::local::{client_index, lift, rotation};

impl<P: Party> Preparer<'_, P> {
    /// Product and tables of an activation. `up`: the client's `[T, up_dim]` share of its input.
    pub(super) fn activation(
        &mut self,
        layer: usize,
        up: &[Fp],
        seeds: &[Seed],
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let m = &self.plan.model;
        let (ff, n) = (m.ff, seeds.len());
        // Without gates the two are the same.
        let columns = |first: usize| -> Vec<Fp> {
            up.chunks(m.up_dim()).flat_map(|row| &row[first..first + ff]).copied().collect()
        };
        let (gate, factor) = (columns(0), columns(m.up_dim() - ff));
        let betas = if m.gated {
            // client: gate, up against server: mask of up, mask of gate
            let z = match P::ROLE {
                Role::Client => self.cross(&[gate.clone(), factor.clone()])?,
                Role::Server => {
                    self.cross(&[MaskLabel::Up, MaskLabel::Gate].map(|what| masks(seeds, what, layer, ff)))?
                }
            };
            write_words(sink, self.layout.activation_product(layer), &z, ff)?;
            let of_up: Vec<Word> = match P::ROLE {
                Role::Client => factor.iter().map(|x| lift::<P>(*x)).collect(),
                Role::Server => masks_words(seeds, MaskLabel::UpPayload, layer, ff),
            };
            let random = masks_words(seeds, MaskLabel::Activation, layer, ff);
            random.iter().zip(&of_up).flat_map(|(w, u)| [*w, *u]).collect()
        } else {
            // client: u against server: mask of u
            let z = match P::ROLE {
                Role::Client => self.cross(std::slice::from_ref(&factor))?,
                Role::Server => self.cross(&[masks(seeds, MaskLabel::Up, layer, ff)])?,
            };
            let twice: Vec<Fp> = z.into_iter().map(|z| z + z).collect();
            write_words(sink, self.layout.activation_product(layer), &twice, ff)?;
            vec![]
        };
        let (plan, shape) = (self.plan, activation_shape(self.plan, layer));
        let (at, deltas) = (self.layout.activation_tables(layer), self.layout.activation_deltas(layer));
        let known = Known { plan, layer, shape, gate: &gate, factor: &factor };
        tables::make::<P>(self.ch, self.ot, (shape, n * ff), &betas, self.rng, &mut |ch, first, records| {
            let rotations = match P::ROLE {
                Role::Client => known.open(ch, first, records)?,
                Role::Server => known.opened(ch, records)?,
            };
            write_grouped(sink, 2, (ff, deltas), first, &rotations)?;
            write_grouped(sink, shape.record_bytes(), (ff, at), first, records)
        })
    }

    /// Keys of every norm and every 1/σ.
    pub(super) fn scalar_tables(&mut self, seeds: &[Seed], sink: &mut dyn Sink) -> Result<()> {
        let plan = self.plan;
        for (i, norm) in plan.norms.iter().enumerate() {
            let groups = scalar_groups(&norm.scalar, NORM_LABELS, (i, 1), self.layout.norm_tables(i), seeds);
            self.make_groups(groups, 1, seeds.len(), sink)?;
        }
        for (l, attention) in plan.attention.iter().enumerate() {
            let (spec, heads) = (&attention.heads[0].scalar, plan.model.heads);
            let groups = scalar_groups(spec, SIGMA_LABELS, (l, heads), self.layout.sigma_tables(l), seeds);
            self.make_groups(groups, heads, seeds.len(), sink)?;
        }
        Ok(())
    }

    fn make_groups(
        &mut self,
        groups: Vec<Group>,
        per_row: usize,
        rows: usize,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        for Group { shape, betas, at } in groups {
            let all = (shape, per_row * rows);
            tables::make::<P>(self.ch, self.ot, all, &betas, self.rng, &mut |_, first, records| {
                write_grouped(sink, shape.record_bytes(), (per_row, at), first, records)
            })?;
        }
        Ok(())
    }
}

/// The client's shares of the inputs of a layer's activation, which are known: of what is looked
/// up, and of what is multiplied by B. Nothing on the server.
struct Known<'a> {
    plan: &'a Plan,
    layer: usize,
    shape: TableShape,
    gate: &'a [Fp],
    factor: &'a [Fp],
}

impl Known<'_> {
    /// Bytes that the client opens of a key: its half of the index, and of a drawn payload.
    fn bytes(&self) -> usize {
        if self.shape.is_drawn() {
            10
        } else {
            2
        }
    }

    /// Client: opens its half of the index of the keys from `first` on, and its share of their
    /// second argument. Returns what a record has in place of rotations: it knows its half.
    fn open(&self, ch: &mut dyn Channel, first: usize, records: &[u8]) -> Result<Vec<u8>> {
        let (size, ff) = (self.shape.record_bytes(), self.plan.model.ff);
        let (mut rotations, mut arguments) = (vec![], vec![]);
        let inputs = self.gate.iter().zip(self.factor).enumerate().skip(first);
        for (record, (i, (gate, factor))) in records.chunks(size).zip(inputs) {
            let index = client_index(self.plan, self.layer, i % ff, *gate);
            let d = rotation(index, record_alpha(record), self.shape.k());
            rotations.extend_from_slice(&(d as u16).to_le_bytes());
            if self.shape.is_drawn() {
                let delta = lift::<Client>(*factor) - record_share(self.shape, record, FACTOR);
                arguments.extend_from_slice(&delta.0.to_le_bytes());
            }
        }
        ch.send(&[&rotations[..], &arguments].concat())?;
        Ok(vec![0; rotations.len()])
    }

    /// Server: the client's rotations. What it opened of an argument leaves our share of the drawn
    /// payload, as if the client's were its share of the argument.
    fn opened(&self, ch: &mut dyn Channel, records: &mut [u8]) -> Result<Vec<u8>> {
        let size = self.shape.record_bytes();
        let n = records.len() / size;
        let mut rotations = ch.recv(self.bytes() * n)?;
        let arguments = rotations.split_off(2 * n);
        for (record, delta) in records.chunks_mut(size).zip(arguments.as_chunks().0) {
            let share = record_share(self.shape, record, FACTOR) - Wrapping(u64::from_le_bytes(*delta));
            record[self.shape.share_at(FACTOR)..][..8].copy_from_slice(&share.0.to_le_bytes());
        }
        Ok(rotations)
    }
}

/// Keys of one class: a scalar's range or net, of all rows.
struct Group {
    shape: TableShape,
    betas: Vec<Word>,
    at: usize,
}

/// The keys of scalar or scalars number `index`, of which a row has `per_row`.
fn scalar_groups(
    spec: &Scalar,
    [hi, lo, net]: ScalarLabels,
    (index, per_row): (usize, usize),
    at: ScalarPlaces,
    seeds: &[Seed],
) -> Vec<Group> {
    let shape = hi_shape(spec);
    let betas = masks_words(seeds, hi, index, HI_MASKS * per_row);
    let betas = betas.chunks(HI_MASKS).flat_map(|b| &b[..shape.payloads() as usize]).copied().collect();
    let mut groups = vec![Group { shape, betas, at: at.hi }];
    if let Some(shape) = lo_shape(spec) {
        groups.push(Group { shape, betas: masks_words(seeds, lo, index, per_row), at: at.lo });
    }
    groups.push(Group { shape: net_shape(), betas: masks_words(seeds, net, index, per_row), at: at.net });
    groups
}

/// Writes consecutive pieces of `size` bytes that lie `per_row` to a row, from layout offset `at`.
fn write_grouped(
    sink: &mut dyn Sink,
    size: usize,
    (per_row, at): (usize, usize),
    mut first: usize,
    mut records: &[u8],
) -> Result<()> {
    while !records.is_empty() {
        let n = (per_row - first % per_row).min(records.len() / size);
        let (now, rest) = records.split_at(n * size);
        sink.write(first / per_row, at + (first % per_row) * size, now)?;
        first += n;
        records = rest;
    }
    Ok(())
}

//! The part of preparation that makes look-up tables: activations with their products, scalars.

use cryptogen_ot::TableShape;
use cryptogen_party::{Party, Role};
use cryptogen_ring::{Fp, Seed, Word};

use super::{write_words, Preparer, Sink};
use crate::error::Result;
use crate::material::{
    activation_shape, hi_shape, lo_shape, masks, masks_words, net_shape, record_alpha, MaskLabel,
    ScalarLabels, ScalarPlaces, HI_MASKS, NORM_LABELS, SIGMA_LABELS,
};
use crate::model::Scalar;
use crate::offline::tables;
use crate::share::local::{client_index, lift, rotation};

impl<P: Party> Preparer<'_, P> {
    /// Products and tables of an activation. `up`: the client's `[T, up_dim]` share of its input.
    pub(super) fn activation(
        &mut self,
        layer: usize,
        up: &[Fp],
        seeds: &[Seed],
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let m = &self.plan.model;
        let (ff, n) = (m.ff, seeds.len());
        let random = masks_words(seeds, MaskLabel::Activation, layer, ff);
        let halves = |second: bool| -> Vec<Fp> {
            up.chunks(m.up_dim())
                .flat_map(|r| if second { r[ff..].to_vec() } else { r[..ff].to_vec() })
                .collect()
        };
        let betas: Vec<Word> = if m.gated {
            let (first, second) = match P::ROLE {
                Role::Client => (halves(false), halves(true)),
                Role::Server => {
                    (masks(seeds, MaskLabel::Up, layer, ff), masks(seeds, MaskLabel::Gate, layer, ff))
                }
            };
            // client: gate, up against server: mask of up, mask of gate
            let z = self.cross(&[first.clone(), second.clone()])?;
            write_words(sink, self.layout.gated(layer), &z, ff)?;
            let of_up = match P::ROLE {
                Role::Client => second.into_iter().map(lift::<P>).collect(),
                Role::Server => masks_words(seeds, MaskLabel::UpPayload, layer, ff),
            };
            random.iter().zip(&of_up).flat_map(|(w, u)| [*w, *u]).collect()
        } else if self.is_client() {
            up.iter().map(|x| lift::<P>(*x)).collect()
        } else {
            random
        };
        let shape = activation_shape(self.plan, layer);
        let mut alphas = Vec::with_capacity(n * ff);
        let at = self.layout.activation_tables(layer);
        tables::make::<P>(self.ch, self.ot, (shape, n * ff), &betas, self.rng, &mut |first, records| {
            alphas.extend(records.chunks(shape.record_bytes()).map(record_alpha));
            write_grouped(sink, shape, (ff, at), first, records)
        })?;
        self.activation_rotations(layer, up, &alphas, n, sink)
    }

    /// The client's half of every activation index is known: it is opened now.
    fn activation_rotations(
        &mut self,
        layer: usize,
        up: &[Fp],
        alphas: &[u32],
        n: usize,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let (ff, width, k) = (self.plan.model.ff, self.plan.model.up_dim(), self.plan.activations[layer].k);
        match P::ROLE {
            Role::Client => {
                let mut bytes = Vec::with_capacity(2 * n * ff);
                for (row, alphas) in up.chunks(width).zip(alphas.chunks(ff)) {
                    for (neuron, (x, alpha)) in row[..ff].iter().zip(alphas).enumerate() {
                        let d = rotation(client_index(self.plan, layer, neuron, *x), *alpha, k);
                        bytes.extend_from_slice(&(d as u16).to_le_bytes());
                    }
                }
                self.ch.send(&bytes)?;
                for i in 0..n {
                    sink.write(i, self.layout.activation_deltas(layer), &vec![0; 2 * ff])?;
                }
                Ok(())
            }
            Role::Server => {
                let bytes = self.ch.recv(2 * n * ff)?;
                for (i, d) in bytes.chunks(2 * ff).enumerate() {
                    sink.write(i, self.layout.activation_deltas(layer), d)?;
                }
                Ok(())
            }
        }
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
            tables::make::<P>(self.ch, self.ot, all, &betas, self.rng, &mut |first, records| {
                write_grouped(sink, shape, (per_row, at), first, records)
            })?;
        }
        Ok(())
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

/// Writes consecutive table records that lie `per_row` to a row, from layout offset `at`.
fn write_grouped(
    sink: &mut dyn Sink,
    shape: TableShape,
    (per_row, at): (usize, usize),
    mut first: usize,
    mut records: &[u8],
) -> Result<()> {
    let size = shape.record_bytes();
    while !records.is_empty() {
        let n = (per_row - first % per_row).min(records.len() / size);
        let (now, rest) = records.split_at(n * size);
        sink.write(first / per_row, at + (first % per_row) * size, now)?;
        first += n;
        records = rest;
    }
    Ok(())
}

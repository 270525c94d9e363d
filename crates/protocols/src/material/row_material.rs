//! The prepared material of one row, as it lies in the store.
//!
//! It serves the row through all layers of the decoder. What is random is kept as a seed; what
//! came out of the offline protocols (shares of `W·r'`, of cross products, table keys) is kept as
//! it is. Both parties use the same byte layout, computed from the public plan.

use std::path::Path;

use cryptogen_ot::{TableKey, TableShape};
use cryptogen_party::{Party, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Seed, Word};
use zeroize::Zeroize;

use super::deferred::Deferred;
use super::masks::{embed_mask, expand_mask, mask_words, MaskLabel, HI_MASKS};
use super::table_keys::{self, TableKeys};
use crate::error::{ProtocolError, Result};
use crate::model::{Matrix, ModelShape, Plan, Scalar, Site, NET_BITS};

/// Bytes of the seed at the start of a record.
pub const SEED_BYTES: usize = 32;
const WORD: usize = 8;

/// Byte offsets of one party's record of a row.
pub struct RowLayout {
    bytes: usize,
    linears_bytes: usize,
    linear: Vec<usize>,
    norm_square: Vec<usize>,
    norm_product: Vec<usize>,
    activation_product: Vec<usize>,
    attention_out: Vec<usize>,
    norm_tables: Vec<ScalarPlaces>,
    sigma_tables: Vec<ScalarPlaces>,
    embed: usize,
    activation_tables: Vec<usize>,
    activation_deltas: Vec<usize>,
    model: ModelShape,
}

/// Where the keys of one or more scalars of one class lie, of each range those of all of them.
#[derive(Clone, Copy)]
pub struct ScalarPlaces {
    /// of the only or coarse range
    pub hi: usize,
    /// of the fine range
    pub lo: usize,
    /// of the net
    pub net: usize,
}

fn shape(k: u32, payloads: u32) -> TableShape {
    TableShape::new(k, payloads).expect(ADMITTED)
}

const ADMITTED: &str = "Plan::parse admits only 4 ≤ k ≤ 16";
/// Payload of the product in a key of an activation: of `u²`, or `gate·up`.
pub const PRODUCT: usize = 1;
/// Payload of its other factor: of `u`, or `up`.
pub const FACTOR: usize = 2;

/// Table class of the coarse range: payloads for the argument and, with two ranges, for the fine
/// value and its guard.
pub fn hi_shape(s: &Scalar) -> TableShape {
    shape(s.hi.k, if s.lo.is_some() { HI_MASKS as u32 } else { 1 })
}

/// Table class of the fine range.
pub fn lo_shape(s: &Scalar) -> Option<TableShape> {
    s.lo.as_ref().map(|r| shape(r.k, 1))
}

/// Table class of a layer's activation: payloads for `gate·up` and `up`, or drawn ones for `u²` and
/// `u`.
pub fn activation_shape(plan: &Plan, layer: usize) -> TableShape {
    let k = plan.activations[layer].k;
    if plan.model.gated {
        shape(k, 2)
    } else {
        TableShape::drawn(k, 2).expect(ADMITTED)
    }
}

/// Table class of a scalar's net: a payload for the coarse value.
pub fn net_shape() -> TableShape {
    shape(NET_BITS, 1)
}

fn scalar_places(s: &Scalar, n: usize, take: &mut impl FnMut(usize) -> usize) -> ScalarPlaces {
    ScalarPlaces {
        hi: take(n * hi_shape(s).record_bytes()),
        lo: take(n * lo_shape(s).map_or(0, |s| s.record_bytes())),
        net: take(n * net_shape().record_bytes()),
    }
}

impl RowLayout {
    /// Lays out a record for this plan.
    pub fn new(plan: &Plan) -> RowLayout {
        let m = &plan.model;
        let mut at = SEED_BYTES;
        let mut take = |bytes: usize| {
            let here = at;
            at += bytes;
            here
        };
        let mut layout = RowLayout {
            bytes: 0,
            linears_bytes: 0,
            linear: vec![],
            norm_square: vec![],
            norm_product: vec![],
            activation_product: vec![],
            attention_out: vec![],
            norm_tables: vec![],
            sigma_tables: vec![],
            activation_tables: vec![],
            activation_deltas: vec![],
            embed: 0,
            model: m.clone(),
        };
        layout.embed = take(m.d * WORD);
        for site in (0..m.layers).flat_map(Site::of_layer) {
            layout.linear.push(take(plan.linear(site).d_out * WORD));
        }
        layout.linears_bytes = take(0);
        for norm in &plan.norms {
            layout.norm_square.push(take(WORD));
            layout.norm_product.push(take(m.d * WORD));
            layout.norm_tables.push(scalar_places(&norm.scalar, 1, &mut take));
        }
        for l in 0..m.layers {
            layout.activation_product.push(take(m.ff * WORD));
            layout.attention_out.push(take(m.q_dim() * WORD));
            let scalar = &plan.attention[l].heads[0].scalar;
            layout.sigma_tables.push(scalar_places(scalar, m.heads, &mut take));
            layout.activation_tables.push(take(m.ff * activation_shape(plan, l).record_bytes()));
            layout.activation_deltas.push(take(m.ff * 2));
        }
        layout.bytes = at;
        layout
    }

    /// Lengths of the pieces of a record: what one step of a pass uses is in pieces of its own. The
    /// keys of every activation are one, which leaves as a whole.
    pub fn pieces(&self) -> Vec<usize> {
        let of_layers =
            [&self.activation_product, &self.attention_out, &self.activation_tables, &self.activation_deltas];
        let of_rest = self.linear.iter().chain(&self.norm_square);
        let ends = of_layers.into_iter().flatten().chain(of_rest).copied();
        let mut ends: Vec<usize> = ends.chain([self.bytes]).collect();
        ends.sort_unstable();
        let starts = [0].into_iter().chain(ends.clone());
        ends.iter().zip(starts).map(|(end, start)| end - start).collect()
    }
    /// The beginning of a record is one of `linears`, as `Linear` made it: this many bytes.
    pub fn linears_bytes(&self) -> usize {
        self.linears_bytes
    }
    /// Lengths of the pieces of a record of `linears`: seed and share of `Eᵀ·r`, then the shares of
    /// each site.
    pub fn linears_pieces(&self) -> Vec<usize> {
        let ends = self.linear.iter().copied().chain([self.linears_bytes]);
        let starts = [0].into_iter().chain(self.linear.iter().copied());
        ends.zip(starts).map(|(end, start)| end - start).collect()
    }
    /// Size of a record.
    pub fn record_bytes(&self) -> usize {
        self.bytes
    }
    /// Where the share of `Eᵀ·r` lies.
    pub fn embed(&self) -> usize {
        self.embed
    }
    /// Where the share of `W·r'` of a site lies: those of all layers one behind the other.
    pub fn linear(&self, site: Site) -> usize {
        self.linear[site.index(self.model.layers)]
    }
    /// Where the share of a product with a matrix lies.
    pub fn product(&self, matrix: Matrix) -> usize {
        match matrix {
            Matrix::Embed => self.embed,
            Matrix::Linear(site) => self.linear(site),
        }
    }
    /// Where the share of `Σ h'_c·u'` of a norm lies.
    pub fn norm_square(&self, norm: usize) -> usize {
        self.norm_square[norm]
    }
    /// Where the shares of `h_c·v + b·u` of a norm lie.
    pub fn norm_product(&self, norm: usize) -> usize {
        self.norm_product[norm]
    }
    /// Where the keys of a norm lie.
    pub fn norm_tables(&self, norm: usize) -> ScalarPlaces {
        self.norm_tables[norm]
    }
    /// Where the shares of `g_c·u_up + up_c·u_g` of a layer lie; without gates, of `2·u_c·b`.
    pub fn activation_product(&self, layer: usize) -> usize {
        self.activation_product[layer]
    }
    /// Where the shares of `a₂·v₂ + b₂·u₂` of a layer lie.
    pub fn attention_out(&self, layer: usize) -> usize {
        self.attention_out[layer]
    }
    /// Where the keys of 1/σ of a layer's heads lie.
    pub fn sigma_tables(&self, layer: usize) -> ScalarPlaces {
        self.sigma_tables[layer]
    }
    /// Where the keys of a layer's activation lie, one for each neuron.
    pub fn activation_tables(&self, layer: usize) -> usize {
        self.activation_tables[layer]
    }
    /// Server only: the client's half of each activation index, opened offline because both parts
    /// are known then.
    pub fn activation_deltas(&self, layer: usize) -> usize {
        self.activation_deltas[layer]
    }
}

/// A row's material in use: single-use, wiped on drop, neither printable nor copyable.
///
/// ```compile_fail,E0599
/// use cryptogen_protocols::material::RowMaterial;
/// use cryptogen_party::Client;
/// fn twice(s: RowMaterial<Client>) -> [RowMaterial<Client>; 2] { [s.clone(), s] }
/// ```
/// ```compile_fail,E0277
/// use cryptogen_protocols::material::RowMaterial;
/// fn print(s: RowMaterial<cryptogen_party::Client>) { println!("{s:?}"); }
/// ```
/// Its keys are consumed by their look-up:
/// ```compile_fail,E0382
/// use cryptogen_ot::TableKey;
/// use cryptogen_party::Role;
/// fn twice(key: TableKey) {
///     key.dot(Role::Client, 0, &[]).unwrap();
///     key.dot(Role::Client, 1, &[]).unwrap();
/// }
/// ```
pub struct RowMaterial<P: Party> {
    seed: Seed,
    /// the record in pieces with their offsets, each in the store until the step that uses it
    pieces: Vec<(usize, Deferred)>,
    /// pieces of the step in progress
    in_use: Vec<usize>,
    _party: std::marker::PhantomData<P>,
}

impl<P: Party> RowMaterial<P> {
    /// Takes ownership of a record that the store has released (and erased), in pieces of the
    /// lengths [`RowLayout::pieces`]. Reads the first: the seed, and what the embedding uses.
    pub fn from_pieces(layout: &RowLayout, pieces: Vec<Deferred>) -> Result<RowMaterial<P>> {
        let (mut start, mut placed) = (0, Vec::with_capacity(pieces.len()));
        for (piece, len) in pieces.into_iter().zip(layout.pieces()) {
            placed.push((start, if start == 0 { piece.read()? } else { piece }));
            start += len;
        }
        let head = placed.first().and_then(|(_, piece)| piece.bytes()?.0.first_chunk::<SEED_BYTES>());
        match head {
            Some(seed) if start == layout.record_bytes() => Ok(RowMaterial {
                seed: Seed::from_bytes(*seed),
                pieces: placed,
                in_use: vec![0],
                _party: std::marker::PhantomData,
            }),
            _ => Err(ProtocolError::bug("bytes of a row's record", layout.record_bytes(), start)),
        }
    }

    /// Reads the pieces at these layout offsets, which the next step uses. Those of the step before
    /// are wiped.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn turn_to(&mut self, offsets: &[usize]) -> Result<()> {
        for piece in std::mem::take(&mut self.in_use) {
            self.pieces[piece].1 = Deferred::Used;
        }
        for offset in offsets {
            let at = self.piece(*offset);
            let piece = std::mem::take(&mut self.pieces[at].1);
            self.pieces[at].1 = piece.read()?;
            self.in_use.push(at);
        }
        Ok(())
    }

    /// This party's role.
    pub fn role(&self) -> Role {
        P::ROLE
    }

    /// A mask derived from the material's seed.
    pub fn expand_mask(&self, what: MaskLabel, index: usize, n: usize) -> Vec<Fp> {
        expand_mask(&self.seed, what, index, n)
    }

    /// The same modulo `2^64`.
    pub fn mask_words(&self, what: MaskLabel, index: usize, n: usize) -> Vec<Word> {
        mask_words(&self.seed, what, index, n)
    }

    /// The client's mask of its token's unit vector, `[vocab]`.
    pub(crate) fn embed_mask(&self, vocab: usize) -> Vec<Fp> {
        embed_mask(&self.seed, vocab)
    }

    /// `n` field elements at a layout offset.
    pub fn words(&self, offset: usize, n: usize) -> Result<Vec<Fp>> {
        let (bytes, file) = self.bytes(offset, n * WORD)?;
        fp_from_bytes(bytes).ok_or_else(|| ProtocolError::corrupt(file, "a number is above the modulus"))
    }

    /// The `n` field elements that are the piece at a layout offset, ahead of the step that uses
    /// them.
    ///
    /// # Errors
    /// Those of the store; `Spent` after that step.
    pub fn look(&self, offset: usize, n: usize) -> Result<Vec<Fp>> {
        let (bytes, file) = self.pieces[self.piece(offset)].1.look("share of a row")?;
        let words = fp_from_bytes(&bytes);
        let words = words.ok_or_else(|| ProtocolError::corrupt(&file, "a number is above the modulus"))?;
        match words.len() == n {
            true => Ok(words),
            false => Err(ProtocolError::bug("numbers of a piece", n, words.len())),
        }
    }

    /// `n` little-endian 16-bit numbers at a layout offset.
    pub fn half_words(&self, offset: usize, n: usize) -> Result<impl Iterator<Item = u32> + '_> {
        Ok(self.bytes(offset, 2 * n)?.0.chunks_exact(2).map(|b| u32::from(b[0]) | u32::from(b[1]) << 8))
    }

    /// The `i`-th table key of a group that starts at `offset`. The stored copy is wiped: a key
    /// leaves once.
    pub fn table(&mut self, shape: TableShape, offset: usize, i: usize) -> Result<TableKey> {
        let n = shape.record_bytes();
        let (start, piece) = (offset + i * n, self.piece(offset));
        let (first, piece) = &mut self.pieces[piece];
        if matches!(piece, Deferred::Used) {
            return Err(ProtocolError::Spent { what: "table key" });
        }
        let (bytes, file) = piece
            .bytes_mut()
            .and_then(|(bytes, file)| Some((bytes.get_mut(start - *first..start - *first + n)?, file)))
            .ok_or_else(|| beyond(n, start))?;
        if bytes.iter().all(|b| *b == 0) {
            return Err(ProtocolError::Spent { what: "table key" });
        }
        let key = table_keys::parse(shape, bytes, file);
        bytes.zeroize();
        key
    }

    /// All `n` table keys of a layer's activation, with their memory: keys leave once.
    pub fn activation_keys(&mut self, layout: &RowLayout, plan: &Plan, layer: usize) -> Result<TableKeys> {
        let at = self.piece(layout.activation_tables(layer));
        TableKeys::new(activation_shape(plan, layer), self.pieces[at].1.take("table key")?)
    }

    /// The piece that holds this offset.
    fn piece(&self, offset: usize) -> usize {
        self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1)
    }

    /// What lies there, and the file that it is from.
    fn bytes(&self, offset: usize, n: usize) -> Result<(&[u8], &Path)> {
        let (first, piece) = &self.pieces[self.piece(offset)];
        let bytes = piece
            .bytes()
            .and_then(|(bytes, file)| Some((bytes.get(offset - first..offset - first + n)?, file)));
        bytes.ok_or_else(|| beyond(n, offset))
    }
}

/// What is read of a record is in memory and inside of it: both follow from the layout.
fn beyond(n: usize, offset: usize) -> ProtocolError {
    ProtocolError::bug("part of a row's record", format!("{n} bytes at {offset}"), "fewer")
}

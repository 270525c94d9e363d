//! Table keys: distributed point functions at a secret random index, made by the two parties
//! themselves.
//!
//! Functionality, for each of `n` tables with domain `2^k` and `m` payloads: parties
//! `b ∈ {0 = client, 1 = server}` get an additive index share `α_b` (`α = α_0 + α_1 mod 2^k`
//! uniform and known to nobody) and a key that expands to vectors `v_b^{(ℓ)}` over `Z_{2^64}` with
//! `v_0^{(ℓ)}[j] + v_1^{(ℓ)}[j] = [j = α]·β^{(ℓ)}`, `β^{(0)} = 1`, and `β^{(ℓ)}`, `ℓ ≥ 1`, either
//! *given*, shared additively by the caller, or *drawn*: uniform and known to nobody, and each
//! party's key holds its additive share.
//! Source: Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, "Half-Tree: Halving the Cost of Tree Expansion
//! in COT and DPF", EUROCRYPT 2023, §5 and figure 8 (correlated trees, made level by level on
//! shares as in Doerner, shelat, "Scaling ORAM for Secure Computation", CCS 2017, §3); final
//! correction word as in Boyle, Gilboa, Ishai, "Function Secret Sharing: Improvements and
//! Extensions", CCS 2016, figure 1, with the sign from node counts modulo 4 so that nobody learns
//! it. Security of the trees is that of `H` (`fixed_key`) as a tweakable circular correlation
//! robust function under the key `Δ_b` of the transfers, AES being an ideal cipher. The tweak, tree
//! and level, is the AES key: a party hashes one node alone under it that the other does not know,
//! so that `N` AES calls of an attacker win with about `N/2^126`; `Δ_b` has 127 free bits. (Guo,
//! Katz, Wang, Weng, Yu, "Better Concrete Security for Half-Gates Garbling (in the Multi-Instance
//! Setting)", CRYPTO 2020.)
//! Inputs: of given payloads `betas`, `n × (m−1)` integers modulo `2^64` from each party. Leaks:
//! nothing. Adversary: semi-honest. A party that deviates can spoil keys, but nothing that is
//! opened tells it of the other's `Δ_b` or index: `docs/protocols/tables.md`.
//! Errors: [`crate::OtError`].
//!
//! `2k + 7` messages, independent of `n`, the client beginning and ending; bytes from each party
//! (exactly: [`cost`]) those of `k + 1` transfers and about `16(k−1) + 1/8 + 40m` for each table,
//! with drawn payloads `16k + 1/8 + 16`, and `k(k−1)/16` more for each table from the server; a
//! transfer takes 0.45 bytes where they are silent, and 18 636 for the batch, else 3.9 and 576.
//! With drawn payloads there are 2 messages more.
//!
//! *Given payloads.* Trees end one level early ("early termination" of Boyle, Gilboa, Ishai, CCS
//! 2016): a leaf `s[j]` stands for the entries `j` and `j + 2^{k−1}`, its two *halves*, and is
//! converted for each. So a tree has `2^{k−1}` leaves, and the most significant bit `μ` of the
//! index no level.
//!
//! *Drawn payloads.* A payload without a final word is what the leaves make of it,
//! `β^{(ℓ)} = Conv_ℓ(s_0[α]) − Conv_ℓ(s_1[α])`. All other leaves are equal on both sides, so
//! `Σ_j Conv_ℓ(s_0[j])` and `−Σ_j Conv_ℓ(s_1[j])` are its shares, without a message. To either
//! party it is as random as the other's leaf on the path, of which other bits of `Conv` pad the
//! final word. Without a final word nothing can make a second half zero: such trees have all `k`
//! levels.
//!
//! Steps, all tables of a batch together (`generate.rs`), `Δ = Δ_0 ⊕ Δ_1` odd:
//! 1. `k + 1` random transfers in each direction ([`crate::extension`]), 3 messages (7 the first
//!    time that they are silent), from where on the server speaks first in every exchange. The
//!    choice bits of the first `k`, the server's flipped, are the XOR shares of the index, least
//!    significant bit first. Root: `Δ_b` and a number used once.
//! 2. Level `i`: a node `s` has the children `H(s) ⊕ t·CW_i` and `H(s) ⊕ s ⊕ t·CW_i`, `t` its last
//!    bit. `H` has an AES key for each level of each tree, `Conv` one for each tree's leaves. Nodes
//!    off the path are equal on both sides, that on the path differs by `Δ`; so `z_b = ⊕ H(s)` over
//!    all nodes add up to `H(s_0) ⊕ H(s_1)` of the path, and
//!    `CW_i = z_0 ⊕ z_1 ⊕ ¬α_i·Δ` keeps it so on the next level. The product is shared without a
//!    message: `c_b·Δ_b` is local, `c_{1−b}·Δ_b = q ⊕ t` is the correlation of a transfer. Opening
//!    takes 1 round. `k − 1` levels, with drawn payloads `k`.
//! 3. Of given payloads shares of `u = β·μ`, a product of additive by XOR shares, from pads of the
//!    transfers of `μ`, one direction for each party's `β`; with the first message of step 2. The
//!    additive index, `α_{0,i} + α_{1,i} − 2·α_{0,i}·α_{1,i}` for each bit, from a pad of the
//!    transfers in which the client chooses; the server's message travels with the same.
//! 4. For half `c`, with `β^c = β − u` or `u`: `V_0 = β^c_0 − Σ_j Conv_{ℓ,c}(s_0[j])`,
//!    `V_1 = β^c_1 + Σ_j Conv_{ℓ,c}(s_1[j])`; the final word `CW_{ℓ,c}` is `±(V_0 + V_1)`, negative
//!    if `t_1 = 1` on the path. (Drawn payloads: of `β^{(0)} = 1` alone, and without halves.)
//!    With `T_b = Σ_j t_b[j]`, `T_1 = T_0 ± 1`, so
//!    `t_1 = bit_1(T_0) ⊕ bit_1(T_1) ⊕ bit_0(T_1)` is an XOR of local bits. One correlated transfer
//!    in each direction, derandomised, multiplies the sign (2 rounds); opening the word takes 1
//!    round.
//! 5. `v_0[j + c·2^{k−1}] = Conv_{ℓ,c}(s_0[j]) + t_0[j]·CW_{ℓ,c}`, `v_1` is the negative of the
//!    same. (Drawn payloads: no halves, and 0 in place of the final words that they have not.) One
//!    AES block converts a leaf for two payloads of a half: two integers modulo `2^64`, exactly
//!    uniform.

mod generate;
mod halves;
mod index;
mod key;
mod tree;

pub use generate::generate;
pub use key::{DotScratch, TableKey};

use cryptogen_party::Role;
use cryptogen_ring::kernels::MAX_PAIRS;
use zeroize::Zeroizing;

use crate::bits;
use crate::error::OtError;
use crate::extension::{self, MAX_EXTEND, RESERVE_BYTES, RESERVE_MESSAGES};
use crate::fixed_key::{NUMBER_BYTES, TAG_BYTES};

/// Smallest and largest `k`.
pub const DOMAIN_BITS: core::ops::RangeInclusive<u32> = 4..=16;
/// Most payloads `m`, the constant one included.
pub const MAX_PAYLOADS: usize = MAX_PAIRS;
/// Most words behind the levels of a record: a final word for each payload and half.
const MAX_WORDS: usize = 2 * MAX_PAYLOADS;
/// Most leaves (`n·2^k`) in one batch: bounds its work and memory.
pub const MAX_LEAVES: usize = 1 << 26;

/// Domain and payload count of a class of tables; only valid ones exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableShape {
    k: u32,
    payloads: u32,
    drawn: bool,
}

impl TableShape {
    /// Domain `2^k` and `payloads` given secret payloads beside the constant 1, so
    /// `m = 1 + payloads`.
    ///
    /// # Errors
    /// [`OtError::Range`] unless `4 ≤ k ≤ 16` and `m ≤` [`MAX_PAYLOADS`].
    pub fn new(k: u32, payloads: u32) -> Result<TableShape, OtError> {
        TableShape::checked(k, payloads, false)
    }

    /// The same with payloads that are drawn.
    ///
    /// # Errors
    /// Those of [`TableShape::new`].
    pub fn drawn(k: u32, payloads: u32) -> Result<TableShape, OtError> {
        TableShape::checked(k, payloads, true)
    }

    fn checked(k: u32, payloads: u32, drawn: bool) -> Result<TableShape, OtError> {
        if !DOMAIN_BITS.contains(&k) {
            let (min, max) = (*DOMAIN_BITS.start() as usize, *DOMAIN_BITS.end() as usize);
            return Err(OtError::Range { what: "domain bits", min, max, actual: k as usize });
        }
        if payloads as usize >= MAX_PAYLOADS {
            return Err(OtError::Range {
                what: "payloads",
                min: 0,
                max: MAX_PAYLOADS - 1,
                actual: payloads as usize,
            });
        }
        Ok(TableShape { k, payloads, drawn })
    }

    /// Bits of the domain.
    pub const fn k(self) -> u32 {
        self.k
    }

    /// Secret payloads, `m − 1`.
    pub const fn payloads(self) -> u32 {
        self.payloads
    }

    /// All payloads, `m`.
    pub const fn m(self) -> usize {
        self.payloads as usize + 1
    }

    /// Whether payloads are drawn, not given.
    pub const fn is_drawn(self) -> bool {
        self.drawn
    }

    /// Payloads whose shares the caller gives, beside the constant 1.
    pub const fn given(self) -> usize {
        if self.drawn {
            0
        } else {
            self.payloads as usize
        }
    }

    /// Entries that a leaf stands for.
    pub(crate) const fn halves(self) -> usize {
        if self.drawn {
            1
        } else {
            2
        }
    }

    /// Levels of a tree.
    pub(crate) const fn depth(self) -> u32 {
        if self.drawn {
            self.k
        } else {
            self.k - 1
        }
    }

    /// Pairs of payloads: a leaf is converted once for each, in either half.
    pub(crate) const fn pairs(self) -> usize {
        self.m().div_ceil(2)
    }

    /// Number of the block that converts a leaf for two payloads of a half.
    pub(crate) const fn block(self, half: usize, pair: usize) -> usize {
        half * self.pairs() + pair
    }

    /// Number of the final word of a payload in a half.
    pub(crate) const fn word(self, half: usize, payload: usize) -> usize {
        half * self.m() + payload
    }

    /// Blocks that convert a leaf.
    pub(crate) const fn blocks(self) -> usize {
        self.halves() * self.pairs()
    }

    /// Payloads with a final word in each half, the first ones.
    pub(crate) const fn corrected(self) -> usize {
        self.given() + 1
    }

    /// Number of final words.
    pub(crate) const fn finals(self) -> usize {
        self.halves() * self.corrected()
    }

    /// Words of a record behind its levels: the final words, then our shares of drawn payloads.
    pub(crate) const fn words(self) -> usize {
        self.finals() + self.m() - self.corrected()
    }

    /// Words of the first message for `u = β·μ`.
    pub(crate) const fn half_words(self) -> usize {
        if self.drawn {
            0
        } else {
            self.m()
        }
    }

    /// Where in a record our share of a drawn payload lies, 8 bytes, little endian: `payload` from
    /// 1 on.
    ///
    /// # Panics
    /// If that payload is not a drawn one.
    pub const fn share_at(self, payload: usize) -> usize {
        assert!(self.drawn && payload >= 1 && payload < self.m());
        self.record_bytes() - 8 * (self.m() - payload)
    }

    /// Domain size `2^k`.
    pub const fn size(self) -> usize {
        1 << self.k
    }

    /// Most tables of one batch.
    pub const fn max_batch(self) -> usize {
        let (by_leaves, by_transfers) = (MAX_LEAVES >> self.k, MAX_EXTEND / (self.k as usize + 1));
        if by_leaves < by_transfers {
            by_leaves
        } else {
            by_transfers
        }
    }

    /// Bytes of one stored record: index 2, tag 8, number 4, root 16, level words 16 each, final
    /// words and shares of drawn payloads 8 each.
    pub const fn record_bytes(self) -> usize {
        2 + TAG_BYTES + NUMBER_BYTES + 16 + 16 * self.depth() as usize + 8 * self.words()
    }
}

/// What [`generate`] costs, whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Messages, both parties' together. The client begins and ends.
    pub messages: usize,
    /// Bytes that the client sends.
    pub client_bytes: usize,
    /// Bytes that the server sends.
    pub server_bytes: usize,
}

impl Cost {
    /// Messages that `role` sends.
    pub const fn messages_from(&self, role: Role) -> usize {
        match role {
            Role::Client => self.messages.div_ceil(2),
            Role::Server => self.messages / 2,
        }
    }

    /// Bytes that `role` sends.
    pub const fn bytes_from(&self, role: Role) -> usize {
        match role {
            Role::Client => self.client_bytes,
            Role::Server => self.server_bytes,
        }
    }
}

/// What the reserve of silent transfers costs, once for a pair: with the first batch of at least
/// [`crate::SILENT_FROM`] transfers, `k + 1` for each table.
pub const RESERVE_COST: Cost =
    Cost { messages: RESERVE_MESSAGES, client_bytes: RESERVE_BYTES, server_bytes: RESERVE_BYTES };

/// Messages and bytes of [`generate`] for `n` tables, but for [`RESERVE_COST`].
pub const fn cost(shape: TableShape, n: usize) -> Cost {
    if n == 0 {
        return Cost { messages: 0, client_bytes: 0, server_bytes: 0 };
    }
    let (k, depth) = (shape.k as usize, shape.depth() as usize);
    let last = bits::bytes_for(n) + 2 * 8 * shape.finals() * n;
    let client_bytes = extension::bytes((k + 1) * n) + depth * 16 * n + 8 * shape.half_words() * n + last;
    let server_bytes = client_bytes + index::index_message_bytes(shape.k, n);
    Cost { messages: 3 + 2 * (depth + 3), client_bytes, server_bytes }
}

/// One party's keys of `n` tables: fixed-size records, wiped on drop.
pub struct TableBatch {
    shape: TableShape,
    bytes: Zeroizing<Vec<u8>>,
}

impl TableBatch {
    /// The shape shared by all tables.
    pub fn shape(&self) -> TableShape {
        self.shape
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.shape.record_bytes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Record `i`, for [`TableKey::from_record`].
    ///
    /// # Panics
    /// If `i ≥ len()`.
    pub fn record(&self, i: usize) -> &[u8] {
        let bytes = self.shape.record_bytes();
        &self.bytes[i * bytes..(i + 1) * bytes]
    }

    /// All records, one after the other.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

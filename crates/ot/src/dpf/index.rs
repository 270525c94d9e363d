//! Step 3: the additive index from the XOR-shared one,
//! `α_i = α_{0,i} + α_{1,i} − 2·α_{0,i}·α_{1,i}` for each bit. The products come from a second pad
//! of the transfers in which the client chose `α_{0,i}`.

use zeroize::Zeroizing;

use super::generate::Batch;
use super::key::RecordWriter;
use crate::bits;

/// Label of the pads that make the index.
const INDEX: u8 = 1;

impl Batch {
    /// Weight of the index bit of a level.
    fn weight(&self, level: u32) -> u16 {
        1 << level
    }

    /// Levels whose product terms are not a multiple of `2^k`, with the bits that matter of the
    /// factor of `2^{i+1}`.
    fn widths(&self) -> impl Iterator<Item = (u32, u32)> {
        index_widths(self.shape.k())
    }

    /// The server's message and share: offsets `m_0 − m_1 − α_{1,i}` and share
    /// `2^i·α_{1,i} − 2^{i+1}·m_0`.
    pub(super) fn share_index_as_server(&self, writer: &mut RecordWriter) -> Vec<u8> {
        let mut message = Vec::with_capacity(index_message_bytes(self.shape.k(), self.n));
        let mut shares = Zeroizing::new(vec![0u16; self.n]);
        self.add_index_bits(&mut shares);
        for (level, width) in self.widths() {
            let [m0, m1] = self.sent.pads(self.range(level), INDEX);
            for (share, m0) in shares.iter_mut().zip(m0.iter()) {
                *share = share.wrapping_sub((*m0 as u16) << (level + 1));
            }
            let offsets = (m0.iter().zip(m1.iter()).enumerate()).map(|(i, (m0, m1))| {
                (*m0 as u16).wrapping_sub(*m1 as u16).wrapping_sub(self.index_bit(level, i) as u16)
            });
            message.extend(bits::pack_fields(width, offsets));
        }
        writer.set_indices(&shares);
        message
    }

    /// The client's share: `2^i·α_{0,i} + 2^{i+1}·(m_r + r·offset)`, `r = α_{0,i}`.
    pub(super) fn share_index_as_client(&self, mut message: &[u8], writer: &mut RecordWriter) {
        let mut shares = Zeroizing::new(vec![0u16; self.n]);
        self.add_index_bits(&mut shares);
        for (level, width) in self.widths() {
            let pads = self.received.pads(self.range(level), INDEX);
            let (offsets, rest) = message.split_at(bits::bytes_for(width as usize * self.n));
            message = rest;
            let offsets = bits::fields(width, offsets);
            for (i, ((share, pad), offset)) in shares.iter_mut().zip(pads.iter()).zip(offsets).enumerate() {
                let chosen = offset.wrapping_mul(self.index_bit(level, i) as u16).wrapping_add(*pad as u16);
                *share = share.wrapping_add(chosen << (level + 1));
            }
        }
        writer.set_indices(&shares);
    }

    fn add_index_bits(&self, shares: &mut [u16]) {
        for level in 0..self.shape.k() {
            for (i, share) in shares.iter_mut().enumerate() {
                *share = share.wrapping_add(self.weight(level).wrapping_mul(self.index_bit(level, i) as u16));
            }
        }
    }
}

/// `(level, width)`: the most significant bit needs no transfer, its product term is a multiple of
/// `2^k`; that of bit `i` is a multiple of `2^{i+1}`, so `k − 1 − i` bits of it travel.
fn index_widths(k: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..k - 1).map(move |level| (level, k - 1 - level))
}

/// Bytes of the server's message.
pub(super) const fn index_message_bytes(k: u32, n: usize) -> usize {
    let (mut bytes, mut width) = (0, 1);
    while width < k {
        bytes += bits::bytes_for(width as usize * n);
        width += 1;
    }
    bytes
}

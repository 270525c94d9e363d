//! Step 3: the additive index from the XOR-shared one, `α_i = α_{0,i} + α_{1,i} − 2·α_{0,i}·α_{1,i}` for each bit.
//! The products come from a second pad of the transfers in which the client chose `α_{0,i}`.

use zeroize::Zeroizing;

use super::generate::Batch;
use super::key::RecordWriter;

/// Label of the pads that make the index.
const INDEX: u8 = 1;

impl Batch {
    /// The most significant bit needs no transfer: its product term is a multiple of `2^k`.
    pub(super) fn index_message_bytes(&self) -> usize {
        2 * (self.shape.k() as usize - 1) * self.n
    }

    /// Weight of the index bit of a level.
    fn weight(&self, level: u32) -> u16 {
        1 << level
    }

    /// The server's message and share: offsets `m_0 − m_1 + w`, `w = −2·2^i·α_{1,i}`, and share `2^i·α_{1,i} − m_0`.
    pub(super) fn share_index_as_server(&self, writer: &mut RecordWriter) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.index_message_bytes());
        let mut shares = Zeroizing::new(vec![0u16; self.n]);
        self.add_index_bits(&mut shares);
        for level in 0..self.shape.k() - 1 {
            let [m0, m1] = self.sent.pads(self.range(level), INDEX);
            for (i, (m0, m1)) in m0.iter().zip(m1.iter()).enumerate() {
                let product = (2 * self.weight(level)).wrapping_mul(self.index_bit(level, i) as u16);
                let offset = (*m0 as u16).wrapping_sub(*m1 as u16).wrapping_sub(product);
                message.extend_from_slice(&offset.to_le_bytes());
                shares[i] = shares[i].wrapping_sub(*m0 as u16);
            }
        }
        writer.set_indices(&shares);
        message
    }

    /// The client's share: `2^i·α_{0,i} + m_r + r·offset`, `r = α_{0,i}`.
    pub(super) fn share_index_as_client(&self, offsets: &[u8], writer: &mut RecordWriter) {
        let mut shares = Zeroizing::new(vec![0u16; self.n]);
        self.add_index_bits(&mut shares);
        for (level, offsets) in (0..self.shape.k() - 1).zip(offsets.chunks_exact(2 * self.n)) {
            let pads = self.received.pads(self.range(level), INDEX);
            for (i, (pad, offset)) in pads.iter().zip(offsets.chunks_exact(2)).enumerate() {
                let offset = u16::from_le_bytes([offset[0], offset[1]]);
                let product = offset.wrapping_mul(self.index_bit(level, i) as u16);
                shares[i] = shares[i].wrapping_add(*pad as u16).wrapping_add(product);
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

//! Bit vectors as little-endian bytes: bit `i` is bit `i mod 8` of byte `i / 8`.

/// Bytes that hold `n` bits.
pub(crate) const fn bytes_for(n: usize) -> usize {
    n.div_ceil(8)
}

/// Bit `i`, 0 or 1.
#[inline(always)]
pub(crate) fn get(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

/// Packs the least significant bits of `bits`.
pub(crate) fn pack(bits: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0; bytes_for(bits.len())];
    for (i, bit) in bits.enumerate() {
        bytes[i / 8] |= (bit & 1) << (i % 8);
    }
    bytes
}

/// All ones if the least significant bit of `bit` is 1, else 0.
#[inline(always)]
pub(crate) fn mask(bit: u8) -> u128 {
    ((bit & 1) as u128).wrapping_neg()
}

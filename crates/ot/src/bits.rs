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

/// Packs the lowest `width ≤ 16` bits of each value, without gaps.
pub(crate) fn pack_fields(width: u32, values: impl Iterator<Item = u16>) -> Vec<u8> {
    let (mut bytes, mut pending, mut filled) = (Vec::new(), 0u32, 0);
    for value in values {
        pending |= (value as u32 & ((1 << width) - 1)) << filled;
        filled += width;
        while filled >= 8 {
            bytes.push(pending as u8);
            (pending, filled) = (pending >> 8, filled - 8);
        }
    }
    if filled > 0 {
        bytes.push(pending as u8);
    }
    bytes
}

/// The fields of [`pack_fields`]; as many as the bytes hold, the last ones may be made of padding.
pub(crate) fn fields(width: u32, bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let (mut bytes, mut pending, mut filled) = (bytes.iter(), 0u32, 0);
    core::iter::from_fn(move || {
        while filled < width {
            pending |= (*bytes.next()? as u32) << filled;
            filled += 8;
        }
        let value = (pending & ((1 << width) - 1)) as u16;
        (pending, filled) = (pending >> width, filled - width);
        Some(value)
    })
}

/// All ones if the least significant bit of `bit` is 1, else 0.
#[inline(always)]
pub(crate) fn mask(bit: u8) -> u128 {
    ((bit & 1) as u128).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        for width in 1..=16 {
            let values: Vec<u16> = (0..37).map(|i: u16| i.wrapping_mul(40_503)).collect();
            let bytes = pack_fields(width, values.iter().copied());
            assert_eq!(bytes.len(), bytes_for(width as usize * values.len()));
            let expected: Vec<u16> = values.iter().map(|v| (*v as u32 & ((1 << width) - 1)) as u16).collect();
            assert_eq!(fields(width, &bytes).take(37).collect::<Vec<_>>(), expected, "{width}");
        }
    }
}

//! AES-128 under public keys as permutations `π`, and the three loops around it that table keys
//! live in. Every level of every tree has a key of its own, so keys are scheduled four at a time.
//!
//! Portable: the `aes` crate (which uses the AES instructions where they exist, one block at a
//! time). With VAES, two or four blocks share an instruction and a tree level is one pass through
//! the registers.

#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128, Block};
use zeroize::{Zeroize, Zeroizing};

use super::Isa;

/// Trees that [`Keys::grow`] and the sums take side by side: node `i` belongs to tree `i mod 4`.
pub const TREES: usize = 4;
/// Blocks behind the parents that [`Keys::grow`] needs, however few they are: a group of the
/// widest variant.
pub const SPARE: usize = 32;
/// Sums that [`Keys::grown_leaf_sums`] makes at once.
pub const MAX_PAIRS: usize = 4;
/// Tables that [`Keys::dot`] takes at once.
pub const MAX_TABLES: usize = 4;
/// Blocks worked on at once by the portable variant.
const CHUNK: usize = 64;

/// A public key of the permutation `π`. Blocks are numbers, little endian. `MMO(x) = π(x) ⊕ x`
/// (Matyas–Meyer–Oseas).
pub struct FixedKey {
    cipher: Aes128,
    /// for the vector variants, where the machine has AES instructions on vectors
    #[cfg(target_arch = "x86_64")]
    round_keys: Option<[u128; 11]>,
}

/// Defines `name` (best variant) and `name_on` (a given one, portable if the machine lacks it).
macro_rules! hashed {
    ($(#[$doc:meta])* $name:ident, $on:ident, $portable:ident ($($arg:ident : $ty:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        #[inline]
        pub fn $name(&self, $($arg: $ty),*) $(-> $result)? {
            self.$on(Isa::best(), $($arg),*)
        }

        /// The same by a given variant (portable if the machine lacks it), for tests and
        /// measurements.
        #[inline]
        pub fn $on(&self, isa: Isa, $($arg: $ty),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            if let Some(keys) = self.scheduled() {
                match isa {
                    // SAFETY: the features were detected on this machine; without AES on vectors
                    // there are no round keys.
                    Isa::Avx512 if isa.is_available() => return unsafe { x86::avx512::$name(keys, $($arg),*) },
                    Isa::Avx2 if isa.is_available() => return unsafe { x86::avx2::$name(keys, $($arg),*) },
                    _ => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            self.$portable($($arg),*)
        }
    };
}

impl FixedKey {
    /// `π` under `key`, a public constant.
    pub fn new(key: &[u8; 16]) -> FixedKey {
        FixedKey {
            cipher: Aes128::new(key.into()),
            #[cfg(target_arch = "x86_64")]
            round_keys: x86::round_keys(key),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn scheduled(&self) -> Option<&[u128; 11]> {
        self.round_keys.as_ref()
    }

    hashed! {
        /// Each block `x` becomes `MMO(x)`.
        mmo, mmo_on, mmo_portable(blocks: &mut [u128])
    }

    fn mmo_portable(&self, blocks: &mut [u128]) {
        let mut encrypted = [Block::default(); CHUNK];
        blocks.chunks_mut(CHUNK).for_each(|blocks| mmo(&self.cipher, blocks, &mut encrypted));
        encrypted.iter_mut().for_each(|block| block.as_mut_slice().zeroize());
    }
}

/// `MMO` of at most [`CHUNK`] blocks; `encrypted` holds their encryptions afterwards.
fn mmo(cipher: &Aes128, blocks: &mut [u128], encrypted: &mut [Block; CHUNK]) {
    let encrypted = &mut encrypted[..blocks.len()];
    for (block, x) in encrypted.iter_mut().zip(blocks.iter()) {
        *block = x.to_le_bytes().into();
    }
    cipher.encrypt_blocks(encrypted);
    for (x, block) in blocks.iter_mut().zip(encrypted.iter()) {
        *x ^= u128::from_le_bytes((*block).into());
    }
}

/// Four public keys side by side, with their schedules where the machine has AES instructions on
/// vectors.
#[derive(Clone)]
#[repr(align(64))]
pub struct FixedKeys {
    /// `[round][key]`; the round keys number 0 are the keys themselves
    rounds: [[u128; TREES]; 11],
    /// the machine has AES instructions on vectors; the portable variants schedule where they
    /// encrypt
    #[cfg(target_arch = "x86_64")]
    scheduled: bool,
}

impl FixedKeys {
    /// Makes `groups` four keys each, `n` times: first these, then the ones before with `step`
    /// added to their upper halves.
    #[inline]
    pub fn schedule(groups: &mut Vec<FixedKeys>, n: usize, first: [u128; TREES], step: u64) {
        FixedKeys::schedule_on(Isa::best(), groups, n, first, step);
    }

    /// The same by a given variant (portable if the machine lacks it), for tests and measurements.
    #[inline]
    pub fn schedule_on(isa: Isa, groups: &mut Vec<FixedKeys>, n: usize, first: [u128; TREES], step: u64) {
        if groups.len() != n {
            groups.resize(n, FixedKeys::new());
        }
        #[cfg(target_arch = "x86_64")]
        if groups.iter().all(|group| group.scheduled) {
            match isa {
                // SAFETY: the features were detected on this machine, that on vectors by `new`.
                Isa::Avx512 if isa.is_available() => {
                    return unsafe { x86::avx512::schedule(groups, first, step) }
                }
                Isa::Avx2 if isa.is_available() => {
                    return unsafe { x86::avx2::schedule(groups, first, step) }
                }
                _ => {}
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = isa;
        let mut keys = first;
        for group in groups {
            group.rounds[0] = keys;
            #[cfg(target_arch = "x86_64")]
            if group.scheduled {
                x86::schedule(group);
            }
            keys = keys
                .map(|key| key & u64::MAX as u128 | (((key >> 64) as u64).wrapping_add(step) as u128) << 64);
        }
    }

    fn new() -> FixedKeys {
        FixedKeys {
            rounds: [[0; TREES]; 11],
            #[cfg(target_arch = "x86_64")]
            scheduled: x86::has_vector_aes(),
        }
    }
}

/// The permutations of a loop over blocks. `H(x) = MMO(σ(x))` with `σ(a ‖ b) = (a ⊕ b) ‖ a`.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    keys: &'a FixedKeys,
    /// the key of all blocks, or [`TREES`]; two words that travel in registers
    lane: usize,
}

impl<'a> Keys<'a> {
    /// Block `i` has the key `i mod 4`.
    #[inline]
    pub fn four(keys: &'a FixedKeys) -> Keys<'a> {
        Keys { keys, lane: TREES }
    }

    /// All blocks have the key `lane`.
    ///
    /// # Panics
    /// If there is no such key among the four.
    #[inline]
    pub fn one(keys: &'a FixedKeys, lane: usize) -> Keys<'a> {
        assert!(lane < TREES, "{lane}: one of four keys");
        Keys { keys, lane }
    }

    /// The key of all blocks, if there is only one.
    #[inline]
    fn lane(self) -> Option<usize> {
        (self.lane < TREES).then_some(self.lane)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn scheduled(&self) -> Option<Keys<'a>> {
        self.keys.scheduled.then_some(*self)
    }

    hashed! {
        /// One level of trees: the parents `x`, the first `n` of `nodes`, a power of two, become
        /// left children `l = H(x) ⊕ t·words[i mod 4]`, `t` the least significant bit of `x`; the
        /// `n` behind them become the right children `l ⊕ x`. At least [`SPARE`] blocks behind the
        /// parents must exist; those behind the children are overwritten too.
        grow, grow_on, grow_portable(nodes: &mut [u128], n: usize, words: &[u128; TREES])
    }

    hashed! {
        /// `⊕ H(x)` of each tree.
        hash_sums, hash_sums_on, hash_sums_portable(nodes: &[u128]) -> [u128; TREES]
    }

    hashed! {
        /// The same, under the keys `next`, of the children of `parents`, grown as by
        /// [`Keys::grow`] without a way through memory.
        grown_hash_sums, grown_hash_sums_on, grown_hash_sums_portable(parents: &[u128], words: &[u128; TREES],
            next: Keys<'_>) -> [u128; TREES]
    }

    hashed! {
        /// Of each tree's leaves `x`, the children of `parents`, the number of odd ones; in
        /// `sums[i]`, at most [`MAX_PAIRS`] of them, the sums modulo `2^64` of the low and of the
        /// high halves of `MMO(x ⊕ i)` under the keys `convert`.
        grown_leaf_sums, grown_leaf_sums_on, grown_leaf_sums_portable(parents: &[u128], words: &[u128; TREES],
            convert: Keys<'_>, sums: &mut [[[u64; 2]; TREES]]) -> [u32; TREES]
    }

    hashed! {
        /// Adds to `sums[i]`, modulo `2^64`, the inner products with `tables[i]`, read cyclically
        /// from entry `first` on, of the low and of the high halves of `MMO(x ⊕ tweak)`, `finals`
        /// added to them where `x` is odd. At most [`MAX_TABLES`] tables of one size, which, like
        /// the number of nodes, is a power of two; at least as many entries as nodes, and at least
        /// [`TREES`] of these. All nodes have one key: they are of one tree.
        dot, dot_on, dot_portable(nodes: &[u128], payloads: (u128, [u64; 2]), tables: &[&Table], first: usize, sums: &mut [[u64; 2]])
    }

    /// Calls `visit(i, x_i, MMO(before(x_i)))` for every node.
    fn each(&self, nodes: &[u128], before: impl Fn(u128) -> u128, visit: impl FnMut(usize, u128, u128)) {
        let cipher = |lane: usize| Aes128::new(&self.keys.rounds[0][lane].to_le_bytes().into());
        match self.lane() {
            Some(lane) => each(&[cipher(lane)], nodes, before, visit),
            None => each(&core::array::from_fn::<_, TREES, _>(cipher), nodes, before, visit),
        }
    }

    fn grow_portable(&self, nodes: &mut [u128], n: usize, words: &[u128; TREES]) {
        let (parents, right) = nodes.split_at_mut(n);
        self.each(parents, sigma, |i, x, hash| {
            let left = hash ^ ((x & 1).wrapping_neg() & words[i % TREES]);
            right[i] = left ^ x;
        });
        for (x, right) in parents.iter_mut().zip(right) {
            *x ^= *right;
        }
    }

    fn hash_sums_portable(&self, nodes: &[u128]) -> [u128; TREES] {
        let mut sums = [0; TREES];
        self.each(nodes, sigma, |i, _, hash| sums[i % TREES] ^= hash);
        sums
    }

    /// The children of `parents`.
    fn children(&self, parents: &[u128], words: &[u128; TREES]) -> Zeroizing<Vec<u128>> {
        let mut nodes = Zeroizing::new(vec![0; 2 * parents.len()]);
        nodes[..parents.len()].copy_from_slice(parents);
        self.grow_portable(&mut nodes, parents.len(), words);
        nodes
    }

    fn grown_hash_sums_portable(
        &self,
        parents: &[u128],
        words: &[u128; TREES],
        next: Keys<'_>,
    ) -> [u128; TREES] {
        next.hash_sums_portable(&self.children(parents, words))
    }

    fn grown_leaf_sums_portable(
        &self,
        parents: &[u128],
        words: &[u128; TREES],
        convert: Keys<'_>,
        sums: &mut [[[u64; 2]; TREES]],
    ) -> [u32; TREES] {
        let leaves = self.children(parents, words);
        for (pair, sums) in sums.iter_mut().enumerate() {
            *sums = [[0; 2]; TREES];
            convert.each(
                &leaves,
                |x| x ^ pair as u128,
                |i, _, hash| {
                    let [low, high] = &mut sums[i % TREES];
                    *low = low.wrapping_add(hash as u64);
                    *high = high.wrapping_add((hash >> 64) as u64);
                },
            );
        }
        let mut counts = [0; TREES];
        leaves.iter().enumerate().for_each(|(i, x)| counts[i % TREES] += *x as u32 & 1);
        counts
    }

    fn dot_portable(
        &self,
        nodes: &[u128],
        (tweak, finals): (u128, [u64; 2]),
        tables: &[&Table],
        first: usize,
        sums: &mut [[u64; 2]],
    ) {
        check_dot(nodes, tables, sums);
        self.each(
            nodes,
            |x| x ^ tweak,
            |i, x, hash| {
                let odd = (x as u64 & 1).wrapping_neg();
                let value = [hash as u64, (hash >> 64) as u64];
                let value: [u64; 2] = core::array::from_fn(|l| value[l].wrapping_add(odd & finals[l]));
                for (table, sums) in tables.iter().zip(sums.iter_mut()) {
                    let entry = table.get(i + first) as u64;
                    *sums = core::array::from_fn(|l| sums[l].wrapping_add(value[l].wrapping_mul(entry)));
                }
            },
        );
    }
}

/// Calls `visit(i, x_i, MMO(before(x_i)))` for every node; the ciphers take turns.
fn each<const S: usize>(
    ciphers: &[Aes128; S],
    nodes: &[u128],
    before: impl Fn(u128) -> u128,
    mut visit: impl FnMut(usize, u128, u128),
) {
    // What one cipher takes lies together.
    let place = |i: usize| i % S * (CHUNK / S) + i / S;
    let (mut hashes, mut encrypted) = ([0; CHUNK], [Block::default(); CHUNK]);
    for (c, nodes) in nodes.chunks(CHUNK).enumerate() {
        nodes.iter().enumerate().for_each(|(i, x)| hashes[place(i)] = before(*x));
        for (cipher, hashes) in ciphers.iter().zip(hashes.chunks_exact_mut(CHUNK / S)) {
            mmo(cipher, &mut hashes[..nodes.len().div_ceil(S)], &mut encrypted);
        }
        nodes.iter().enumerate().for_each(|(i, x)| visit(c * CHUNK + i, *x, hashes[place(i)]));
    }
    hashes.zeroize();
    encrypted.iter_mut().for_each(|block| block.as_mut_slice().zeroize());
}

/// A public table as [`Keys::dot`] reads it: every entry for both halves of a block, and a
/// group of the first ones once more behind the last, so that a cyclic run of entries is one piece
/// of memory.
pub struct Table {
    entries: Vec<[i64; 2]>,
    size: usize,
}

impl Table {
    /// From its entries.
    pub fn new(entries: &[i64]) -> Table {
        let size = entries.len();
        Table { entries: entries.iter().cycle().take(size + SPARE).map(|x| [*x; 2]).collect(), size }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Entry `i mod len`.
    fn get(&self, i: usize) -> i64 {
        self.entries[i % self.size][0]
    }
}

fn check_dot(nodes: &[u128], tables: &[&Table], sums: &[[u64; 2]]) {
    let size = tables.first().map_or(nodes.len(), |table| table.len());
    let sizes = size.is_power_of_two() && size >= nodes.len() && tables.iter().all(|t| t.len() == size);
    let whole = nodes.len().is_power_of_two() && nodes.len() >= TREES;
    assert!(sizes && whole, "tables of a wrong size for {} leaves", nodes.len());
    assert!(tables.len() <= MAX_TABLES && sums.len() == tables.len(), "{} tables at once", tables.len());
}

fn sigma(x: u128) -> u128 {
    x << 64 ^ x >> 64 << 64 ^ x >> 64
}

//! The vector variants: 256 and 512 bits from one body, the intrinsics by name.

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use super::{check_dot, FixedKeys, Keys, Table, Zeroize, MAX_PAIRS, MAX_TABLES, TREES};

/// Vectors in flight: as many as hide the latency of the AES instruction.
const FLIGHT: usize = 8;

/// Constants of the rounds of the key schedule, in every column.
static CONSTANTS: [u128; 10] = {
    let (constants, mut all) = ([0x01u8, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36], [0; 10]);
    let mut round = 0;
    while round < 10 {
        all[round] = constants[round] as u128 * (u128::MAX / u32::MAX as u128);
        round += 1;
    }
    all
};
/// The last word of a block, its bytes rotated by one, four times.
const ROTATED: u128 = 0x0c0f0e0d_0c0f0e0d_0c0f0e0d_0c0f0e0d;

/// Whether the machine has AES instructions on vectors.
#[inline]
pub(super) fn has_vector_aes() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("vaes")
}

/// The key schedule, if the machine has AES instructions on vectors.
pub(super) fn round_keys(key: &[u8; 16]) -> Option<[u128; 11]> {
    // SAFETY: the feature was detected on this machine.
    has_vector_aes().then(|| unsafe { expand(u128::from_le_bytes(*key)) })
}

/// FIPS 197, §5.2.
#[target_feature(enable = "aes")]
fn expand(key: u128) -> [u128; 11] {
    let mut keys = [key; 11];
    macro_rules! rounds {
        ($($i:literal $constant:literal),*) => { $(
            let last = block(keys[$i - 1]);
            let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(last));
            let pairs = _mm_xor_si128(last, _mm_slli_si128::<4>(last));
            let prefix = _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs));
            keys[$i] = number(_mm_xor_si128(prefix, word));
        )* };
    }
    rounds!(1 0x01, 2 0x02, 3 0x04, 4 0x08, 5 0x10, 6 0x20, 7 0x40, 8 0x80, 9 0x1b, 10 0x36);
    keys
}

/// The schedules of four keys, one after the other.
pub(super) fn schedule(keys: &mut FixedKeys) {
    for lane in 0..TREES {
        // SAFETY: the machine has AES instructions on vectors, hence on blocks.
        let rounds = unsafe { expand(keys.rounds[0][lane]) };
        keys.rounds.iter_mut().zip(rounds).for_each(|(keys, round)| keys[lane] = round);
    }
}

#[inline]
#[target_feature(enable = "sse2")]
pub(in super::super) fn block(x: u128) -> __m128i {
    _mm_set_epi64x((x >> 64) as i64, x as i64)
}

#[inline]
#[target_feature(enable = "sse2")]
pub(in super::super) fn number(x: __m128i) -> u128 {
    let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(x, x)) as u64;
    (high as u128) << 64 | _mm_cvtsi128_si64(x) as u64 as u128
}

macro_rules! variant {
    ($variant:ident, $features:literal, $vector:ident, $lanes:literal, $broadcast:ident, $load:ident, $store:ident,
     $xor:ident, $and:ident, $add64:ident, $mullo64:ident, $add_where_odd:ident, $shl32:ident, $sar32:ident, $shuffle32:ident,
     $shl_bytes:ident, $shuffle_bytes:ident, $round:ident, $last:ident) => {
        pub(in super::super) mod $variant {
            use super::*;

            const GROUP: usize = FLIGHT * $lanes;
            const HALF: usize = FLIGHT / 2;
            /// Vectors that four blocks fill.
            const SETS: usize = TREES / $lanes;
            type Blocks = [u128; GROUP];
            type Vectors = [$vector; FLIGHT];

            #[inline]
            #[target_feature(enable = $features)]
            fn load(blocks: &Blocks) -> Vectors {
                // SAFETY: vector `i < FLIGHT` lies inside the array; unaligned access.
                core::array::from_fn(|i| unsafe { $load(blocks.as_ptr().add(i * $lanes).cast()) })
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store(vectors: Vectors, blocks: &mut Blocks) {
                for (i, x) in vectors.into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { $store(blocks.as_mut_ptr().add(i * $lanes).cast(), x) };
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn broadcast(x: u128) -> $vector {
                $broadcast(block(x))
            }

            /// `MMO` of each block; the schedules take turns.
            #[inline]
            #[target_feature(enable = $features)]
            fn hash<const N: usize, const S: usize>(
                keys: &[[$vector; 11]; S],
                input: [$vector; N],
            ) -> [$vector; N] {
                let mut state = input;
                (0..N).for_each(|i| state[i] = $xor(state[i], keys[i % S][0]));
                for round in 1..10 {
                    (0..N).for_each(|i| state[i] = $round(state[i], keys[i % S][round]));
                }
                core::array::from_fn(|i| $xor($last(state[i], keys[i % S][10]), input[i]))
            }

            /// Vector `set` of four blocks.
            #[inline]
            #[target_feature(enable = $features)]
            fn load_set(blocks: &[u128; TREES], set: usize) -> $vector {
                let blocks = &blocks[set * $lanes..][..$lanes];
                // SAFETY: a vector has so many blocks; unaligned access.
                unsafe { $load(blocks.as_ptr().cast()) }
            }

            /// The schedules of consecutive vectors, which take turns.
            #[inline]
            #[target_feature(enable = $features)]
            fn schedules(keys: Keys<'_>) -> [[$vector; 11]; SETS] {
                let rounds = &keys.keys.rounds;
                match keys.lane() {
                    Some(lane) => [schedule_of(keys, lane); SETS],
                    None => core::array::from_fn(|set| {
                        core::array::from_fn(|round| load_set(&rounds[round], set))
                    }),
                }
            }

            /// The schedule of one key for all vectors.
            #[inline]
            #[target_feature(enable = $features)]
            fn schedule_of(keys: Keys<'_>, lane: usize) -> [$vector; 11] {
                core::array::from_fn(|round| broadcast(keys.keys.rounds[round][lane]))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store_set(x: $vector, blocks: &mut [u128; TREES], set: usize) {
                let blocks = &mut blocks[set * $lanes..][..$lanes];
                // SAFETY: as above.
                unsafe { $store(blocks.as_mut_ptr().cast(), x) };
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn schedule(groups: &mut [FixedKeys], first: [u128; TREES], step: u64) {
                let step = broadcast((step as u128) << 64);
                let mut next = core::array::from_fn(|set| load_set(&first, set));
                let (whole, rest) = groups.as_chunks_mut::<4>();
                whole.iter_mut().for_each(|groups| expand(groups, &mut next, step));
                let (whole, rest) = rest.as_chunks_mut::<3>();
                whole.iter_mut().for_each(|groups| expand(groups, &mut next, step));
                let (whole, rest) = rest.as_chunks_mut::<2>();
                whole.iter_mut().for_each(|groups| expand(groups, &mut next, step));
                rest.as_chunks_mut::<1>().0.iter_mut().for_each(|groups| expand(groups, &mut next, step));
            }

            /// The schedules of `N` groups, from the first of which `next` is, round by round: one
            /// alone would wait for each of its instructions (FIPS 197, §5.2).
            #[inline]
            #[target_feature(enable = $features)]
            fn expand<const N: usize>(
                groups: &mut [FixedKeys; N],
                next: &mut [$vector; SETS],
                step: $vector,
            ) {
                let rotated = broadcast(ROTATED);
                let mut keys = [*next; N];
                for (group, keys) in groups.iter_mut().zip(&mut keys) {
                    for (set, (key, next)) in keys.iter_mut().zip(next.iter_mut()).enumerate() {
                        *key = *next;
                        *next = $add64(*next, step);
                        store_set(*key, &mut group.rounds[0], set);
                    }
                }
                for round in 1..11 {
                    let constant = broadcast(CONSTANTS[round - 1]);
                    for (group, keys) in groups.iter_mut().zip(&mut keys) {
                        for (set, key) in keys.iter_mut().enumerate() {
                            // All columns are the same: the shift of rows moves nothing.
                            let word = $last($shuffle_bytes(*key, rotated), constant);
                            let pairs = $xor(*key, $shl_bytes::<4>(*key));
                            *key = $xor($xor(pairs, $shl_bytes::<8>(pairs)), word);
                            store_set(*key, &mut group.rounds[round], set);
                        }
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn sigma(x: $vector) -> $vector {
                $xor($shuffle32::<0b11_10_11_10>(x), $shl_bytes::<8>(x))
            }

            /// All ones where the block's least significant bit is 1.
            #[inline]
            #[target_feature(enable = $features)]
            fn mask(x: $vector) -> $vector {
                $sar32::<31>($shl32::<31>($shuffle32::<0>(x)))
            }

            /// Whole groups, or fewer nodes than one group copied into `padded`. Nodes come in
            /// powers of two.
            #[inline]
            fn groups<'a, const N: usize>(nodes: &'a [u128], padded: &'a mut [u128; N]) -> &'a [[u128; N]] {
                if nodes.len() < N {
                    padded[..nodes.len()].copy_from_slice(nodes);
                    return core::slice::from_ref(padded);
                }
                let (groups, rest) = nodes.as_chunks();
                assert!(rest.is_empty(), "{} nodes are not whole groups", nodes.len());
                groups
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn mmo(keys: &[u128; 11], blocks: &mut [u128]) {
                let keys = [keys.map(|key| broadcast(key))];
                let (groups, rest) = blocks.as_chunks_mut::<GROUP>();
                let mut padded = [0; GROUP];
                padded[..rest.len()].copy_from_slice(rest);
                let last = (!rest.is_empty()).then_some(&mut padded);
                for blocks in groups.iter_mut().chain(last) {
                    store(hash(&keys, load(blocks)), blocks);
                }
                rest.copy_from_slice(&padded[..rest.len()]);
                padded.zeroize();
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn grow(
                keys: Keys<'_>,
                nodes: &mut [u128],
                n: usize,
                words: &[u128; TREES],
            ) {
                match keys.lane() {
                    // Where four blocks are more than a vector, one schedule saves loads.
                    Some(lane) if SETS > 1 => grow_under(&[schedule_of(keys, lane)], nodes, n, words),
                    _ => grow_under(&schedules(keys), nodes, n, words),
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn grow_under<const S: usize>(
                keys: &[[$vector; 11]; S],
                nodes: &mut [u128],
                n: usize,
                words: &[u128; TREES],
            ) {
                assert!(n < GROUP || n % GROUP == 0, "{n} nodes are not whole groups");
                assert!(nodes.len() >= n + n.max(GROUP), "{} nodes are no room for {n}", nodes.len());
                let words = repeated(words);
                let blocks = nodes.as_mut_ptr();
                // A level with fewer nodes than a group still runs on whole vectors, so the vectors
                // also transform whatever lies behind the last node. Those results are either
                // overwritten by the right children or stay beyond them, and are never read.
                for first in (0..n).step_by(GROUP) {
                    // SAFETY: a step takes the vectors that `n − first` blocks begin, at most
                    // `GROUP` blocks from `first` and from `n + first` on, and so many were just
                    // seen to exist.
                    unsafe {
                        let (left, right) = (blocks.add(first), blocks.add(n + first));
                        match n.div_ceil($lanes) {
                            1 => level::<1, S>(keys, &words, left, right),
                            2 => level::<2, S>(keys, &words, left, right),
                            4 => level::<4, S>(keys, &words, left, right),
                            _ => level::<FLIGHT, S>(keys, &words, left, right),
                        }
                    }
                }
            }

            /// The children of `N` vectors at `left`, which the left ones replace; the right ones
            /// go to `right`. Both must have room.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn level<const N: usize, const S: usize>(
                keys: &[[$vector; 11]; S],
                words: &Vectors,
                left: *mut u128,
                right: *mut u128,
            ) {
                // SAFETY: the caller's promise; unaligned access.
                let x: [$vector; N] =
                    core::array::from_fn(|i| unsafe { $load(left.add(i * $lanes).cast_const().cast()) });
                let hashes = hash(keys, x.map(|x| sigma(x)));
                for i in 0..N {
                    let l = $xor(hashes[i], $and(mask(x[i]), words[i]));
                    // SAFETY: as above.
                    unsafe {
                        $store(left.add(i * $lanes).cast(), l);
                        $store(right.add(i * $lanes).cast(), $xor(l, x[i]));
                    }
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn hash_sums(keys: Keys<'_>, nodes: &[u128]) -> [u128; TREES] {
                let keys = schedules(keys);
                let (mut padded, mut all) = ([0; GROUP], [0; GROUP]);
                let mut sums = [broadcast(0); FLIGHT];
                for nodes in groups(nodes, &mut padded) {
                    let hashes = hash(&keys, load(nodes).map(|x| sigma(x)));
                    sums = core::array::from_fn(|i| $xor(sums[i], hashes[i]));
                }
                store(sums, &mut all);
                let mut out = [0; TREES];
                for (i, hash) in all.iter().take(nodes.len()).enumerate() {
                    out[i % TREES] ^= hash;
                }
                all.zeroize();
                padded.zeroize();
                out
            }

            /// Left and right children of half a flight of parents, in this order.
            #[inline]
            #[target_feature(enable = $features)]
            fn children(keys: &[[$vector; 11]; SETS], x: [$vector; HALF], words: &Vectors) -> Vectors {
                let hashes = hash(keys, x.map(|x| sigma(x)));
                core::array::from_fn(|i| {
                    let (j, x) = (i % HALF, x[i % HALF]);
                    let left = $xor(hashes[j], $and(mask(x), words[j]));
                    if i < HALF {
                        left
                    } else {
                        $xor(left, x)
                    }
                })
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load_half(blocks: &[u128; GROUP / 2]) -> [$vector; HALF] {
                // SAFETY: vector `i < FLIGHT/2` lies inside the array; unaligned access.
                core::array::from_fn(|i| unsafe { $load(blocks.as_ptr().add(i * $lanes).cast()) })
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn repeated(words: &[u128; TREES]) -> Vectors {
                // SAFETY: a vector has 2 or 4 blocks, so that it and its place lie inside the 4
                // words; unaligned access.
                core::array::from_fn(|i| unsafe { $load(words.as_ptr().add(i * $lanes % TREES).cast()) })
            }

            /// Visits the blocks of both halves of `sums` that belong to one of `n` parents; the
            /// others come from padding.
            fn each_child(sums: &Blocks, n: usize, mut visit: impl FnMut(usize, u128)) {
                for half in sums.chunks_exact(GROUP / 2) {
                    half.iter().take(n).enumerate().for_each(|(i, x)| visit(i % TREES, *x));
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn grown_hash_sums(
                keys: Keys<'_>,
                parents: &[u128],
                words: &[u128; TREES],
                next: Keys<'_>,
            ) -> [u128; TREES] {
                let next = schedules(next);
                let (keys, words) = (schedules(keys), repeated(words));
                let (mut padded, mut all) = ([0; GROUP / 2], [0; GROUP]);
                let mut sums = [broadcast(0); FLIGHT];
                for nodes in groups(parents, &mut padded) {
                    let nodes = children(&keys, load_half(nodes), &words);
                    let hashes = hash(&next, nodes.map(|x| sigma(x)));
                    sums = core::array::from_fn(|i| $xor(sums[i], hashes[i]));
                }
                store(sums, &mut all);
                let mut out = [0; TREES];
                each_child(&all, parents.len(), |tree, hash| out[tree] ^= hash);
                all.zeroize();
                padded.zeroize();
                out
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn grown_leaf_sums(
                keys: Keys<'_>,
                parents: &[u128],
                words: &[u128; TREES],
                convert: Keys<'_>,
                sums: &mut [[[u64; 2]; TREES]],
            ) -> [u32; TREES] {
                let (keys, words) = (schedules(keys), repeated(words));
                let convert = schedules(convert);
                let (mut padded, mut all) = ([0; GROUP / 2], [0; GROUP]);
                let zeros = [broadcast(0); FLIGHT];
                let (mut counts, mut totals) = (zeros, [zeros; MAX_PAIRS]);
                for nodes in groups(parents, &mut padded) {
                    let nodes = children(&keys, load_half(nodes), &words);
                    // The mask of a node is −1 in each half of the block if its bit is set.
                    counts = core::array::from_fn(|i| $add64(counts[i], mask(nodes[i])));
                    for (pair, totals) in totals.iter_mut().enumerate().take(sums.len()) {
                        let values = hash(&convert, nodes.map(|x| $xor(x, broadcast(pair as u128))));
                        *totals = core::array::from_fn(|i| $add64(totals[i], values[i]));
                    }
                }
                for (totals, sums) in totals.into_iter().zip(sums) {
                    store(totals, &mut all);
                    *sums = [[0; 2]; TREES];
                    each_child(&all, parents.len(), |tree, x| {
                        let [low, high] = sums[tree];
                        sums[tree] = [low.wrapping_add(x as u64), high.wrapping_add((x >> 64) as u64)];
                    });
                }
                store(counts, &mut all);
                let mut out = [0u32; TREES];
                each_child(&all, parents.len(), |tree, x| out[tree] = out[tree].wrapping_sub(x as u32));
                all.zeroize();
                padded.zeroize();
                out
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn dot(
                keys: Keys<'_>,
                nodes: &[u128],
                (tweak, finals): (u128, [u64; 2]),
                tables: &[&Table],
                first: usize,
                sums: &mut [[u64; 2]],
            ) {
                check_dot(nodes, tables, sums);
                let keys = [schedule_of(keys, keys.lane().expect("one key for one tree"))];
                let (tweak, finals) =
                    (broadcast(tweak), broadcast((finals[1] as u128) << 64 | finals[0] as u128));
                let (n, size) = (nodes.len(), tables.first().map_or(1, |table| table.len()));
                let mut padded = [0; GROUP];
                let mut totals = [broadcast(0); MAX_TABLES];
                for (g, nodes) in groups(nodes, &mut padded).iter().enumerate() {
                    let x = load(nodes);
                    let hashes = hash(&keys, x.map(|x| $xor(x, tweak)));
                    let mut values: Vectors =
                        core::array::from_fn(|i| $add_where_odd(hashes[i], x[i], finals));
                    if n < GROUP {
                        // Padding does not count.
                        values =
                            core::array::from_fn(|i| if i * $lanes < n { values[i] } else { broadcast(0) });
                    }
                    let start = (g * GROUP + first) & (size - 1);
                    for (table, total) in tables.iter().zip(&mut totals) {
                        let entries: &[[i64; 2]; GROUP] =
                            table.entries[start..].first_chunk().expect("a table goes on for a group");
                        for (i, value) in values.into_iter().enumerate() {
                            // SAFETY: `$lanes` entries from `i·$lanes` on lie inside the array;
                            // unaligned access.
                            let entry = unsafe { $load(entries.as_ptr().add(i * $lanes).cast()) };
                            *total = $add64(*total, $mullo64(value, entry));
                        }
                    }
                }
                let mut all = [0u128; GROUP];
                for (sums, total) in sums.iter_mut().zip(totals) {
                    // SAFETY: a group has at least the blocks of a vector.
                    unsafe { $store(all.as_mut_ptr().cast(), total) };
                    for x in &all[..$lanes] {
                        *sums = [sums[0].wrapping_add(*x as u64), sums[1].wrapping_add((x >> 64) as u64)];
                    }
                }
                all.zeroize();
                padded.zeroize();
            }
        }
    };
}

/// `value + x`, both halves, where the least significant bit of a block of `nodes` is 1.
#[inline]
#[target_feature(enable = "avx2")]
fn add_where_odd256(value: __m256i, nodes: __m256i, x: __m256i) -> __m256i {
    let odd = _mm256_srai_epi32::<31>(_mm256_slli_epi32::<31>(_mm256_shuffle_epi32::<0>(nodes)));
    _mm256_add_epi64(value, _mm256_and_si256(odd, x))
}

/// The same.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn add_where_odd512(value: __m512i, nodes: __m512i, x: __m512i) -> __m512i {
    let low = _mm512_castpd_si512(_mm512_movedup_pd(_mm512_castsi512_pd(nodes)));
    let odd = _mm512_test_epi64_mask(low, _mm512_set1_epi64(1));
    _mm512_mask_add_epi64(value, odd, value, x)
}

/// Products modulo `2^64`: AVX2 has none.
#[inline]
#[target_feature(enable = "avx2")]
fn mullo256(x: __m256i, y: __m256i) -> __m256i {
    let cross = _mm256_mullo_epi32(x, _mm256_shuffle_epi32::<0b10_11_00_01>(y));
    let cross = _mm256_add_epi32(cross, _mm256_slli_epi64::<32>(cross));
    let high = _mm256_and_si256(cross, _mm256_set1_epi64x(-1 << 32));
    _mm256_add_epi64(_mm256_mul_epu32(x, y), high)
}

variant!(
    avx2,
    "avx2,vaes",
    __m256i,
    2,
    _mm256_broadcastsi128_si256,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_xor_si256,
    _mm256_and_si256,
    _mm256_add_epi64,
    mullo256,
    add_where_odd256,
    _mm256_slli_epi32,
    _mm256_srai_epi32,
    _mm256_shuffle_epi32,
    _mm256_bslli_epi128,
    _mm256_shuffle_epi8,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
variant!(
    avx512,
    "avx512f,avx512bw,avx512dq,vaes",
    __m512i,
    4,
    _mm512_broadcast_i32x4,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_xor_si512,
    _mm512_and_si512,
    _mm512_add_epi64,
    _mm512_mullo_epi64,
    add_where_odd512,
    _mm512_slli_epi32,
    _mm512_srai_epi32,
    _mm512_shuffle_epi32,
    _mm512_bslli_epi128,
    _mm512_shuffle_epi8,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);

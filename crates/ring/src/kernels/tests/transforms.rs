//! Transforms: every variant against the portable one.

use super::*;

#[test]
fn transforms_agree_between_variants() {
    let mut rng = StdRng::seed_from_u64(3);
    let q = Modulus::new(Q);
    let ntt = crate::Ntt::new(q, 13);
    let a = residues(&mut rng, 8192);
    let mut reference = a.clone();
    ntt.forward(&mut reference, 0..13);
    let twiddle = |w: u32| q.factor(w).quotient;
    // The kernels are given their own tables here: powers of an arbitrary number are enough to
    // compare variants.
    let values: Vec<u32> = (0..8192).map(|i| q.pow(3, i)).collect();
    let quotients: Vec<u32> = values.iter().map(|&w| twiddle(w)).collect();
    let scale = q.factor(q.inv(1 << 13));
    let mut results = Vec::new();
    for isa in Isa::available() {
        let mut b = a.clone();
        ntt_forward_on(isa, &q, &values, &quotients, &mut b, 0..13);
        let mut c = b.clone();
        ntt_inverse_on(isa, &q, &values, &quotients, scale, &mut c, 0..13);
        results.push((b, c));
    }
    assert!(results.windows(2).all(|r| r[0] == r[1]));
    ntt.inverse(&mut reference, 0..13);
    assert_eq!(reference, a);
}

#[test]
fn transforms_of_any_length_and_levels_agree_between_variants() {
    let mut rng = StdRng::seed_from_u64(13);
    for prime in [Q, 4_079_617] {
        let q = Modulus::new(prime);
        // The largest factors and residues wherever they can be.
        for most in [false, true] {
            let mut residue = |_| if most { prime - 1 } else { rng.gen_range(0..prime) };
            let values: Vec<u32> = (0..1024).map(&mut residue).collect();
            let quotients: Vec<u32> = values.iter().map(|&w| q.factor(w).quotient).collect();
            let scale = q.factor(prime - 2);
            for (len, end) in
                [(1, 0), (2, 1), (8, 3), (16, 4), (32, 5), (64, 6), (1024, 10), (96, 5), (40, 3), (48, 2)]
            {
                let a: Vec<u32> = (0..len).map(&mut residue).collect();
                for start in 0..=end {
                    for end in start..=end {
                        let (mut forward, mut inverse) = (a.clone(), a.clone());
                        ntt_forward_on(Isa::Portable, &q, &values, &quotients, &mut forward, start..end);
                        ntt_inverse_on(
                            Isa::Portable,
                            &q,
                            &values,
                            &quotients,
                            scale,
                            &mut inverse,
                            start..end,
                        );
                        for isa in Isa::available() {
                            let (mut b, mut c) = (a.clone(), a.clone());
                            ntt_forward_on(isa, &q, &values, &quotients, &mut b, start..end);
                            ntt_inverse_on(isa, &q, &values, &quotients, scale, &mut c, start..end);
                            assert!(b == forward && c == inverse, "{isa:?} {len} {start}..{end}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn field_transforms_agree_between_variants() {
    let mut rng = StdRng::seed_from_u64(14);
    for most in [false, true] {
        let edges = [P - 1, P - 2, 0, 1, 0xFFFF_FFFF, 0xFFFF_FFFF_0000_0000, 0x1_0000_0000];
        let mut element = |i: usize| match (most, i % 3) {
            (true, 0 | 1) => Fp::new(P - 1),
            _ => Fp::new(*edges.get(rng.gen_range(0..20)).unwrap_or(&rng.gen())),
        };
        let table: Vec<Fp> = (0..1024).map(&mut element).collect();
        for (len, end) in
            [(1, 0), (2, 1), (8, 3), (16, 4), (32, 5), (64, 6), (1024, 10), (96, 5), (40, 3), (48, 2)]
        {
            let a: Vec<Fp> = (0..len).map(&mut element).collect();
            for (start, end) in (0..=end).flat_map(|start| (start..=end).map(move |end| (start, end))) {
                let (mut forward, mut inverse, scale) = (a.clone(), a.clone(), Fp::new(P - 5));
                fp_ntt_forward_on(Isa::Portable, &table, &mut forward, start..end);
                fp_ntt_inverse_on(Isa::Portable, &table, scale, &mut inverse, start..end);
                for isa in Isa::available() {
                    let (mut b, mut c) = (a.clone(), a.clone());
                    fp_ntt_forward_on(isa, &table, &mut b, start..end);
                    fp_ntt_inverse_on(isa, &table, scale, &mut c, start..end);
                    assert!(b == forward && c == inverse, "{isa:?} {len} {start}..{end}");
                }
            }
        }
    }
}

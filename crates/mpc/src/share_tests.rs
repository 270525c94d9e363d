use super::*;
use crate::party::Client;
use proptest::prelude::*;

fn fp(values: &[u64]) -> Vec<Fp> {
    values.iter().map(|&v| Fp::new(v)).collect()
}

proptest! {
    #[test]
    fn masked_shares_open_to_the_masked_value(rows in proptest::collection::vec(any::<[u64; 4]>(), 1..20)) {
        let column = |i: usize| rows.iter().map(|r| Fp::new(r[i])).collect::<Vec<_>>();
        let shape = [rows.len(), 1];
        let x_c = Share::<Client>::new(column(0), &shape).unwrap();
        let x_s = Share::<Server>::new(column(1), &shape).unwrap();
        let sent = x_c.mask(Mask::from_material(column(2), &shape).unwrap()).unwrap().into_bytes();
        let opened = Masked::<Client>::from_bytes(&sent, &shape).unwrap()
            .open(x_s.mask(Mask::from_material(column(3), &shape).unwrap()).unwrap()).unwrap();
        for (i, r) in rows.iter().enumerate() {
            let [a, b, c, d] = r.map(Fp::new);
            prop_assert_eq!(opened.values()[i], a + b - c - d);
        }
    }

    #[test]
    fn bytes_of_the_peer_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), n in 0usize..9) {
        let _ = Masked::<Server>::from_bytes(&bytes, &[n]);
        let _ = Revealed::<Server>::from_bytes(&bytes, &[n, usize::MAX]);
    }
}

#[test]
fn local_operations_and_reveal() {
    let c = Share::<Client>::new(fp(&[1, 2]), &[2]).unwrap();
    let c = c.add(&Share::new(fp(&[10, 20]), &[2]).unwrap()).unwrap();
    let s = Share::<Server>::new(fp(&[100, 200]), &[2]).unwrap();
    let s = s.sub(&Share::new(fp(&[1, 1]), &[2]).unwrap()).unwrap();
    let s = s.add_public(&Public::new(fp(&[5, 6]), &[2]).unwrap()).unwrap();
    let sent = s.reveal_to(Client).into_bytes();
    let value = c.combine(Revealed::from_bytes(&sent, &[2]).unwrap()).unwrap();
    assert_eq!(value, fp(&[115, 227]));
}

#[test]
fn receiver_completes_a_masked_share() {
    let sent = Share::<Client>::new(fp(&[7]), &[1]).unwrap();
    let sent = sent.mask(Mask::from_material(fp(&[3]), &[1]).unwrap()).unwrap();
    let opened = sent.open_with(Share::<Server>::new(fp(&[30]), &[1]).unwrap()).unwrap();
    assert_eq!((opened.values(), opened.shape()), (fp(&[34]).as_slice(), [1usize].as_slice()));
}

#[test]
fn misfits_are_typed() {
    let share = |n: usize| Share::<Client>::new(fp(&vec![1; n]), &[n]).unwrap();
    assert_eq!(share(2).add(&share(3)).err(), Some(ShareError::Shape { expected: vec![2], got: vec![3] }));
    assert_eq!(
        Share::<Client>::new(fp(&[1]), &[2, 3]).err(),
        Some(ShareError::Count { unit: "values", expected: 6, got: 1 })
    );
    assert_eq!(
        Masked::<Client>::from_bytes(&[0; 9], &[1]).err(),
        Some(ShareError::Count { unit: "bytes", expected: 8, got: 9 })
    );
    assert_eq!(Masked::<Client>::from_bytes(&[0xff; 8], &[1]).err(), Some(ShareError::NotReduced));
}

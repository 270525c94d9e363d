use cryptogen_party::Role;

use super::{extend, rng, run, setup};
use crate::base;
use crate::bits;
use crate::extension::{bytes, MAX_EXTEND, RESERVE_BYTES, RESERVE_MESSAGES, SILENT_FROM};
use crate::OtError;

const CHOICES: [u128; 2] = [0x0123_4567_89ab_cdef << 64, !0x0123_4567_89ab_cdef];

#[test]
fn base_transfers_are_correct_in_both_directions() {
    let [client, server] = run(|role, channel| {
        let base = base::run(role, channel, CHOICES[role.index()], &mut rng(role, 1))?;
        assert_eq!((channel.messages, channel.bytes), (2, 129 * 32));
        Ok(base)
    });
    for (sender, receiver, choices) in [(&client, &server, CHOICES[1]), (&server, &client, CHOICES[0])] {
        for (i, (pair, chosen)) in sender.pairs.iter().zip(receiver.chosen.iter()).enumerate() {
            let c = (choices >> i) as usize & 1;
            assert_eq!(pair[c], *chosen);
            assert_ne!(pair[1 - c], *chosen);
        }
    }
}

#[test]
fn extended_transfers_are_correct_in_both_directions() {
    const SIZES: [usize; 9] = [1, 127, 128, 1000, 1024, 5003, SILENT_FROM - 1, SILENT_FROM, 50_001];
    let [client, server] = run(|role, channel| {
        let (mut pair, mut rng) = setup(role, channel, 2)?;
        let mut halves = Vec::new();
        for n in SIZES {
            let before = (channel.messages, channel.bytes);
            halves.push((n, extend(&mut pair, channel, n, &mut rng)?));
            let reserve = if n == SILENT_FROM { [RESERVE_MESSAGES / 2, RESERVE_BYTES] } else { [0; 2] };
            let sent = [channel.messages - before.0, channel.bytes - before.1];
            assert_eq!(sent, [2 + reserve[0], bytes(n) + reserve[1]]);
        }
        // Fewer transfers after many are made as before.
        extend(&mut pair, channel, 5, &mut rng)?;
        Ok(halves)
    });
    for ((n, a), (_, b)) in client.iter().zip(&server) {
        let n = *n;
        assert_eq!((a.0.delta() ^ b.0.delta()) & 1, 1);
        for (sent, received) in [(&a.0, &b.1), (&b.0, &a.1)] {
            assert_eq!(sent.first(), received.first());
            for (i, (q, t)) in sent.correlated(0..n).iter().zip(received.correlated(0..n)).enumerate() {
                assert_eq!(*t, q ^ (bits::mask(received.choice(i)) & sent.delta()));
            }
            let range = n / 3..n;
            let [m0, m1] = sent.pads(range.clone(), 7);
            let chosen = received.pads(range.clone(), 7);
            let other_label = received.pads(range.clone(), 8);
            for (at, i) in range.enumerate() {
                let (right, wrong) =
                    if received.choice(i) == 1 { (m1[at], m0[at]) } else { (m0[at], m1[at]) };
                assert_eq!(chosen[at], right);
                assert_ne!(chosen[at], wrong);
                assert_ne!(chosen[at], other_label[at]);
            }
            if n > 1000 {
                let ones = (0..n).filter(|i| received.choice(*i) == 1).count();
                assert!(ones.abs_diff(n / 2) < n / 20, "{ones} ones of {n}");
            }
        }
    }
    // The index runs on: the same position of two extensions has different pads.
    assert_ne!(client[0].1 .0.pads(0..1, 0)[0][0], client[1].1 .0.pads(0..1, 0)[0][0]);
    // So do the transfers that padded a check: they are in no extension.
    for (now, next) in client.iter().zip(&client[1..]) {
        assert!(next.1 .0.first() >= now.1 .0.first() + now.0.next_multiple_of(128) as u64 + 128);
    }
}

#[test]
fn sizes_are_checked() {
    run(|role, channel| {
        let (mut pair, mut rng) = setup(role, channel, 3)?;
        assert!(matches!(extend(&mut pair, channel, MAX_EXTEND + 1, &mut rng), Err(OtError::Range { .. })));
        assert_eq!(pair.role(), role);
        let (sent, received) = extend(&mut pair, channel, 0, &mut rng)?;
        assert!(sent.correlated(0..0).is_empty() && received.correlated(0..0).is_empty());
        assert_eq!(Role::Client.other(), Role::Server);
        Ok(())
    });
}

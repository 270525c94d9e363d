//! One store, stopped and failed at every call that it makes.

use std::collections::HashSet;
use std::io::ErrorKind;

use super::party::{Party, Step};
use super::*;
use crate::files::simulated::{Disk, Fate, Fault};

/// All that production does with a store.
fn script() -> Vec<Step> {
    use Step::*;
    let id = "0123456789abcdef".repeat(2);
    let pools = [
        ("rows", PoolCursor { cursor: 11, committed: 12 }),
        ("logits", PoolCursor { cursor: 6, committed: 7 }),
    ];
    let theirs = StoreState {
        store_id: Some(id.clone()),
        pools: pools.map(|(name, at)| (name.to_owned(), at)).into(),
    };
    let mut steps = vec![Open, Name(id)];
    let mut batches = 0;
    let mut batch = |pool, n| {
        batches += 1;
        [Begin(pool, n), Fill(batches)]
    };
    steps.extend(batch(0, 5));
    steps.push(Commit);
    steps.extend(batch(1, 3));
    steps.extend([Commit, Take(0, 2), TakeUnread(0, 2), Read, Read, Take(1, 1)]);
    steps.extend(batch(1, 2));
    // The last of the rows: their file starts afresh.
    steps.extend([Read, Take(0, 1), DropBatch]);
    steps.extend(batch(0, 2));
    steps.extend([Commit, Take(1, 2), Close, Open, Take(0, 1)]);
    // The last one goes while a batch lies behind it.
    steps.extend(batch(0, 2));
    steps.extend([Take(0, 1), Commit, TakeUnread(0, 1), DropPieces]);
    steps.extend(batch(0, 4));
    steps.extend([Commit, Skip(0, 10), Resync(theirs), Take(0, 1)]);
    steps.extend(batch(1, 2));
    steps.extend([Commit, TakeUnread(1, 1), Close, Open, Take(1, 1), Close]);
    steps
}

fn done() -> Party {
    let mut party = Party::new(Role::Client);
    for step in script() {
        party.run(&step).unwrap();
    }
    party
}

/// Kills the process at a call, as `disk.set_fault` has it, in the course of the steps.
fn until_killed(party: &mut Party, steps: &[Step], at: usize) {
    party.disk.set_fault(Some(Fault::Killed { at }));
    for step in steps {
        let result = party.run(step);
        if party.disk.has_struck() {
            return party.killed();
        }
        result.unwrap();
    }
    party.disk.set_fault(None);
}

/// Cuts the power after every call from `from` on, leaving disks that were not seen before.
fn cut_power_after(party: &Party, from: usize, thorough: bool, seen: &mut HashSet<[u8; 32]>) {
    for n in from..=party.disk.calls() {
        for tree in party.cuts(n, thorough, seen) {
            party.cut(n, tree).go_on(2000);
        }
    }
}

#[test]
fn a_power_cut_loses_no_more_than_the_step_it_comes_into() {
    let mut seen = HashSet::new();
    cut_power_after(&done(), 0, true, &mut seen);
    assert!(seen.len() > 800, "only {} disks", seen.len());
}

#[test]
fn a_killed_process_and_then_a_power_cut() {
    let calls = done().disk.calls();
    let mut seen = HashSet::new();
    for n in 0..calls {
        let mut party = Party::new(Role::Server);
        until_killed(&mut party, &script(), n);
        for step in [Step::Open, Step::Take(0, 1), Step::Close] {
            party.run(&step).unwrap();
        }
        cut_power_after(&party, n, false, &mut seen);
    }
    assert!(seen.len() > 5000, "only {} disks", seen.len());
}

#[test]
fn a_call_that_fails_is_a_typed_error_and_loses_nothing() {
    let calls = done().disk.calls();
    for at in 0..calls {
        for (kind, done) in
            [(ErrorKind::StorageFull, false), (ErrorKind::Other, false), (ErrorKind::Other, true)]
        {
            let mut party = Party::new(Role::Client);
            party.disk.set_fault(Some(Fault::Error { at, kind, done }));
            for step in script() {
                if party.run(&step).is_err() && party.has_failed() {
                    party.run(&Step::Close).unwrap();
                    party.run(&Step::Open).unwrap();
                }
            }
            assert!(party.disk.has_struck());
            let n = party.disk.calls();
            for tree in party.cuts(n, false, &mut HashSet::new()) {
                party.cut(n, tree).go_on(2000);
            }
            party.go_on(1000);
        }
    }
}

#[test]
fn zeros_written_while_a_batch_is_synced_do_not_count_as_synced() {
    let disk = Disk::new();
    let store = Store::open(&disk.root().join("store"), &binding()).unwrap();
    let [pool, other] = [(); 2].map(|()| store.pool("a", 8).unwrap());
    fill(&pool, 5);
    let batch = pool.begin_batch(1).unwrap();
    batch.write(0, 0, &[6; 8]).unwrap();
    disk.meanwhile(move || assert_eq!(numbers(&other.take(2).unwrap()), [1, 2]));
    batch.commit().unwrap();
    assert_eq!(at(&pool), (2, 6));
    let n = disk.calls();
    let unsynced = disk.unsynced(n);
    let disk = disk.after(disk.cut(n, &unsynced, &vec![Fate::Lost; unsynced.len()]));
    let reopened = Store::open(&disk.root().join("store"), &binding()).unwrap();
    let file = disk.content(&disk.root().join("store/a.records")).unwrap();
    assert_eq!(file[16..32], [0; 16]);
    drop((reopened, pool, store));
}

//! Two stores, used as the endpoints of a session use them, one or the other of them stopped at any
//! call: what both hand out belongs together, or the stores say that it does not.

use std::io::ErrorKind;

use super::party::{Party, Step};
use super::*;
use crate::files::simulated::{Fate, Fault};

/// Numbers from a seed (splitmix64), so that a history can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }
}

/// The connection is lost, as something happened to a party.
struct Lost;

#[derive(Default)]
struct Counts {
    named: usize,
    resynced: usize,
    taken: usize,
    killed: usize,
    cut: usize,
    failed: usize,
}

struct Pair {
    parties: [Party; 2],
    dice: Dice,
    batches: u32,
    counts: Counts,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let parties = [Party::new(Role::Client), Party::new(Role::Server)];
        Pair { parties, dice: Dice(seed), batches: 0, counts: Counts::default() }
    }

    /// One step of one party.
    fn step(&mut self, who: usize, step: &Step) -> Result<Vec<Vec<u8>>, Lost> {
        let result = self.parties[who].run(step);
        if self.parties[who].disk.has_struck() {
            return Err(Lost);
        }
        Ok(result.unwrap_or_else(|error| panic!("{step:?}: {error}")))
    }

    /// One step of both, in any order; what one does is not undone when the other falls.
    fn both(&mut self, step: &Step) -> Result<[Vec<Vec<u8>>; 2], Lost> {
        let first = self.dice.below(2) as usize;
        let a = self.step(first, step);
        if a.is_err() && self.dice.below(2) == 0 {
            return Err(Lost);
        }
        let b = self.step(1 - first, step);
        let (a, b) = (a?, b?);
        Ok(if first == 0 { [a, b] } else { [b, a] })
    }

    /// Opens the stores and compares them as `Endpoint::open` does, resynchronising where refused.
    fn meet(&mut self) -> Result<(), Lost> {
        self.both(&Step::Open)?;
        let [client, server] = [0, 1].map(|who| self.parties[who].state());
        let proposed = format!("{:032x}", self.dice.below(u64::MAX));
        let ids = [client.id_to_take(&server, &proposed), server.id_to_take(&client, &proposed)];
        assert_eq!(ids[0], ids[1]);
        if let [Some(id), _] = ids {
            self.counts.named += 1;
            self.both(&Step::Name(id))?;
            return Ok(());
        }
        match client.compare(&server) {
            Ok(()) => return Ok(()),
            Err(StoreError::CursorMismatch { .. }) => self.counts.resynced += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(server.compare(&client).is_err());
        let first = self.dice.below(2) as usize;
        let theirs = [server, client];
        for who in [first, 1 - first] {
            self.step(who, &Step::Resync(theirs[who].clone()))?;
        }
        assert_eq!(self.parties[0].state(), self.parties[1].state());
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Lost> {
        self.batches += 1;
        let (pool, n) = (self.dice.below(2) as usize, 1 + self.dice.below(4) as usize);
        let number = self.batches;
        // Both hold a complete batch before either commits.
        for who in 0..2 {
            self.step(who, &Step::Begin(pool, n))?;
            self.step(who, &Step::Fill(number))?;
        }
        self.both(&Step::Commit).map(|_| ())
    }

    fn take(&mut self, pool: usize, n: usize) -> Result<(), Lost> {
        let [client, server] = self.both(&Step::Take(pool, n))?;
        let places = |records: &[Vec<u8>]| records.iter().map(|r| r[..8].to_vec()).collect::<Vec<_>>();
        assert_eq!(places(&client), places(&server), "records of different batches");
        self.counts.taken += client.len();
        Ok(())
    }

    fn act(&mut self) -> Result<(), Lost> {
        let (pool, n) = (self.dice.below(2) as usize, self.dice.below(4) as usize);
        match self.dice.below(8) {
            0..=2 => self.prepare(),
            3 | 4 => self.take(pool, n),
            5 => self.both(&Step::TakeUnread(pool, n)).map(|_| ()),
            6 => self.both(&Step::Read).map(|_| ()),
            _ => {
                self.both(&Step::Close)?;
                self.meet()
            }
        }
    }

    /// Sets up what is to happen next, within some calls of one party.
    fn set_fault(&mut self) {
        if self.parties.iter().any(|party| party.disk.fault().is_some()) {
            return;
        }
        let party = &self.parties[self.dice.below(2) as usize];
        let at = party.disk.calls() + self.dice.below(60) as usize;
        let done = self.dice.below(2) == 0;
        party.disk.set_fault(Some(match self.dice.below(4) {
            0 => Fault::Error { at, kind: ErrorKind::StorageFull, done },
            1 => Fault::Error { at, kind: ErrorKind::Other, done },
            _ => Fault::Killed { at },
        }));
    }

    /// After that: a killed process, its machine perhaps without power; whoever is left closes.
    fn recover(&mut self) {
        for who in 0..2 {
            match self.parties[who].disk.fault() {
                Some(Fault::Killed { .. }) if self.parties[who].disk.has_struck() => {
                    self.parties[who].killed();
                    self.counts.killed += 1;
                }
                _ => {
                    self.counts.failed += usize::from(self.parties[who].disk.has_struck());
                    if self.parties[who].disk.has_struck() {
                        self.parties[who].disk.set_fault(None);
                    }
                    self.parties[who].run(&Step::Close).unwrap();
                }
            }
        }
    }

    fn cut_power(&mut self, who: usize) {
        self.parties[who].killed();
        let party = &self.parties[who];
        let n = party.disk.calls();
        let unsynced = party.disk.unsynced(n);
        let all = self.dice.below(4);
        let fates: Vec<Fate> = unsynced
            .iter()
            .map(|_| match all {
                0 | 1 => Fate::Lost,
                _ => [Fate::Lost, Fate::Kept, Fate::Torn][self.dice.below(3) as usize],
            })
            .collect();
        let tree = party.disk.cut(n, &unsynced, &fates);
        self.parties[who] = self.parties[who].cut(n, tree);
        self.counts.cut += 1;
    }
}

fn history(seed: u64) -> Counts {
    let mut pair = Pair::new(seed);
    let mut connected = false;
    for _ in 0..60 {
        pair.set_fault();
        let done = if connected { pair.act() } else { pair.meet() };
        connected = done.is_ok();
        if !connected {
            pair.recover();
            for who in 0..2 {
                if pair.dice.below(3) == 0 {
                    pair.cut_power(who);
                }
            }
        }
    }
    for party in &mut pair.parties {
        party.disk.set_fault(None);
        party.run(&Step::Close).unwrap();
    }
    assert!(pair.meet().is_ok());
    for pool in 0..2 {
        let at = pair.parties[0].known().at(pool);
        assert!(pair.take(pool, (at.committed - at.cursor) as usize).is_ok());
    }
    assert_eq!(pair.parties[0].state(), pair.parties[1].state());
    assert!(pair.both(&Step::Close).is_ok());
    pair.counts
}

#[test]
fn both_parties_hand_out_what_belongs_together() {
    let mut all = Counts::default();
    for seed in 0..200 {
        let counts = history(seed);
        all.named += counts.named;
        all.resynced += counts.resynced;
        all.taken += counts.taken;
        all.killed += counts.killed;
        all.cut += counts.cut;
        all.failed += counts.failed;
    }
    let Counts { named, resynced, taken, killed, cut, failed } = all;
    assert!(named > 200, "none was stopped while the pair was named");
    assert!(resynced > 200 && taken > 1000 && killed > 200 && cut > 200 && failed > 100);
}

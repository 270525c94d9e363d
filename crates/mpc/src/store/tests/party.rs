//! One party on a simulated disk: it does what production does with a store, step by step, knows
//! from its own notes what has to be there, and checks it.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use cryptogen_party::Role;
use sha2::{Digest, Sha256};

use super::super::*;
use crate::files::simulated::{Disk, Fate, Fault, Tree};

/// Pools and their bytes per record.
pub(super) const POOLS: [(&str, usize); 2] = [("rows", 48), ("logits", 40)];

/// One thing that a party does. The number before others is that of the pool.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Opens store and pools.
    Open,
    /// Lets everything go.
    Close,
    Name(String),
    Begin(usize, usize),
    /// Writes every byte of the open batch, whose number this is for both parties.
    Fill(u32),
    Commit,
    DropBatch,
    Take(usize, usize),
    /// Takes records unread, cut across their borders.
    TakeUnread(usize, usize),
    /// Reads the oldest unread piece.
    Read,
    /// Lets go of all unread pieces.
    DropPieces,
    Skip(usize, u64),
    Resync(StoreState),
}

/// What is in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub(super) state: StoreState,
    /// By pool and index.
    records: BTreeMap<(usize, u64), Vec<u8>>,
}

impl Known {
    pub(super) fn at(&self, pool: usize) -> PoolCursor {
        self.state.at(POOLS[pool].0)
    }

    fn set(&mut self, pool: usize, cursor: u64, committed: u64) {
        self.state.pools.insert(POOLS[pool].0.into(), PoolCursor { cursor, committed });
    }

    /// The state as the store would tell it: pools that were opened are in it.
    fn is(&self, state: &StoreState) -> bool {
        self.state.store_id == state.store_id && (0..2).all(|p| self.at(p) == state.at(POOLS[p].0))
    }
}

/// The calls of one step, what may be in the store if they were cut short, and after them, and how
/// many records were out before and after.
#[derive(Clone)]
struct Span {
    from: usize,
    to: usize,
    during: Vec<Known>,
    after: Vec<Known>,
    out: (usize, usize),
}

struct Piece {
    unread: Unread,
    expected: Vec<u8>,
}

struct Open {
    // Batch and pieces go before the store, as in production.
    batch: Option<(usize, Batch, Vec<Vec<u8>>)>,
    pieces: Vec<Piece>,
    pools: Vec<Pool>,
    store: Store,
}

/// See the module.
pub(super) struct Party {
    role: Role,
    pub(super) disk: Arc<Disk>,
    open: Option<Open>,
    /// One of them; several after a crash or an error, until the store is opened again.
    known: Vec<Known>,
    /// SHA-256 of every record and every piece that was handed out, over all crashes.
    out: Vec<[u8; 32]>,
    spent: Vec<Vec<u8>>,
    spans: Vec<Span>,
}

impl Party {
    pub(super) fn new(role: Role) -> Party {
        let (known, disk) = (vec![Known::default()], Disk::new());
        Party { role, disk, open: None, known, out: vec![], spent: vec![], spans: vec![] }
    }

    fn dir(&self) -> PathBuf {
        self.disk.root().join("store")
    }

    pub(super) fn binding(&self) -> Binding {
        Binding { peer: "p".into(), model: "m".into(), plan: "q".into(), role: self.role }
    }

    pub(super) fn known(&self) -> &Known {
        assert_eq!(self.known.len(), 1);
        &self.known[0]
    }

    pub(super) fn state(&self) -> StoreState {
        self.open.as_ref().unwrap().store.state()
    }

    /// Whether the store must be opened again.
    pub(super) fn has_failed(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.store.shared.lock().failed)
    }

    /// The record of a batch: batch and place first, by which two parties' records are compared.
    fn record(&self, pool: usize, batch: u32, i: usize) -> Vec<u8> {
        let place = [batch.to_le_bytes(), (i as u32).to_le_bytes()].concat();
        let hash = Sha256::new().chain_update([self.role as u8, pool as u8]).chain_update(&place).finalize();
        [&place[..], &hash, &hash].concat()[..POOLS[pool].1].to_vec()
    }

    /// What the step is to make of the store.
    fn after(&self, step: &Step) -> Known {
        let mut next = self.known[0].clone();
        match step {
            Step::Name(id) => next.state.store_id = Some(id.clone()),
            Step::Commit => {
                if let Some((pool, _, records)) = self.open.as_ref().and_then(|o| o.batch.as_ref()) {
                    let at = next.at(*pool);
                    for (i, record) in records.iter().enumerate() {
                        next.records.insert((*pool, at.committed + i as u64), record.clone());
                    }
                    next.set(*pool, at.cursor, at.committed + records.len() as u64);
                }
            }
            Step::Take(pool, n) | Step::TakeUnread(pool, n) => {
                let at = next.at(*pool);
                if at.cursor + *n as u64 <= at.committed {
                    next.set(*pool, at.cursor + *n as u64, at.committed);
                }
            }
            Step::Skip(pool, to) => {
                let at = next.at(*pool);
                if (at.cursor..=at.committed).contains(to) {
                    next.set(*pool, *to, at.committed);
                }
            }
            Step::Resync(theirs) => {
                for (pool, (name, _)) in POOLS.iter().enumerate() {
                    let (a, b) = (next.at(pool), theirs.at(name));
                    let cursor = a.cursor.max(b.cursor);
                    next.set(pool, cursor, a.committed.min(b.committed).max(cursor));
                }
            }
            _ => {}
        }
        next
    }

    /// Does a step. What cannot be done as things stand (no open batch) is passed over.
    pub(super) fn run(&mut self, step: &Step) -> Result<Vec<Vec<u8>>, StoreError> {
        let (from, out) = (self.disk.calls(), self.out.len());
        let (before, after) = (self.known.clone(), self.after(step));
        let changes = !matches!(step, Step::Open | Step::Close);
        let during = if changes { vec![before[0].clone(), after.clone()] } else { before.clone() };
        let result = self.act(step);
        match (&result, step) {
            (Ok(_), Step::Open) => {
                let state = self.state();
                self.known.retain(|known| known.is(&state));
                assert!(!self.known.is_empty(), "{state:?} is none of {before:?}");
                self.known.truncate(1);
                self.check_files();
            }
            (Ok(_), _) if changes => self.known = vec![after],
            (Ok(_), _) => {}
            (Err(_), Step::Open) => {}
            (Err(error), _) => {
                // In memory nothing has changed, or a take failed behind its cursor; whether it is
                // so on the disk, opening tells.
                let state = self.state();
                let unchanged = before[0].is(&state);
                let behind =
                    matches!(step, Step::Take(..) | Step::TakeUnread(..) | Step::Skip(..) | Step::Resync(_));
                assert!(unchanged || behind && after.is(&state), "{step:?}: {error}, {state:?}");
                self.known = match unchanged {
                    true if self.has_failed() => vec![before[0].clone(), after],
                    true => before,
                    false => vec![after],
                };
            }
        }
        self.spans.push(Span {
            from,
            to: self.disk.calls(),
            during,
            after: self.known.clone(),
            out: (out, self.out.len()),
        });
        result
    }

    fn act(&mut self, step: &Step) -> Result<Vec<Vec<u8>>, StoreError> {
        if *step == Step::Open {
            assert!(self.open.is_none());
            let store = Store::open(&self.dir(), &self.binding())?;
            let pools =
                POOLS.iter().map(|(name, bytes)| store.pool(name, *bytes)).collect::<Result<_, _>>()?;
            self.open = Some(Open { batch: None, pieces: vec![], pools, store });
            return Ok(vec![]);
        }
        let Some(open) = &mut self.open else { return Ok(vec![]) };
        match step {
            Step::Open => unreachable!(),
            Step::Close => {
                let cut_short = open.store.shared.lock().failed;
                self.open = None;
                if !cut_short && !self.disk.has_struck() {
                    self.check_files();
                }
            }
            Step::Name(id) => open.store.set_store_id(id)?,
            Step::Begin(pool, n) => {
                open.batch = None;
                open.batch = Some((*pool, open.pools[*pool].begin_batch(*n)?, vec![]));
            }
            Step::Fill(number) => {
                let Some((pool, batch, _)) = open.batch.take() else { return Ok(vec![]) };
                let records: Vec<_> = (0..batch.len()).map(|i| self.record(pool, *number, i)).collect();
                // As the offline phase does: first pieces of records, then whole ones.
                batch.write(0, 9, &records[0][9..])?;
                batch.write(0, 0, &records[0][..9])?;
                batch.write_records(1, &records[1..].concat())?;
                self.open.as_mut().unwrap().batch = Some((pool, batch, records));
            }
            Step::Commit => {
                if let Some((_, batch, _)) = open.batch.take() {
                    batch.commit()?;
                }
            }
            Step::DropBatch => open.batch = None,
            Step::Take(pool, n) => {
                let records = match open.pools[*pool].take(*n) {
                    Err(StoreError::Short { .. }) => return Ok(vec![]),
                    records => records?,
                };
                let mut taken = vec![];
                for record in records {
                    let expected = &self.known[0].records[&(*pool, record.index())];
                    assert_eq!(record.bytes(), expected, "record {} of pool {pool}", record.index());
                    taken.push(record.bytes().to_vec());
                }
                taken.iter().for_each(|record| self.hand_out(record));
                return Ok(taken);
            }
            Step::TakeUnread(pool, n) => {
                let (len, at) = (n * POOLS[*pool].1, self.known[0].at(*pool));
                // An empty piece, one that ends within the first record, and the rest.
                let cuts = [0, len.min(11), len - len.min(11)];
                let pieces = match open.pools[*pool].take_unread(*n, &cuts) {
                    Err(StoreError::Short { .. }) => return Ok(vec![]),
                    pieces => pieces?,
                };
                let records = &self.known[0].records;
                let all: Vec<u8> =
                    (at.cursor..at.cursor + *n as u64).flat_map(|i| records[&(*pool, i)].clone()).collect();
                let mut rest = &all[..];
                for (unread, len) in pieces.into_iter().zip(cuts) {
                    let (expected, more) = rest.split_at(len);
                    open.pieces.push(Piece { unread, expected: expected.to_vec() });
                    rest = more;
                }
            }
            Step::Read => {
                if !open.pieces.is_empty() {
                    let piece = open.pieces.remove(0);
                    let bytes = piece.unread.read()?.to_vec();
                    assert_eq!(bytes, piece.expected);
                    if !bytes.is_empty() {
                        self.hand_out(&bytes);
                    }
                }
            }
            Step::DropPieces => open.pieces.clear(),
            Step::Skip(pool, to) => match open.pools[*pool].skip_to(*to) {
                Err(StoreError::Skip { .. }) => {}
                skipped => skipped?,
            },
            Step::Resync(theirs) => {
                open.batch = None;
                open.store.resync(theirs)?;
            }
        }
        Ok(vec![])
    }

    fn hand_out(&mut self, bytes: &[u8]) {
        let hash = Sha256::digest(bytes).into();
        assert!(!self.out.contains(&hash), "handed out twice");
        self.out.push(hash);
        self.spent.push(bytes.to_vec());
    }

    /// In a store that was just opened or closed: what is spent is overwritten, what is left is
    /// there, and nothing else.
    fn check_files(&self) {
        let [known] = &self.known[..] else { return };
        // What was cut off was overwritten on the disk before.
        let given_back = self.disk.given_back().concat();
        for spent in self.spent.iter().filter(|spent| spent.len() >= 16) {
            assert!(!given_back.windows(16).any(|bytes| *bytes == spent[..16]), "given back as it was");
        }
        for (pool, (name, bytes)) in POOLS.iter().enumerate() {
            let at = known.at(pool);
            let Some(file) = self.disk.content(&self.dir().join(format!("{name}.records"))) else {
                assert_eq!(at, PoolCursor::default());
                continue;
            };
            let left = (at.cursor..at.committed).flat_map(|i| known.records[&(pool, i)].clone());
            let left: Vec<u8> = left.collect();
            let spent = file.len().checked_sub(16 + left.len()).expect("records are missing");
            assert_eq!(spent % bytes, 0);
            assert!(file[16..16 + spent].iter().all(|byte| *byte == 0), "spent and not overwritten");
            assert!(file[16 + spent..] == left, "not what was committed");
        }
    }

    /// The process is killed: no destructor has an effect, and only opening again goes on.
    pub(super) fn killed(&mut self) {
        self.disk.set_fault(Some(Fault::Killed { at: 0 }));
        self.open = None;
        self.disk.set_fault(None);
        if let Some(span) = self.spans.last() {
            self.known = [&span.during[..], &span.after].concat();
        }
    }

    /// The party after the first `n` calls and a power cut that left `tree`.
    pub(super) fn cut(&self, n: usize, tree: Tree) -> Party {
        let span = self.spans.iter().rev().find(|span| span.from < n || span.to <= n);
        let (known, out) = match span {
            None => (vec![Known::default()], 0),
            Some(span) if n < span.to => (span.during.clone(), span.out.0),
            Some(span) => (span.after.clone(), span.out.1),
        };
        let (out, spent) = (self.out[..out].to_vec(), self.spent[..out].to_vec());
        Party { role: self.role, disk: self.disk.after(tree), open: None, known, out, spent, spans: vec![] }
    }

    /// Some of what a power cut after `n` calls may leave, each once: of the calls that were not
    /// synced none or all count, one alone or all but one; and if `thorough`, the first few, halves
    /// of writes, and any.
    pub(super) fn cuts(&self, n: usize, thorough: bool, seen: &mut HashSet<[u8; 32]>) -> Vec<Tree> {
        let unsynced = self.disk.unsynced(n);
        let m = unsynced.len();
        let but_one = |one, fate, others| (0..m).map(|i| if i == one { fate } else { others }).collect();
        let mut fates = vec![vec![Fate::Lost; m], vec![Fate::Kept; m]];
        for one in 0..m {
            fates.push(but_one(one, Fate::Kept, Fate::Lost));
            fates.push(but_one(one, Fate::Lost, Fate::Kept));
        }
        if thorough {
            fates.push(vec![Fate::Torn; m]);
            for one in 0..m {
                fates.push(but_one(one, Fate::Torn, Fate::Lost));
                fates.push((0..m).map(|i| if i < one { Fate::Kept } else { Fate::Lost }).collect());
            }
            for seed in 0..8 {
                let bytes = Sha256::digest([n.to_le_bytes(), [seed; 8]].concat());
                let fate = |byte: &u8| [Fate::Lost, Fate::Kept, Fate::Torn][usize::from(byte % 3)];
                fates.push(bytes.iter().cycle().map(fate).take(m).collect());
            }
        }
        let mut trees: Vec<Tree> = fates.iter().map(|fates| self.disk.cut(n, &unsynced, fates)).collect();
        let Party { known, out, .. } = self.cut(n, trees[0].clone());
        trees.retain(|tree| {
            seen.insert(Sha256::digest(format!("{known:?} {out:?} {:?}", tree.visible())).into())
        });
        trees
    }

    /// Goes on after whatever came before: opens, uses the store, and takes all that is left.
    pub(super) fn go_on(&mut self, number: u32) {
        if self.open.is_none() {
            self.run(&Step::Open).unwrap();
        }
        let steps = [
            Step::Take(0, 1),
            Step::Begin(0, 3),
            Step::Fill(number),
            Step::TakeUnread(0, 1),
            Step::Commit,
            Step::Read,
            Step::DropPieces,
            Step::Take(1, 1),
        ];
        for step in steps {
            self.run(&step).unwrap();
        }
        for pool in 0..2 {
            let at = self.known().at(pool);
            self.run(&Step::Take(pool, (at.committed - at.cursor) as usize)).unwrap();
        }
        self.run(&Step::Close).unwrap();
    }
}

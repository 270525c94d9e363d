use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use rand_core::OsRng;
use tempfile::TempDir;

mod one;
mod pair;
mod party;

use super::*;
use crate::process::in_a_child;

fn binding() -> Binding {
    Binding { peer: "alice".into(), model: "m".into(), plan: "p".into(), role: Role::Client }
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), &binding()).unwrap()
}

/// Commits `n` records of 8 bytes, the logical index in each.
fn fill(pool: &Pool, n: usize) {
    let batch = pool.begin_batch(n).unwrap();
    for i in 0..n {
        batch.write(i, 0, &(pool.committed() + i as u64 + 1).to_le_bytes()).unwrap();
    }
    batch.commit().unwrap();
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|r| u64::from_le_bytes(r.bytes().try_into().unwrap())).collect()
}

fn at(pool: &Pool) -> (u64, u64) {
    (pool.cursor(), pool.committed())
}

#[test]
fn records_come_once_and_are_wiped() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("linear.0.records");
    let store = open(&dir);
    let pool = store.pool("linear.0", 8).unwrap();
    fill(&pool, 5);
    let records = pool.take(2).unwrap();
    assert_eq!((numbers(&records), records[1].index()), (vec![1, 2], 1));
    assert_eq!(fs::read(&path).unwrap()[16..32], [0; 16]);
    assert_eq!(at(&pool), (2, 5));
    let short = StoreError::Short { pool: "linear.0".into(), needed: 4, available: 3 };
    assert_eq!(pool.take(4).err(), Some(short));
    assert_eq!(pool.available(), 3);
    drop((pool, store));

    let store = open(&dir);
    let pool = store.pool("linear.0", 8).unwrap();
    fill(&pool, 1);
    assert_eq!(numbers(&pool.take(4).unwrap()), [3, 4, 5, 6]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 16, "an empty pool gives its room back");
    fill(&pool, 3);
    assert_eq!(numbers(&pool.take(1).unwrap()), [7]);
    drop((pool, store));
    let store = open(&dir);
    assert_eq!(numbers(&store.pool("linear.0", 8).unwrap().take(2).unwrap()), [8, 9]);
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn unread_pieces_stay_until_they_are_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.records");
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 5);
    for lengths in [&[8, 7][..], &[8, 9], &[usize::MAX, 17]] {
        assert!(matches!(pool.take_unread(2, lengths), Err(StoreError::Bounds { .. })));
    }
    assert!(matches!(pool.take_unread(6, &[48]), Err(StoreError::Short { .. })));
    assert_eq!(at(&pool), (0, 5));
    // Of three records: a whole one, one in two pieces, one in one piece with what is empty in
    // front.
    let pieces = pool.take_unread(3, &[8, 1, 7, 0, 8]).unwrap();
    assert_eq!(pieces.iter().map(Unread::len).collect::<Vec<_>>(), [8, 1, 7, 0, 8]);
    assert_eq!(at(&pool), (3, 5), "spent, read or not");
    let pieces = RefCell::new(pieces);
    let read = |i: usize| pieces.borrow_mut().remove(i).read().unwrap().to_vec();
    let look = |i: usize| pieces.borrow()[i].look().unwrap().to_vec();
    assert_eq!((read(1), read(0)), (vec![2], vec![1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(numbers(&pool.take(2).unwrap()), [4, 5]);
    let file = fs::read(&path).unwrap();
    assert_eq!(
        (&file[16..24], &file[24..48]),
        (&[0; 8][..], &[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0][..])
    );
    // A batch goes behind, though nothing is left: unread pieces keep their places.
    fill(&pool, 1);
    assert_eq!(look(2), [3, 0, 0, 0, 0, 0, 0, 0], "a look leaves it where it is");
    assert_eq!((read(0), read(0), read(0)), (vec![0; 7], vec![], vec![3, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(numbers(&pool.take(1).unwrap()), [6]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 16, "an empty pool gives its room back");
    // Unread pieces keep the store open; closing it wipes what nobody read.
    fill(&pool, 2);
    let piece = pool.take_unread(1, &[8]).unwrap();
    drop((pool, store));
    assert!(matches!(Store::open(dir.path(), &binding()), Err(StoreError::Locked { .. })));
    assert_ne!(fs::read(&path).unwrap()[16..24], [0; 8]);
    drop(piece);
    assert_eq!(fs::read(&path).unwrap()[16..24], [0; 8]);
    assert_eq!(numbers(&open(&dir).pool("a", 8).unwrap().take(1).unwrap()), [8]);
}

#[test]
fn a_dropped_batch_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 2);
    let batch = pool.begin_batch(100).unwrap();
    assert_eq!(pool.begin_batch(1).err(), Some(StoreError::BatchOpen { pool: "a".into() }));
    batch.write(0, 0, &[7; 8]).unwrap();
    assert_eq!(numbers(&pool.take(2).unwrap()), [1, 2]); // takes go on meanwhile
    drop(batch);
    assert_eq!(at(&pool), (2, 2));
    assert_eq!(fs::metadata(dir.path().join("a.records")).unwrap().len(), 16);
    fill(&pool, 1);
    assert_eq!(numbers(&pool.take(1).unwrap()), [3]);
}

#[test]
fn batches_are_bounded_complete_and_fit_the_disk() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    let batch = pool.begin_batch(2).unwrap();
    for (record, offset, len) in [(2, 0, 1), (0, 1, 8), (0, usize::MAX, 2), (usize::MAX, 0, 1)] {
        assert!(matches!(batch.write(record, offset, &vec![0; len]), Err(StoreError::Bounds { .. })));
    }
    assert!(batch.write_records(1, &[0; 16]).is_err() && batch.write_records(0, &[0; 7]).is_err());
    batch.write(0, 0, &[1; 8]).unwrap();
    let incomplete = StoreError::Incomplete { pool: "a".into(), expected: 16, actual: 8 };
    assert_eq!(batch.commit(), Err(incomplete));
    assert!(matches!(pool.begin_batch(1 << 40), Err(StoreError::DiskFull { needed: Some(_), .. })));
    assert!(matches!(pool.begin_batch(usize::MAX), Err(StoreError::Size { .. })));
    assert_eq!(at(&pool), (0, 0));
    fill(&pool, 1);
}

#[test]
fn one_owner_and_one_purpose() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let locked = StoreError::Locked { dir: dir.path().to_owned() };
    assert_eq!(Store::open(dir.path(), &binding()).err(), Some(locked));
    assert!(matches!(store.pool("../a", 8), Err(StoreError::PoolName(_))));
    assert!(matches!(store.pool("a", 0), Err(StoreError::Size { .. })));
    let pool = store.pool("a", 8).unwrap();
    let size = StoreError::RecordBytes { pool: "a".into(), expected: 16, actual: 8 };
    assert_eq!(store.pool("a", 16).err(), Some(size));
    drop(store);
    assert!(Store::open(dir.path(), &binding()).is_err(), "a pool handle keeps the store open");
    drop(pool);
    let other = Binding { model: "other".into(), ..binding() };
    let mismatch = StoreError::Binding { field: "model", expected: "other".into(), actual: "m".into() };
    assert_eq!(Store::open(dir.path(), &other).err(), Some(mismatch));
}

#[test]
fn damage_is_noticed() {
    let dir = TempDir::new().unwrap();
    fill(&open(&dir).pool("a", 8).unwrap(), 4);
    let records = dir.path().join("a.records");
    let content = fs::read(&records).unwrap();
    fs::write(&records, &content[..content.len() - 1]).unwrap();
    assert!(matches!(Store::open(dir.path(), &binding()), Err(StoreError::Corrupt { .. })));
    fs::write(&records, [&[0; 16], &content[16..]].concat()).unwrap();
    assert!(matches!(Store::open(dir.path(), &binding()), Err(StoreError::Corrupt { .. })));
    fs::remove_file(&records).unwrap();
    assert!(matches!(Store::open(dir.path(), &binding()), Err(StoreError::Corrupt { .. })));
    fs::write(dir.path().join("state.json"), "{}").unwrap();
    assert!(matches!(Store::open(dir.path(), &binding()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_crash_between_cursor_and_wipe_is_completed() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 4);
    // The state as a take leaves it before it reads and wipes.
    let moved = store.shared.lock().update(dir.path(), |d| d.pools.get_mut("a").unwrap().cursor = 3);
    moved.unwrap();
    store.shared.lock().failed = true; // a killed process wipes nothing
    drop((pool, store));
    let content = || fs::read(dir.path().join("a.records")).unwrap();
    assert_ne!(content()[16..40], [0; 24]);
    let store = open(&dir);
    assert_eq!(content()[16..40], [0; 24]);
    assert_eq!(numbers(&store.pool("a", 8).unwrap().take(1).unwrap()), [4]);
}

#[test]
fn parties_compare_and_resynchronise() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (mine, theirs) = (open(&here), open(&there));
    let compare = || mine.state().compare(&theirs.state());
    assert!(matches!(compare(), Err(StoreError::StoreId { .. })), "unnamed stores are no pair");
    let id = Store::new_store_id(&mut OsRng);
    mine.set_store_id(&id).unwrap();
    assert!(compare().is_err());
    theirs.set_store_id(&id).unwrap();
    mine.set_store_id(&id).unwrap();
    assert!(mine.set_store_id(&"0".repeat(32)).is_err());
    assert_eq!(compare(), Ok(()));

    let (a, b) = (mine.pool("a", 8).unwrap(), theirs.pool("a", 16).unwrap());
    fill(&a, 6);
    let batch = b.begin_batch(5).unwrap();
    batch.write_records(0, &[1; 80]).unwrap();
    batch.commit().unwrap();
    b.take(3).unwrap();
    fill(&mine.pool("only-here", 8).unwrap(), 2);
    assert!(matches!(compare(), Err(StoreError::CursorMismatch { pool, mine, theirs })
        if pool == "a" && mine.committed == 6 && theirs.cursor == 3));
    let (of_mine, of_theirs) = (mine.state(), theirs.state());
    mine.resync(&of_theirs).unwrap();
    theirs.resync(&of_mine).unwrap();
    assert_eq!(compare(), Ok(()));
    assert_eq!((at(&a), at(&b)), ((3, 5), (3, 5)));
    assert_eq!(numbers(&a.take(2).unwrap()), [4, 5]);
    fill(&a, 1);
    assert_eq!(numbers(&a.take(1).unwrap()), [6]);
}

#[test]
fn a_restored_backup_skips_forward_and_lies_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    assert!(matches!(store.set_store_id("../name"), Err(StoreError::PeerState(_))));
    store.set_store_id(&"0".repeat(32)).unwrap();
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 4);
    let mut theirs = store.state();
    // The peer has been further than we remember, and knows a pool that we do not.
    theirs.pools.insert("a".into(), PoolCursor { cursor: 9, committed: 12 });
    theirs.pools.insert("b".into(), PoolCursor { cursor: 3, committed: 7 });
    store.resync(&theirs).unwrap();
    assert_eq!(at(&pool), (9, 9));
    fill(&pool, 1);
    assert_eq!(pool.take(1).unwrap()[0].index(), 9);
    let b = store.pool("b", 4).unwrap();
    assert_eq!(at(&b), (3, 3));
    let before = store.state();
    for (name, cursor, committed) in [("a", 2, 1), ("a", 0, u64::MAX), ("../b", 0, 0)] {
        let mut lie = before.clone();
        lie.pools.insert(name.into(), PoolCursor { cursor, committed });
        assert!(matches!(store.resync(&lie), Err(StoreError::PeerState(_))));
    }
    assert_eq!(store.state(), before);
    drop((store, pool, b));
    assert_eq!(open(&dir).state(), before);
}

#[test]
fn skipping_goes_forward_only() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 4);
    pool.skip_to(2).unwrap();
    for asked in [1, 5] {
        let skip = StoreError::Skip { pool: "a".into(), asked, cursor: 2, committed: 4 };
        assert_eq!(pool.skip_to(asked), Err(skip));
    }
    assert_eq!(numbers(&pool.take(1).unwrap()), [3]);
}

#[test]
fn a_child_neither_spends_nor_wipes() {
    let dir = TempDir::new().unwrap();
    let (path, state) = (dir.path().join("a.records"), dir.path().join("state.json"));
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 5);
    let mut pieces = pool.take_unread(2, &[8, 8]).unwrap();
    let batch = pool.begin_batch(1).unwrap();
    let files = || [&path, &state].map(|file| fs::read(file).unwrap());
    let before = files();
    in_a_child(|| {
        let forked = |error: Option<StoreError>| assert_eq!(error, Some(StoreError::Forked));
        forked(store.pool("a", 8).err());
        forked(store.pool("b", 8).err());
        forked(store.set_store_id(&"0".repeat(32)).err());
        forked(store.resync(&store.state()).err());
        forked(pool.take(1).err());
        forked(pool.take_unread(1, &[8]).err());
        forked(pool.skip_to(3).err());
        forked(pool.begin_batch(1).err());
        forked(batch.write(0, 0, &[1; 8]).err());
        forked(batch.commit().err());
        forked(pieces[0].look().err());
        forked(pieces.remove(0).read().err());
        drop((pieces, pool, store));
    });
    assert_eq!(files(), before, "nothing is wiped, cut or written, whatever is dropped");

    // Records that nobody holds any more, which closing the store would wipe.
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    drop(pool.take_unread(1, &[8]).unwrap());
    let before = files();
    in_a_child(|| drop((pool, store)));
    assert_eq!(files(), before);

    // The parent of the same, and a child that has let everything go.
    let store = open(&dir);
    let pool = store.pool("a", 8).unwrap();
    fill(&pool, 1);
    let mut pieces = pool.take_unread(1, &[8]).unwrap();
    assert_eq!(pieces.remove(0).read().unwrap()[..], 4u64.to_le_bytes());
    assert_eq!(numbers(&pool.take(2).unwrap()), [5, 6]);
}

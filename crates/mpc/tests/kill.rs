//! Kills a process that takes records, again and again, at random moments: no record may come out
//! twice.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryptogen_mpc::store::Binding;
use cryptogen_mpc::Store;
use cryptogen_party::Role;
use rand_core::{OsRng, RngCore};

const CHILD: &str = "CRYPTOGEN_KILL_TEST_DIR";

fn open(dir: &Path) -> Store {
    let binding = Binding { peer: "p".into(), model: "m".into(), plan: "q".into(), role: Role::Server };
    Store::open(dir, &binding).unwrap()
}

/// The process to be killed: refills and takes, and says which records it has. Does nothing in an
/// ordinary run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&dir));
    let (a, b) = (store.pool("a", 16).unwrap(), store.pool("b", 5000).unwrap());
    let mut out = std::io::stdout().lock();
    loop {
        for pool in [&a, &b] {
            while pool.available() < 8 {
                let n = 1 + OsRng.next_u32() as usize % 20;
                let batch = pool.begin_batch(n).unwrap();
                for i in 0..n {
                    let mut record = vec![0; pool.record_bytes()];
                    OsRng.fill_bytes(&mut record);
                    batch.write(i, 0, &record).unwrap();
                }
                batch.commit().unwrap();
            }
        }
        for (name, pool, n) in [("a", &a, 1 + OsRng.next_u32() as usize % 8), ("b", &b, 1)] {
            for record in pool.take(n).unwrap() {
                let content: String = record.bytes()[..16].iter().map(|x| format!("{x:02x}")).collect();
                writeln!(out, "took {name} {} {content}", record.index()).unwrap();
            }
        }
        out.flush().unwrap();
    }
}

#[test]
fn no_record_is_released_twice() {
    let dir = tempfile::TempDir::new().unwrap();
    let (mut indices, mut contents) = (HashSet::new(), HashSet::new());
    for round in 0..60 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut end = None;
        let mut killed = false;
        // After the kill, what is in the pipe still counts: it was released.
        for line in lines.map_while(Result::ok) {
            let Some(at) = line.find("took ") else { continue };
            let mut words = line[at + 5..].split(' ');
            let (Some(pool), Some(index), Some(content)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if content.len() == 32 {
                assert!(indices.insert((pool.to_owned(), index.to_owned())), "round {round}: {line}");
                assert!(contents.insert(content.to_owned()), "round {round}: {line}");
                assert_ne!(content, "0".repeat(32), "a wiped record came out");
            }
            let end = *end
                .get_or_insert(Instant::now() + Duration::from_micros(u64::from(OsRng.next_u32() % 40_000)));
            if !killed && Instant::now() >= end {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        // It never stops by itself, so an end without our kill is a panic in it.
        assert!(killed, "round {round}: the child failed");
    }
    assert!(indices.len() > 300, "only {} records", indices.len());
    let state = open(dir.path()).state();
    assert!(state.pools["a"].cursor >= indices.iter().filter(|(pool, _)| pool == "a").count() as u64);
}

//! Linear layers of the paper's protocols: layouts simulated on clear slots, plans, and the real
//! thing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cryptogen_he::evaluate::{Context, Lanes, N, ROW};
use cryptogen_mpc::Connection;
use cryptogen_party::{Client, Server};
use cryptogen_protocols::model::{ModelShape, Site};
use cryptogen_protocols::ProtocolError;
use cryptogen_ring::{Fp, Prg};
use rand_core::RngCore;

use super::channel::{measured, run, run_spoiled, Fault};
use super::tiny::{build, Arch, Settings, Tiny};
use super::{elements, rng};
use crate::diagonals::Packing;
use crate::encoded::{Encoded, Loaded, KEPT_BYTES};
use crate::linear;
use crate::planner::{alone, LinearPlan};
use crate::{State, Variant};

/// Slots as a server's evaluator moves them.
fn rotate(slots: &[Fp], step: usize) -> Vec<Fp> {
    slots.chunks(ROW).flat_map(|row| [&row[step..], &row[..step]].concat()).collect()
}

/// What the server computes on ciphertexts, on clear slots, for one group of rows: Horner's rule in
/// the giant step.
fn simulate(p: &Packing, w: &[i16], x: &[Fp], rows: usize) -> Vec<Fp> {
    let allowed: BTreeSet<usize> = p.steps().collect();
    let turn = |slots: &[Fp], d: usize| {
        let step = p.lanes.step(d);
        assert!(step == 0 || allowed.contains(&step), "no key for a rotation by {d}");
        rotate(slots, step)
    };
    let inputs: Vec<_> = (0..p.inputs()).map(|alpha| p.input(x, alpha)).collect();
    let outputs: Vec<Vec<Fp>> = (0..p.outputs())
        .map(|beta| {
            let horner = |giants: Range<usize>| {
                let mut sum = vec![Fp::ZERO; N];
                for giant in giants.clone().rev() {
                    if giant + 1 < giants.end {
                        sum = turn(&sum, p.babies);
                    }
                    for d in giant * p.babies..p.diagonals().min((giant + 1) * p.babies) {
                        for (alpha, input) in inputs.iter().enumerate() {
                            let (w, x) = (p.diagonal(w, beta, alpha, d), turn(input, d % p.babies));
                            sum.iter_mut().zip(w.iter().zip(&x)).for_each(|(s, (w, x))| *s += *w * *x);
                        }
                    }
                }
                sum
            };
            let (low, high) = (horner(0..p.half()), horner(p.half()..p.giants()));
            match p.half() < p.giants() {
                true => low.iter().zip(turn(&high, p.half() * p.babies)).map(|(a, b)| *a + b).collect(),
                false => low,
            }
        })
        .collect();
    p.output(&outputs, rows)
}

fn matrix(rng: &mut Prg, n: usize) -> Vec<i16> {
    (0..n).map(|_| rng.next_u32() as i16).collect()
}

fn multiply(w: &[i16], x: &[Fp], d_in: usize) -> Vec<Fp> {
    let dot = |x: &[Fp], w: &[i16]| x.iter().zip(w).map(|(x, w)| *x * Fp::from_i64(i64::from(*w))).sum();
    x.chunks(d_in).flat_map(|x| w.chunks(d_in).map(move |w| dot(x, w)).collect::<Vec<Fp>>()).collect()
}

#[test]
fn random_packings_multiply() {
    let mut rng = rng(71);
    let mut pick = |low: usize, high: usize| low + rng.next_u32() as usize % (high - low);
    let mut packings = vec![];
    while packings.len() < 60 {
        let lanes = Lanes::new(1 << pick(0, 13)).unwrap();
        let p = Packing {
            d_in: pick(1, 100),
            d_out: pick(1, 100),
            lanes,
            rows: pick(1, 5),
            in_blocks: pick(1, 9),
            out_blocks: pick(1, 9),
            parts: pick(1, 9),
            babies: pick(1, 12),
        };
        // Few enough plaintexts to be quick.
        if p.fits() && p.plaintexts() <= 400 {
            packings.push(p);
        }
    }
    let mut rng = super::rng(72);
    for p in packings {
        for rows in [p.rows, 1] {
            let (w, x) = (matrix(&mut rng, p.d_in * p.d_out), rng.fp_vec(rows * p.d_in));
            assert_eq!(simulate(&p, &w, &x, rows), multiply(&w, &x, p.d_in), "{p:?}");
        }
    }
}

#[test]
fn planned_packings_multiply() {
    let mut rng = rng(73);
    for (d_in, d_out) in [(1, 1), (7, 3), (48, 16), (100, 300), (768, 64), (30, 9000), (9000, 20)] {
        for rows in [1, 2, 5] {
            let choice = alone(d_in, d_out, rows).expect("a packing");
            let p = choice.packing;
            let w = matrix(&mut rng, d_in * d_out);
            assert!(p.fits() && choice.groups == rows.div_ceil(p.rows) && choice.noise().fits());
            let n = p.rows.min(rows);
            let x = rng.fp_vec(n * d_in);
            assert_eq!(simulate(&p, &w, &x, n), multiply(&w, &x, d_in), "{p:?}");
        }
    }
}

#[test]
fn the_papers_counted_stage() {
    // Table I: at most 64 products and 5 rotations, one ciphertext.
    let c = alone(768, 64, 1).expect("a packing");
    assert!(c.work.products <= 64 && c.work.hoisted + c.work.rotations <= 5 && c.work.outputs == 1, "{c:?}");
}

fn shape(d: usize, heads: usize, kv_heads: usize, head_dim: usize, ff: usize, gated: bool) -> ModelShape {
    let (vocab, context) = (100, 100);
    ModelShape { layers: 2, d, heads, kv_heads, head_dim, ff, gated, parallel: false, vocab, context }
}

#[test]
fn plans_share_their_keys_and_say_why() {
    for m in
        [shape(768, 12, 12, 64, 3072, false), shape(576, 9, 3, 64, 1536, true), shape(8, 2, 2, 4, 8, false)]
    {
        let mut plan = LinearPlan::new(&m).unwrap();
        let steps = plan.steps().clone();
        assert!(steps.len() <= 64, "{}", steps.len());
        for site in Site::of_layer(1) {
            for rows in [1, 2, 7, 16, 64, 100] {
                let choice = plan.choose(site, rows);
                assert!(choice.packing.fits());
                assert!(choice.packing.steps().all(|s| steps.contains(&s)), "{choice:?}");
                assert_eq!(choice.groups, rows.div_ceil(choice.packing.rows));
                let why = plan.why(site, rows);
                assert!(why.contains(&site.name()) && why.contains("hoisted"), "{why}");
            }
        }
    }
}

/// Wide enough that baby and giant steps are worth their keys.
fn wide() -> Tiny {
    build(&Settings { sizes: [256, 4, 4, 64, 768], ..Settings::of(Arch::Gpt) })
}

/// Both parties' states, with keys in `dir`.
pub fn states(tiny: &Tiny, dir: &Path, variant: Variant) -> (State<Client>, State<Server>) {
    let (mut near, mut far) = Connection::memory_pair();
    let dirs = ["client", "server"].map(|name| dir.join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    std::thread::scope(|scope| {
        let server = scope.spawn(|| State::open(&mut far, &tiny.plan, &dirs[1], variant, &mut rng(91)));
        let client = State::open(&mut near, &tiny.plan, &dirs[0], variant, &mut rng(90));
        (client.unwrap(), server.join().unwrap().unwrap())
    })
}

#[test]
fn encrypted_layers_equal_the_clear_product_at_the_declared_cost() {
    let (tiny, dir) = (wide(), tempfile::tempdir().unwrap());
    let (mut client, mut server) = states(&tiny, dir.path(), Variant::EncryptedCache);
    let rotated = |h: &mut State<Client>, site, rows| {
        let work = h.plan().choose(site, rows).work;
        work.hoisted > 0 && work.rotations > 0
    };
    assert!(rotated(&mut client, Site::Down(0), 1), "this test means to rotate");
    let mut rng = rng(92);
    for (site, key, rows, kept) in [
        (Site::Qkv(0), 0, 1, true),
        (Site::Down(0), 3, 1, true),
        (Site::Down(1), 7, 1, false),
        (Site::O(1), 5, 3, true),
        (Site::Up(1), 6, 9, true),
    ] {
        server.encoded = Arc::new(Encoded::with_limit(if kept { KEPT_BYTES } else { 0 }));
        let l = tiny.plan.linear(site);
        let x = elements(&mut rng, rows * l.d_in);
        let r = elements(&mut rng, rows * l.d_in);
        let y = elements(&mut rng, rows * l.d_out);
        let opened: Vec<Fp> = x.iter().zip(&r).map(|(x, r)| *x - *r).collect();
        let choice = client.plan().choose(site, rows);
        let before = server.counts().operations;
        let (c, s) = run(
            |ch| linear::client(&mut client, ch, site, rows, &r, &y),
            |ch| linear::server(&mut server, ch, &tiny.model, (site, key), rows, &opened),
        );
        c.result.as_ref().unwrap();
        let sum: Vec<Fp> = s.result.as_ref().unwrap().iter().zip(&y).map(|(s, c)| *s + *c).collect();
        assert!(sum == multiply(tiny.model.weight(site), &x, l.d_in), "{site:?} {rows} rows");
        assert_eq!(measured(&c, &s), linear::cost(client.plan(), site, rows));
        let (after, work) = (server.counts().operations, choice.work);
        assert_eq!(after.ct_pt - before.ct_pt, work.products as u64);
        assert_eq!(after.hoisted_rotations - before.hoisted_rotations, work.hoisted as u64);
        assert_eq!(after.rotations - before.rotations, work.rotations as u64);
        assert_eq!(after.masked - before.masked, work.outputs as u64);
        let kept = if choice.kept && kept { choice.packing.plaintexts() * 262_144 } else { 0 };
        assert_eq!(server.encoded.bytes(), kept);
    }
}

#[test]
fn spoiled_messages_of_a_layer_are_errors() {
    let (tiny, dir) = (build(&Settings::of(Arch::Gpt)), tempfile::tempdir().unwrap());
    let (mut client, mut server) = states(&tiny, dir.path(), Variant::Recompute);
    let (site, l) = (Site::Qkv(0), tiny.plan.linear(Site::Qkv(0)));
    let (x, y) = (elements(&mut rng(93), l.d_in), elements(&mut rng(94), l.d_out));
    for (party, message) in [(0, 0), (1, 0), (0, 1)] {
        for fault in [Fault::Truncate, Fault::Extend, Fault::Ones, Fault::Hangup] {
            let mut faults = [None, None];
            faults[party] = Some((message, fault));
            let (c, s) = run_spoiled(
                faults,
                |ch| linear::client(&mut client, ch, site, 1, &x, &y).err(),
                |ch| linear::server(&mut server, ch, &tiny.model, (site, 0), 1, &x).err(),
            );
            let victim = if party == 0 { s.result } else { c.result };
            match fault {
                Fault::Ones => {
                    assert!(matches!(victim, Some(ProtocolError::He(_) | ProtocolError::Peer { .. })))
                }
                _ => assert!(matches!(victim, Some(ProtocolError::Channel(_))), "{fault:?}: {victim:?}"),
            }
        }
    }
}

#[test]
fn encoded_weights_are_kept_in_files_and_never_wrong() {
    let (tiny, dir) = (build(&Settings::of(Arch::Gpt)), tempfile::tempdir().unwrap());
    let folder = dir.path().join("weights");
    let load = || {
        let encoded = Encoded::default();
        let loaded = encoded.load(&tiny.plan, &tiny.model, &folder).unwrap();
        (loaded, Arc::new(encoded))
    };
    let sites = 4 * tiny.plan.model.layers;
    assert_eq!(load().0, Loaded { read: 0, written: sites, warnings: vec![] });
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(files().len(), sites);
    let good = std::fs::read(&files()[0]).unwrap();
    let multiplies = |encoded: Arc<Encoded>| {
        let (mut client, mut server) = states(&tiny, dir.path(), Variant::EncryptedCache);
        server.encoded = encoded;
        for (key, site) in Site::of_layer(0).into_iter().enumerate() {
            let (l, mut rng) = (tiny.plan.linear(site), rng(97));
            let [x, r, y] = [l.d_in, l.d_in, l.d_out].map(|n| elements(&mut rng, n));
            let opened: Vec<Fp> = x.iter().zip(&r).map(|(x, r)| *x - *r).collect();
            let (_, s) = run(
                |ch| linear::client(&mut client, ch, site, 1, &r, &y),
                |ch| linear::server(&mut server, ch, &tiny.model, (site, key), 1, &opened),
            );
            let sum: Vec<Fp> = s.result.unwrap().iter().zip(&y).map(|(s, c)| *s + *c).collect();
            assert!(sum == multiply(tiny.model.weight(site), &x, l.d_in), "{site:?}");
        }
    };
    let (loaded, mut encoded) = load();
    assert_eq!(loaded, Loaded { read: sites, written: 0, warnings: vec![] });
    multiplies(encoded.clone());
    let spoil = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let another = std::fs::read(&files()[1]).unwrap();
    for (bytes, reason) in [
        (spoil(8), "another version"),
        (spoil(20), "another version, model"),
        (spoil(good.len() / 2), "damaged"),
        (spoil(good.len() - 1), "damaged"),
        (good[..good.len() - 1].to_vec(), "expected"),
        (vec![], "0 bytes, expected"),
        (another, ""),
    ] {
        std::fs::write(&files()[0], &bytes).unwrap();
        let loaded;
        (loaded, encoded) = load();
        assert_eq!((loaded.read, loaded.written, loaded.warnings.len()), (sites - 1, 1, 1), "{reason}");
        assert!(
            loaded.warnings[0].contains(reason) && loaded.warnings[0].contains("encoded again"),
            "{loaded:?}"
        );
        assert!(std::fs::read(&files()[0]).unwrap() == good, "written anew");
    }
    multiplies(encoded);
    // A file that cannot be written, as on a full disk: a folder of that name stands in the way.
    let missing = files()[0].clone();
    std::fs::remove_file(&missing).unwrap();
    std::fs::create_dir_all(missing.join("x")).unwrap();
    let (loaded, encoded) = load();
    assert_eq!((loaded.read, loaded.written), (sites - 1, 0));
    assert!(loaded.warnings.iter().any(|w| w.contains("goes on without")), "{loaded:?}");
    multiplies(encoded);
    assert_eq!(files().len(), sites, "nothing is left over");
    // A folder that cannot be made is an error.
    let name = dir.path().join("name");
    std::fs::write(&name, "").unwrap();
    let refused = Encoded::default().load(&tiny.plan, &tiny.model, &name);
    assert!(matches!(refused, Err(ProtocolError::File { file, .. }) if file == name));
}

/// Encoding against reading, for layers of GPT-2's shape:
/// `cargo test … weights_cache_times -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn weights_cache_times() {
    let tiny = build(&Settings { sizes: [768, 12, 12, 64, 3072], ..Settings::of(Arch::Gpt) });
    let dir = tempfile::tempdir().unwrap();
    for what in ["encode and write", "read", "read"] {
        let (encoded, start) = (Encoded::default(), std::time::Instant::now());
        let loaded = encoded.load(&tiny.plan, &tiny.model, dir.path()).unwrap();
        let (ms, mb) = (start.elapsed().as_millis(), encoded.bytes() / 1_000_000);
        println!("{what}: {ms} ms for {mb} MB of {} layers, {loaded:?}", tiny.plan.model.layers);
    }
    let (context, start) = (Context::get(), std::time::Instant::now());
    let plan = LinearPlan::new(&tiny.plan.model).unwrap();
    for site in (0..tiny.plan.model.layers).flat_map(Site::of_layer) {
        let (p, w) = (plan.generation(site).packing, tiny.model.weight(site));
        Encoded::default().get(context, &p, 0, w).unwrap();
    }
    println!("encode: {} ms", start.elapsed().as_millis());
}

/// Times of the linear layers of GPT-2's shape:
/// `cargo test … gpt2_layers -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn gpt2_layers() {
    let tiny = build(&Settings { sizes: [768, 12, 12, 64, 3072], ..Settings::of(Arch::Gpt) });
    let dir = tempfile::tempdir().unwrap();
    let (mut client, mut server) = states(&tiny, dir.path(), Variant::EncryptedCache);
    println!("{} steps for linear layers, {} bytes of keys", client.plan().steps().len(), client.key_bytes());
    for rows in [1, 1, 64] {
        for (key, site) in Site::of_layer(0).into_iter().enumerate() {
            let l = tiny.plan.linear(site);
            let mut rng = rng(96);
            let [x, r, y] = [l.d_in, l.d_in, l.d_out].map(|n| rng.fp_vec(rows * n));
            let start = std::time::Instant::now();
            let (c, s) = run(
                |ch| linear::client(&mut client, ch, site, rows, &r, &y),
                |ch| linear::server(&mut server, ch, &tiny.model, (site, key), rows, &x),
            );
            let ms = 1e3 * start.elapsed().as_secs_f64();
            assert!(c.result.is_ok() && s.result.is_ok());
            let why = client.plan().why(site, rows);
            println!("{ms:.1} ms, {} KB up, {} KB down. {why}", c.bytes() / 1000, s.bytes() / 1000);
        }
    }
}

//! The offline protocols equal their functionalities, at their declared costs.

use std::path::Path;
use std::sync::OnceLock;

use cryptogen_he::{MaskedCiphertext, Params, SecretKey, N};
use cryptogen_mpc::party::{Client, Party, Server};
use cryptogen_ot::ChannelError;
use cryptogen_ring::{Fp, Prg};

use super::channel::{run, run_spoiled, Fault, Ran, Tap};
use super::clear::Clear;
use super::cost::measured;
use super::dealer::insecure_deal;
use super::tiny::{build, tiny, Arch, Settings, Tiny, BOTH};
use super::{elements, ideal, rng};
use crate::endpoint::PARAMETERS;
use crate::error::{ProtocolError, Result};
use crate::offline::keys::PartyKeys;
use crate::offline::model::{self, EncryptedModel, Part};
use crate::offline::{cross, linear};
use crate::online::embed::{self, EmbedClient};
use crate::plan::Site;

/// Both parties' lattice keys.
pub fn keys() -> &'static (PartyKeys<Client>, PartyKeys<Server>) {
    static KEYS: OnceLock<(PartyKeys<Client>, PartyKeys<Server>)> = OnceLock::new();
    fn party<P: Party>(ch: &mut Tap) -> PartyKeys<P> {
        let (params, mut rng) = (Params::get(PARAMETERS), rng(100 + P::ROLE.index() as u8));
        let secret = SecretKey::generate(params, &mut rng);
        PartyKeys::exchange(ch, params, secret, &mut rng).expect("honest parties")
    }
    KEYS.get_or_init(|| {
        let (client, server) = run(party::<Client>, party::<Server>);
        (client.result, server.result)
    })
}

/// The real transfer of a model into a file; the client stops it at its first report unless it is to `go_on`.
fn transfer(tiny: &Tiny, path: &Path, mut rng: Prg, go_on: bool) -> (Ran<Result<()>>, Ran<Result<()>>) {
    let (plan, weights, part) = (&tiny.plan, &tiny.model, Part::Whole);
    run(
        |ch| model::receive(ch, plan, part, path, &mut |_, _, _| go_on),
        |ch| model::send(ch, &keys().1.mine, plan, part, weights, &mut rng, &mut |_, _, _| true),
    )
}

/// The client's copy of a model, made by the real transfer; its file is gone, only the open handle is left.
pub fn encrypted(tiny: &Tiny) -> EncryptedModel {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("model");
    let (client, server) = transfer(tiny, &path, rng(101), true);
    assert!(client.result.is_ok() && server.result.is_ok());
    assert_eq!(measured(&client, &server), model::cost(&tiny.plan, Part::Whole));
    EncryptedModel::open(&path, &tiny.plan, Part::Whole).expect("a whole model")
}

fn add(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

/// Several blocks of output rows and several columns in the head, several ciphertexts of the embedding, full-size weights.
fn wide() -> Tiny {
    build(&Settings { vocab: N + 8, weights: 1 << 15, ..Settings::of(Arch::Gpt) })
}

#[test]
fn linear_gives_shares_of_the_product() {
    for (tiny, sites) in [
        (tiny(Arch::Gpt), vec![Site::Qkv(0), Site::Down(1)]),
        (tiny(Arch::Llama), vec![Site::O(0), Site::Up(1), Site::Head]),
        (&wide(), vec![Site::Head, Site::O(1)]),
    ] {
        let model = encrypted(tiny);
        for (site, rows) in sites.into_iter().zip([3, 65, 1]) {
            let l = tiny.plan.linear(site);
            let (r, m) = (elements(&mut rng(7), rows * l.d_in), model.layout.site(site));
            let (params, (client_keys, server_keys)) = (keys().0.params, keys());
            let (client, server) = run(
                |ch| linear::client(ch, params, &client_keys.peer, &model, m, &r, &mut rng(8)),
                |ch| linear::server(ch, params, &server_keys.mine, m, rows),
            );
            assert_eq!(measured(&client, &server), linear::cost(m, rows));
            let y = add(&client.result.unwrap(), &server.result.unwrap());
            let expected: Vec<Fp> = r.chunks(l.d_in).flat_map(|r| ideal::multiply(tiny, site, r)).collect();
            assert!(y == expected, "{site:?}");
        }
    }
}

#[test]
fn embeddings_equal_the_clear_ones() {
    for (tiny, tokens) in
        [(tiny(Arch::Gpt), vec![0, 19, 7]), (tiny(Arch::Llama), vec![3]), (&wide(), vec![0, N, N + 7, 1024])]
    {
        let session = insecure_deal(tiny, 1, tokens.len(), 1, 41).remove(0);
        let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
        let model = encrypted(tiny);
        let from = EmbedClient { keys: &keys().0, model: &model };
        let (c, s) = run(
            |ch| client.embed(ch, &from, &tokens, 1, &mut rng(9)),
            |ch| server.embed(ch, &keys().1, &tiny.model, tokens.len(), 1),
        );
        assert_eq!(measured(&c, &s), embed::cost(tokens.len()));
        let sum = add(&c.result.unwrap().data, &s.result.unwrap().data);
        let mut clear = Clear::new(tiny, client.trace.insecure_take(), server.trace.insecure_take());
        assert_eq!(sum.iter().map(|x| x.to_i64()).collect::<Vec<_>>(), clear.embed(&tokens, 0));
        clear.finish();
    }
}

#[test]
fn bad_tokens_and_passes_are_refused() {
    let tiny = tiny(Arch::Gpt);
    let (session, model) = (insecure_deal(tiny, 1, 2, 1, 42).remove(0), encrypted(tiny));
    let from = EmbedClient { keys: &keys().0, model: &model };
    for (tokens, heads) in [(vec![20], 1), (vec![0], 2), (vec![0, 1], 2), (vec![0, 1, 2], 1), (vec![], 0)] {
        let mut client = session.online::<Client>(tiny);
        let (c, _) = run(|ch| client.embed(ch, &from, &tokens, heads, &mut rng(9)), |_| ());
        assert!(
            matches!(c.result, Err(ProtocolError::Short { .. } | ProtocolError::Shape { .. })),
            "{tokens:?}"
        );
        assert!(c.sent.is_empty());
    }
}

#[test]
fn cross_gives_shares_of_the_products() {
    for (n, terms) in [(1, 1), (N, 2), (N + 5, 1), (32 * N + 1, 1)] {
        let [x, y] = [1, 2].map(|seed| (0..terms).map(|_| elements(&mut rng(seed), n)).collect::<Vec<_>>());
        let (params, (client_keys, server_keys)) = (keys().0.params, keys());
        let (client, server) = run(
            |ch| cross::client(ch, params, &client_keys.mine, &x, &mut rng(3)),
            |ch| cross::server(ch, params, &server_keys.peer, &y, &mut rng(4)),
        );
        assert_eq!(measured(&client, &server), cross::cost(n, terms));
        let z = add(&client.result.unwrap(), &server.result.unwrap());
        let expected: Vec<Fp> = (0..n).map(|i| (0..terms).map(|t| x[t][i] * y[t][i]).sum()).collect();
        assert!(z == expected);
    }
}

#[test]
fn spoiled_offline_messages_are_errors() {
    let (tiny, (client_keys, server_keys)) = (tiny(Arch::Gpt), keys());
    let (params, model) = (client_keys.params, encrypted(tiny));
    let m = model.layout.site(Site::Qkv(0));
    let r = elements(&mut rng(1), m.d_in);
    for fault in [Fault::Truncate, Fault::Extend, Fault::Ones, Fault::Random, Fault::Hangup] {
        let spoiled = [Some((0, fault)), None];
        let (_, s) = run_spoiled(
            spoiled,
            |ch| linear::client(ch, params, &client_keys.peer, &model, m, &r, &mut rng(8)),
            |ch| linear::server(ch, params, &server_keys.mine, m, 1),
        );
        check_error("linear", fault, s.result.err());
        let both = [vec![r.clone()], vec![r.clone()]];
        let cross = |faults| {
            let (c, s) = run_spoiled(
                faults,
                |ch| cross::client(ch, params, &client_keys.mine, &both[0], &mut rng(3)),
                |ch| cross::server(ch, params, &server_keys.peer, &both[1], &mut rng(4)),
            );
            [c.result.err(), s.result.err()]
        };
        check_error("cross, client's", fault, cross(spoiled)[1].take());
        check_error("cross, server's", fault, cross([None, Some((0, fault))])[0].take());
        let secret = |seed| SecretKey::generate(params, &mut rng(seed));
        let (_, s) = run_spoiled(
            spoiled,
            |ch| PartyKeys::<Client>::exchange(ch, params, secret(1), &mut rng(1)),
            |ch| PartyKeys::<Server>::exchange(ch, params, secret(2), &mut rng(2)),
        );
        check_error("public key", fault, s.result.err());
        let session = insecure_deal(tiny, 1, 1, 1, 43).remove(0);
        let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
        let from = EmbedClient { keys: client_keys, model: &model };
        let (_, s) = run_spoiled(
            spoiled,
            |ch| client.embed(ch, &from, &[1], 1, &mut rng(9)),
            |ch| server.embed(ch, server_keys, &tiny.model, 1, 1),
        );
        check_error("embedding", fault, s.result.err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let (c, _) = run_spoiled(
            [None, Some((0, fault))],
            |ch| -> crate::Result<()> {
                model::receive(ch, &tiny.plan, Part::Whole, &path, &mut |_, _, _| true)?;
                EncryptedModel::open(&path, &tiny.plan, Part::Whole)?
                    .expanded(params, m, 0, 0..m.columns)
                    .map(|_| ())
            },
            |ch| {
                model::send(
                    ch,
                    &server_keys.mine,
                    &tiny.plan,
                    Part::Whole,
                    &tiny.model,
                    &mut rng(5),
                    &mut |_, _, _| true,
                )
            },
        );
        check_error("encrypted model", fault, c.result.err());
        assert!(!path.with_extension("partial").exists());
    }
}

/// The receiver's error: of the channel, of the lattice encryption; random bytes may also be well-formed.
pub fn check_error(what: &str, fault: Fault, error: Option<ProtocolError>) {
    let expected = match fault {
        Fault::Truncate | Fault::Extend => {
            matches!(error, Some(ProtocolError::Channel(ChannelError::Length { .. })))
        }
        Fault::Hangup => matches!(error, Some(ProtocolError::Channel(ChannelError::Closed))),
        Fault::Ones => matches!(error, Some(ProtocolError::He(_))),
        Fault::Random => matches!(error, None | Some(ProtocolError::He(_))),
    };
    assert!(expected, "{what}, {fault:?}: {error:?}");
}

#[test]
fn offline_transcripts_are_reproducible() {
    let (tiny, (client_keys, server_keys)) = (tiny(Arch::Llama), keys());
    let (params, model) = (client_keys.params, encrypted(tiny));
    let m = model.layout.site(Site::Qkv(0));
    let r = elements(&mut rng(1), 2 * m.d_in);
    let (linear, _) = run(
        |ch| linear::client(ch, params, &client_keys.peer, &model, m, &r, &mut rng(8)),
        |ch| linear::server(ch, params, &server_keys.mine, m, 2),
    );
    let (client, server) = run(
        |ch| cross::client(ch, params, &client_keys.mine, std::slice::from_ref(&r), &mut rng(3)),
        |ch| cross::server(ch, params, &server_keys.peer, std::slice::from_ref(&r), &mut rng(4)),
    );
    assert_eq!(linear.bytes(), 2 * MaskedCiphertext::BYTES);
    assert_eq!(
        [linear.hash(), client.hash(), server.hash()],
        ["45af635e8382a16a", "a90c5d4664cc03e4", "19f81071c6cb63a1"]
    );
}

#[test]
fn interrupted_transfers_leave_no_file() {
    let (tiny, dir) = (tiny(BOTH[0]), tempfile::tempdir().unwrap());
    let path = dir.path().join("model");
    let (client, _) = transfer(tiny, &path, rng(5), false);
    assert!(matches!(client.result, Err(ProtocolError::Interrupted)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

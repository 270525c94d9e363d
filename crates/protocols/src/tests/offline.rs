//! The offline protocols equal their functionalities, at their declared costs.

use std::path::Path;
use std::sync::OnceLock;

use cryptogen_he::{MaskedCiphertext, Params, SecretKey, N};
use cryptogen_party::{ChannelError, Client, MessageError, Party, Server};
use cryptogen_ring::{Fp, Prg};

use super::channel::{measured, run, run_spoiled, Fault, Ran, Tap};
use super::clear::Clear;
use super::dealer::insecure_deal;
use super::tiny::{build, tiny, Arch, Settings, Tiny, BOTH};
use super::{elements, ideal, rng};
use crate::endpoint::PARAMETERS;
use crate::error::{ProtocolError, Result};
use crate::material::packing::Packed;
use crate::material::{EncryptedModel, Part, PartyKeys};
use crate::model::Site;
use crate::offline::model;
use crate::offline::{cross, linear};
use crate::online::embed::{self, EmbedClient};

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

/// The real transfer of a model into a file; the client stops it at its first report unless it is
/// to `go_on`.
fn transfer(tiny: &Tiny, path: &Path, mut rng: Prg, go_on: bool) -> (Ran<Result<()>>, Ran<Result<()>>) {
    let (plan, weights, part) = (&tiny.plan, &tiny.model, Part::Whole);
    run(
        |ch| model::receive(ch, plan, part, path, &mut |_, _, _| go_on),
        |ch| model::send(ch, &keys().1.mine, plan, part, weights, &mut rng, &mut |_, _, _| true),
    )
}

/// The client's copy of a model, made by the real transfer; its file is gone, only the open handle
/// is left.
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

/// Several groups in the head, several ciphertexts of the embedding, full-size weights.
fn wide() -> Tiny {
    build(&Settings { vocab: N + 8, weights: 1 << 15, ..Settings::of(Arch::Gpt) })
}

#[test]
fn linear_gives_shares_of_the_product() {
    for (tiny, rows) in [(tiny(Arch::Gpt), 3), (tiny(Arch::Llama), 65), (&wide(), 2)] {
        let (plan, model) = (&tiny.plan, encrypted(tiny));
        let input = |site: Site| elements(&mut rng(site.index(9) as u8), rows * plan.linear(site).d_in);
        for packed in [&model.layout.layers, &model.layout.head] {
            let (client, server, groups) = linear_layers(&model, packed, rows, input);
            assert_eq!(groups, [packed.groups.len() as u64; 2]);
            assert_eq!(measured(&client, &server), linear::cost(packed, rows));
            let y = add(&client.result.unwrap(), &server.result.unwrap());
            for site in (0..plan.model.layers).flat_map(Site::of_layer).chain([Site::Head]) {
                let (place, d_in) = (packed.place(site), plan.linear(site).d_in);
                for (y, r) in y.chunks(packed.width()).zip(input(site).chunks(d_in)) {
                    assert!(
                        place.is_empty() || y[place.clone()] == ideal::multiply(tiny, site, r),
                        "{site:?}"
                    );
                }
            }
        }
    }
}

type Shares = Ran<Result<Vec<Fp>>>;

/// Both parties' shares of some matrices, and how many groups each reported.
fn linear_layers(
    model: &EncryptedModel,
    packed: &Packed,
    rows: usize,
    input: impl FnMut(Site) -> Vec<Fp> + Send,
) -> (Shares, Shares, [u64; 2]) {
    let (client_keys, server_keys) = keys();
    let (params, mut groups) = (client_keys.params, [0; 2]);
    let [c, s] = &mut groups;
    let from = linear::ClientSide { params, server_key: &client_keys.peer, model };
    let (client, server) = run(
        |ch| {
            linear::client(ch, &from, packed, rows, input, &mut rng(8), |n| {
                *c = n;
                Ok(())
            })
        },
        |ch| {
            linear::server(ch, params, &server_keys.mine, packed, rows, |n| {
                *s = n;
                Ok(())
            })
        },
    );
    (client, server, groups)
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
            matches!(c.result, Err(ProtocolError::Short { .. } | ProtocolError::Caller { .. })),
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
            |ch| cross::client(ch, &client_keys.mine, &x, &mut rng(3)),
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
    let (packed, r) = (&model.layout.layers, elements(&mut rng(1), N));
    let from = linear::ClientSide { params, server_key: &client_keys.peer, model: &model };
    for fault in [Fault::Truncate, Fault::Extend, Fault::Ones, Fault::Random, Fault::Hangup] {
        let spoiled = [Some((0, fault)), None];
        let (_, s) = run_spoiled(
            spoiled,
            |ch| linear::client(ch, &from, packed, 1, |_| r.clone(), &mut rng(8), |_| Ok(())),
            |ch| linear::server(ch, params, &server_keys.mine, packed, 1, |_| Ok(())),
        );
        check_error("linear", fault, s.result.err());
        let both = [vec![r.clone()], vec![r.clone()]];
        let cross = |faults| {
            let (c, s) = run_spoiled(
                faults,
                |ch| cross::client(ch, &client_keys.mine, &both[0], &mut rng(3)),
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
                    .read(params, packed.groups[0].layout(), 0..1)
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
        // The client looks at a ciphertext when it uses it: then it is in a file, which is named.
        let in_file = matches!(fault, Fault::Ones | Fault::Random);
        match c.result.err() {
            Some(ProtocolError::Corrupt { file, .. }) if in_file => assert_eq!(file, path),
            error => {
                assert_ne!(fault, Fault::Ones);
                check_error("encrypted model", fault, error);
            }
        }
        assert!(!path.with_extension("new").exists());
    }
}

/// The receiver's error: of the channel, of the lattice encryption; random bytes may also be
/// well-formed.
pub fn check_error(what: &str, fault: Fault, error: Option<ProtocolError>) {
    let expected = match fault {
        Fault::Truncate | Fault::Extend => {
            matches!(error, Some(ProtocolError::Channel(ChannelError::Message(MessageError::Length { .. }))))
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
    let packed = &model.layout.layers;
    let (linear, ..) = linear_layers(&model, packed, 2, |_| elements(&mut rng(1), N));
    let r = elements(&mut rng(1), 2 * tiny.plan.linear(Site::Qkv(0)).d_in);
    let (client, server) = run(
        |ch| cross::client(ch, &client_keys.mine, std::slice::from_ref(&r), &mut rng(3)),
        |ch| cross::server(ch, params, &server_keys.peer, std::slice::from_ref(&r), &mut rng(4)),
    );
    assert_eq!(linear.bytes(), packed.groups.len() * 2 * MaskedCiphertext::BYTES);
    assert_eq!(
        [linear.hash(), client.hash(), server.hash()],
        ["a7f6589ec902bb93", "a90c5d4664cc03e4", "ab3db30907474746"]
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

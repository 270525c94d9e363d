//! Online steps over dealt material equal the clear integers.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use cryptogen_party::{Client, Server};
use cryptogen_ring::Fp;

use super::channel::run;
use super::clear::Clear;
use super::dealer::{insecure_deal, material, Session};
use super::steps::{run_step, Out, Step};
use super::tiny::{tiny, Arch, Tiny, BOTH};
use super::{elements, integers, rng};
use crate::error::ProtocolError;
use crate::material::{hi_shape, RowMaterial};
use crate::model::Site;
use crate::online::{Online, Turn};
use crate::share::{Kind, Tensor};

const ROWS: usize = 4;

/// Four rows and the logits of four, dealt once per architecture.
pub fn session(arch: Arch) -> &'static Session {
    static DEALT: [OnceLock<Session>; 2] = [const { OnceLock::new() }; 2];
    DEALT[arch as usize].get_or_init(|| insecure_deal(tiny(arch), 1, ROWS, ROWS, 40).remove(0))
}

fn oracle<'a>(tiny: &'a Tiny, client: &mut Online<Client>, server: &mut Online<Server>) -> Clear<'a> {
    Clear::new(tiny, client.trace.insecure_take(), server.trace.insecure_take())
}

/// What both parties' shares of range events add up to: of the active rows, and of those before
/// that nobody sampled.
pub fn events(client: &Online<Client>, server: &Online<Server>) -> (Vec<u64>, u64) {
    let ((c, c_pending), (s, s_pending)) = (client.insecure_events(), server.insecure_events());
    (c.iter().zip(&s).map(|(c, s)| (*c + *s).0).collect(), (c_pending + s_pending).0)
}

/// `r' + (x − r')` of a site's input.
fn opened(session: &Session, layers: usize, site: Site, first: usize, x: &Tensor<Server>) -> Vec<i64> {
    let mask = |i: usize| match site {
        Site::Head => &session.heads[i],
        _ => &session.known[first + i].inputs[site.index(layers)],
    };
    (0..x.rows())
        .flat_map(|i| mask(i).iter().zip(x.row(i)).map(|(r, x)| (*r + *x).to_i64()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn norms_equal_the_clear_function() {
    for arch in BOTH {
        let (tiny, session) = (tiny(arch), session(arch));
        let layers = tiny.plan.model.layers;
        let sites = (0..layers).flat_map(|l| [Site::Qkv(l), Site::Up(l)]).chain([Site::Head]);
        for (n, site) in sites.enumerate() {
            let step = Step::Norm(site);
            let x = integers(&mut rng(n as u8), ROWS * step.width(tiny), step.bound(arch));
            let (mut client, mut server) = session.active(tiny, 0..ROWS);
            let shares = step.share(tiny, session, 0..ROWS, &x);
            let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
            assert!(matches!(c.result, Ok(Out::Tensor(t)) if t.rows() == ROWS));
            let mut clear = oracle(tiny, &mut client, &mut server);
            let x_hat = clear.norm(&x, site);
            clear.check_input(site, &x_hat, &opened(session, layers, site, 0, &s.result.unwrap().unwrap()));
            clear.finish();
            assert_eq!(events(&client, &server), (clear.events, 0));
        }
    }
}

#[test]
fn a_final_norm_of_the_last_rows_uses_their_material() {
    let (tiny, session, step) = (tiny(Arch::Llama), session(Arch::Llama), Step::Norm(Site::Head));
    let x = integers(&mut rng(9), 2 * step.width(tiny), step.bound(Arch::Llama));
    let (mut client, mut server) = session.active(tiny, 0..ROWS);
    client.logits_now.truncate(2);
    server.logits_now.truncate(2);
    let shares = step.share(tiny, session, ROWS - 2..ROWS, &x);
    let (_, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
    let mut clear = oracle(tiny, &mut client, &mut server);
    let x_hat = clear.norm(&x, Site::Head);
    clear.check_input(Site::Head, &x_hat, &opened(session, 2, Site::Head, 0, &s.result.unwrap().unwrap()));
    clear.finish();
    assert_eq!(events(&client, &server), ([vec![0; 2], clear.events].concat(), 0));
}

#[test]
fn activations_equal_the_clear_function() {
    for (arch, layer) in [(Arch::Gpt, 0), (Arch::Gpt, 1), (Arch::Llama, 0), (Arch::Llama, 1)] {
        let (tiny, session, step) = (tiny(arch), session(arch), Step::Activation(layer));
        let x = integers(&mut rng(20 + layer as u8), ROWS * step.width(tiny), step.bound(arch));
        let (mut client, mut server) = session.active(tiny, 0..ROWS);
        let shares = step.share(tiny, session, 0..ROWS, &x);
        let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
        assert!(c.result.is_ok());
        let mut clear = oracle(tiny, &mut client, &mut server);
        let x_hat = clear.activation(&x, layer);
        let site = Site::Down(layer);
        clear.check_input(
            site,
            &x_hat,
            &opened(session, tiny.plan.model.layers, site, 0, &s.result.unwrap().unwrap()),
        );
        clear.finish();
        assert_eq!(events(&client, &server), (clear.events, 0));
    }
}

#[test]
fn attention_equals_the_clear_function() {
    // Row 0 alone, a prompt, and rows that are added to a cache.
    for (arch, layer) in [(Arch::Gpt, 0), (Arch::Llama, 0), (Arch::Llama, 1)] {
        for cuts in [vec![0, 1, 2, 4], vec![0, 4], vec![0, 3, 4]] {
            let (tiny, session, step) = (tiny(arch), session(arch), Step::Attention(layer));
            let width = step.width(tiny);
            let x = integers(&mut rng(30), ROWS * width, step.bound(arch));
            let (mut client, mut server) = (session.online(tiny), session.online(tiny));
            let (mut inputs, mut counted) = (vec![], vec![]);
            for cut in cuts.windows(2) {
                let rows = cut[0]..cut[1];
                client.active = client.ready.drain(..rows.len()).collect();
                server.active = server.ready.drain(..rows.len()).collect();
                let shares =
                    step.share(tiny, session, rows.clone(), &x[rows.start * width..rows.end * width]);
                let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
                assert!(c.result.is_ok());
                counted.push((events(&client, &server).0, 0));
                inputs.push(opened(
                    session,
                    tiny.plan.model.layers,
                    Site::O(layer),
                    rows.start,
                    &s.result.unwrap().unwrap(),
                ));
            }
            let mut clear = oracle(tiny, &mut client, &mut server);
            for ((cut, input), counted) in cuts.windows(2).zip(inputs).zip(counted) {
                let x_hat = clear.attention(&x[cut[0] * width..cut[1] * width], layer, cut[0]);
                clear.check_input(Site::O(layer), &x_hat, &input);
                assert_eq!(counted, (std::mem::take(&mut clear.events), 0));
            }
            clear.finish();
        }
    }
}

#[test]
fn exponentials_are_used_once() {
    let (arch, step) = (Arch::Gpt, Step::Attention(0));
    let (tiny, session) = (tiny(arch), session(arch));
    let x = integers(&mut rng(31), 2 * step.width(tiny), step.bound(arch));
    let shares = || step.share(tiny, session, 0..2, &x);
    let (mut client, mut server) = session.active(tiny, 0..2);
    let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares());
    assert!(c.result.is_ok() && s.result.is_ok());
    // Each party again, as if it were the step's turn once more, with a peer whose material is
    // there.
    let (mut fresh_client, mut fresh_server) = session.active(tiny, 0..2);
    let (c, _) = run_step(tiny, step, [None, None], (&mut client, &mut fresh_server), shares());
    assert!(matches!(c.result.err(), Some(ProtocolError::Spent { what: "exponentials" })));
    assert!(c.sent.is_empty());
    let (_, s) = run_step(tiny, step, [None, None], (&mut fresh_client, &mut server), shares());
    assert!(matches!(s.result.err(), Some(ProtocolError::Spent { what: "exponentials" })));
    assert!(s.sent.is_empty());
}

#[test]
fn linear_layers_and_logits_equal_the_clear_function() {
    for arch in BOTH {
        let (tiny, session) = (tiny(arch), session(arch));
        let layers = tiny.plan.model.layers;
        for site in (0..layers).flat_map(Site::of_layer) {
            let l = tiny.plan.linear(site);
            let x = integers(&mut rng(50), ROWS * l.d_in, 1 << 30);
            let server_x = (0..ROWS).flat_map(|i| {
                let r = &session.known[i].inputs[site.index(layers)];
                x[i * l.d_in..].iter().zip(r).map(|(x, r)| Fp::from_i64(*x) - *r).collect::<Vec<_>>()
            });
            let (mut client, mut server) = session.active(tiny, 0..ROWS);
            (client.turn, server.turn) = (Some(Turn::Linear(site)), Some(Turn::Linear(site)));
            let server_x = Tensor::new(Kind::Input(site), ROWS, server_x.collect());
            let client_x = Tensor::new(Kind::Input(site), ROWS, vec![]);
            let (y_c, y_s) = run(
                |ch| client.linear(ch, &client_x, site).unwrap(),
                |ch| server.linear(ch, &tiny.model, &server_x, site).unwrap(),
            );
            assert!(y_c.sent.is_empty() && y_s.sent.is_empty(), "no message");
            let (y_c, y_s) = (y_c.result, y_s.result);
            let mut clear = oracle(tiny, &mut client, &mut server);
            // the truncation that the input stands for: any x̂ that it could have come from
            let x_hat: Vec<i64> = x.iter().enumerate().map(|(i, x)| x << l.in_shift[i % l.d_in]).collect();
            let y = clear.linear(&x_hat, site);
            clear.finish();
            assert_eq!(
                y,
                y_c.data.iter().zip(y_s.data.iter()).map(|(c, s)| (*c + *s).to_i64()).collect::<Vec<_>>()
            );
        }
        let x = integers(&mut rng(51), ROWS * tiny.plan.model.d, 1 << 30);
        let (mut client, mut server) = session.active(tiny, 0..ROWS);
        let shares = Step::Logits.share(tiny, session, 0..ROWS, &x);
        let (c, s) = run_step(tiny, Step::Logits, [None, None], (&mut client, &mut server), shares);
        assert!(s.result.is_ok());
        let mut clear = oracle(tiny, &mut client, &mut server);
        let x_hat: Vec<i64> = x.iter().map(|x| x << tiny.plan.linear(Site::Head).in_shift[0]).collect();
        assert!(matches!(c.result, Ok(Out::Logits(y)) if y == (clear.logits(&x_hat), vec![0; ROWS])));
        clear.finish();
    }
}

#[test]
fn the_wrong_operand_is_refused() {
    let (tiny, session) = (tiny(Arch::Gpt), session(Arch::Gpt));
    fn refused<T>(result: crate::Result<T>) {
        assert!(matches!(result, Err(ProtocolError::Caller { .. })));
    }
    let wrong =
        |rows: usize| Tensor::<Client>::new(Kind::Output(Site::O(0)), rows, elements(&mut rng(1), rows * 8));
    let hidden = |rows: usize| Tensor::<Client>::new(Kind::Hidden, rows, elements(&mut rng(1), rows * 8));
    let outcome = run(
        |ch| {
            let mut client = session.active(tiny, 0..2).0;
            refused(client.norm(ch, &wrong(2), Site::Qkv(0)));
            refused(client.norm(ch, &hidden(3), Site::Qkv(0)));
            refused(client.attention(ch, &wrong(2), 0));
            refused(client.activation(ch, &wrong(2), 0));
            refused(client.linear(ch, &wrong(2), Site::Qkv(0)));
            refused(client.linear(ch, &wrong(2), Site::Head));
            refused(client.logits(ch, &wrong(2)));
            refused(hidden(2).add(&wrong(3)));
            refused(hidden(2).add(&hidden(2)));
            refused(wrong(2).add(&wrong(2)));
        },
        |_| (),
    );
    assert!(outcome.0.sent.is_empty(), "nothing is sent before the operand is checked");
}

#[test]
fn damaged_and_spent_material_are_told_apart() {
    let tiny = tiny(Arch::Gpt);
    let (plan, layout) = (&tiny.plan, &tiny.layout);
    let file: Arc<Path> = Path::new("rows.records").into();
    let whole = |byte: u8| material::<Client>(tiny, &vec![byte; layout.record_bytes()], &file);
    let corrupt = |error: Option<ProtocolError>| {
        assert!(matches!(&error, Some(ProtocolError::Corrupt { file: f, .. }) if **f == *file), "{error:?}");
    };
    let spent = |error: Option<ProtocolError>| {
        assert!(matches!(error, Some(ProtocolError::Spent { .. })), "{error:?}");
    };
    let (shape, at) = (hi_shape(&plan.norms[0].scalar), layout.norm_tables(0).hi);
    // Numbers above the modulus, and indices outside of every table.
    let mut damaged = whole(0xff);
    corrupt(damaged.words(layout.linear(Site::Qkv(0)), 1).err());
    corrupt(damaged.table(shape, at, 0).err());
    spent(damaged.table(shape, at, 0).err());
    let keys = damaged.activation_keys(layout, plan, 0).expect("keys that nobody has looked at");
    corrupt(keys.parse(&keys.bytes()[..keys.stride()]).err());
    spent(damaged.activation_keys(layout, plan, 0).err());
    // Zeros are what the store leaves of a record that was taken.
    spent(whole(0).table(shape, at, 0).err());
    spent(whole(0).activation_keys(layout, plan, 0).err());
    // A step has its own material, and that of the step before is gone.
    let (first, second) = (layout.linear(Site::Qkv(0)), layout.norm_square(0));
    let mut in_steps = whole(1);
    assert!(in_steps.look(first, plan.linear(Site::Qkv(0)).d_out).is_ok());
    in_steps.turn_to(&[first]).unwrap();
    assert!(in_steps.words(first, 1).is_ok());
    in_steps.turn_to(&[second]).unwrap();
    assert!(in_steps.words(second, 1).is_ok() && in_steps.words(first, 1).is_err());
    spent(in_steps.look(first, 1).err());
    in_steps.turn_to(&[]).unwrap();
    spent(in_steps.table(shape, at, 0).err());
    // The layout gives the pieces of a record: fewer are a bug.
    let fewer = RowMaterial::<Client>::from_pieces(layout, vec![]).err();
    assert!(matches!(fewer, Some(ProtocolError::Bug { .. })));
}

//! The online steps as values, so that one loop can test them all.

use std::ops::Range;

use cryptogen_party::{Client, Server};
use cryptogen_ring::Fp;

use super::channel::{run_spoiled, Fault, Ran};
use super::dealer::Session;
use super::tiny::{Arch, Tiny};
use crate::error::Result;
use crate::model::Site;
use crate::online::{Online, Turn};
use crate::share::{Kind, Tensor};

/// An interactive step over prepared rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Norm(Site),
    Attention(usize),
    Activation(usize),
    Logits,
}

/// One of each kind that differs.
pub const STEPS: [Step; 6] = [
    Step::Norm(Site::Qkv(0)),
    Step::Attention(0),
    Step::Norm(Site::Up(1)),
    Step::Activation(1),
    Step::Norm(Site::Head),
    Step::Logits,
];

impl Step {
    /// Messages of the server and of the client.
    pub fn messages(self) -> [usize; 2] {
        match self {
            Step::Norm(_) => [2, 2],
            Step::Attention(_) => [3, 3],
            Step::Activation(_) => [1, 1],
            Step::Logits => [0, 1],
        }
    }

    /// Values per row that go in.
    pub fn width(self, tiny: &Tiny) -> usize {
        let m = &tiny.plan.model;
        match self {
            Step::Norm(_) | Step::Logits => m.d,
            Step::Attention(_) => m.q_dim() + 2 * m.kv_dim(),
            Step::Activation(_) => m.up_dim(),
        }
    }

    /// Bound of the tests' inputs, so that nothing in the step comes near p and scores lie in their
    /// windows.
    pub fn bound(self, arch: Arch) -> i64 {
        match self {
            Step::Norm(_) => 1 << 18,
            Step::Attention(_) => 1 << 12,
            Step::Activation(_) => 1 << if arch == Arch::Llama { 17 } else { 20 },
            Step::Logits => 1 << 30,
        }
    }

    /// Its turn in a pass.
    pub fn turn(self) -> Turn {
        match self {
            Step::Norm(site) => Turn::Norm(site),
            Step::Attention(l) => Turn::Attention(l),
            Step::Activation(l) => Turn::Activation(l),
            Step::Logits => Turn::Logits,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Step::Norm(_) => Kind::Hidden,
            Step::Attention(l) => Kind::Output(Site::Qkv(l)),
            Step::Activation(l) => Kind::Output(Site::Up(l)),
            Step::Logits => Kind::Input(Site::Head),
        }
    }

    /// Shares of clear inputs `[T, width]`: the client's is what its material dictates.
    pub fn share(
        self,
        tiny: &Tiny,
        session: &Session,
        rows: Range<usize>,
        x: &[i64],
    ) -> (Tensor<Client>, Tensor<Server>) {
        let layers = tiny.plan.model.layers;
        let known: Vec<Fp> = match self {
            Step::Norm(site) => {
                let norm = tiny.plan.norm_before(site).expect("a norm");
                session.known[rows.clone()].iter().flat_map(|k| k.norms[norm].clone()).collect()
            }
            Step::Attention(l) => outputs(session, rows.clone(), Site::Qkv(l).index(layers)),
            Step::Activation(l) => outputs(session, rows.clone(), Site::Up(l).index(layers)),
            Step::Logits => session.heads[..rows.len()].concat(),
        };
        assert_eq!(known.len(), x.len());
        let server = x.iter().zip(&known).map(|(x, c)| Fp::from_i64(*x) - *c).collect();
        let client = if self == Step::Logits { vec![] } else { known };
        (Tensor::new(self.kind(), rows.len(), client), Tensor::new(self.kind(), rows.len(), server))
    }
}

fn outputs(session: &Session, rows: Range<usize>, site: usize) -> Vec<Fp> {
    session.known[rows].iter().flat_map(|k| k.outputs[site].clone()).collect()
}

/// What the client gets out of a step.
pub enum Out {
    Tensor(Tensor<Client>),
    Logits((Vec<i64>, Vec<u64>)),
}

/// The client's outcome of a step.
pub type ClientRan = Ran<Result<Out>>;
/// The server's: the next input, or nothing after the logits.
pub type ServerRan = Ran<Result<Option<Tensor<Server>>>>;

/// Runs a step on both sides over `Online` states that have their rows in progress, as if it were
/// its turn.
pub fn run_step(
    tiny: &Tiny,
    step: Step,
    faults: [Option<(usize, Fault)>; 2],
    (client, server): (&mut Online<Client>, &mut Online<Server>),
    (x_c, x_s): (Tensor<Client>, Tensor<Server>),
) -> (ClientRan, ServerRan) {
    (client.turn, server.turn) = (Some(step.turn()), Some(step.turn()));
    run_spoiled(
        faults,
        |ch| match step {
            Step::Norm(site) => client.norm(ch, &x_c, site).map(Out::Tensor),
            Step::Attention(l) => client.attention(ch, &x_c, l).map(Out::Tensor),
            Step::Activation(l) => client.activation(ch, &x_c, l).map(Out::Tensor),
            Step::Logits => client.logits(ch, &x_c).map(Out::Logits),
        },
        |ch| match step {
            Step::Norm(site) => server.norm(ch, &x_s, site).map(Some),
            Step::Attention(l) => server.attention(ch, &x_s, l).map(Some),
            Step::Activation(l) => server.activation(ch, &x_s, l).map(Some),
            Step::Logits => server.logits(ch, &tiny.model, &x_s).map(|()| None),
        },
    )
}

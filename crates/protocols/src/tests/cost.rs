//! Measured messages and bytes equal the declarations. (The offline protocols are measured where
//! they are tested.)

use super::channel::measured;
use super::online::session;
use super::steps::{run_step, Step, STEPS};
use super::tiny::{tiny, Tiny, BOTH};
use super::{integers, rng};
use crate::online::{activation, attention, logits, norm};
use crate::share::Cost;

fn declared(tiny: &Tiny, step: Step, rows: std::ops::Range<usize>) -> Cost {
    let plan = &tiny.plan;
    match step {
        Step::Norm(site) => norm::cost(plan, plan.norm_before(site).expect("a norm"), rows.len()),
        Step::Attention(l) => attention::cost(plan, l, rows),
        Step::Activation(_) => activation::cost(plan, rows.len()),
        Step::Logits => logits::cost(plan, rows.len()),
    }
}

#[test]
fn online_costs_are_the_declared_ones() {
    for arch in BOTH {
        let (tiny, session) = (tiny(arch), session(arch));
        for step in STEPS {
            for rows in [0..1, 0..4] {
                let x = integers(&mut rng(3), rows.len() * step.width(tiny), step.bound(arch));
                let (mut client, mut server) = session.active(tiny, rows.clone());
                client.logits_now.truncate(rows.len());
                server.logits_now.truncate(rows.len());
                let shares = step.share(tiny, session, rows.clone(), &x);
                let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
                assert!(c.result.is_ok() && s.result.is_ok());
                assert_eq!(measured(&c, &s), declared(tiny, step, rows), "{arch:?} {step:?}");
                assert_eq!([c.sent.len(), s.sent.len()], step.messages());
            }
        }
    }
}

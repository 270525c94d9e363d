//! ARCC: products of ciphertexts for attention, on the cache's layout.
//!
//! Source: CryptoGen (arXiv 2602.08798), ARCC kernels. One code for its four kernels:
//! - inner–inner `q·Kᵀ` and matrix–matrix `Q·Kᵀ`: [`scores`], one output per product,
//!   `Σ_packs rot_{−Gg}(Q) ⊙ rot_b(K)`; adding up a head's features is left to the shares, where it
//!   is free (decision 0009);
//! - inner–outer `P·V` and matrix–matrix: [`values`], one output per (member, giant step, pack),
//!   `Σ_{blocks, b} P_{G,b} ⊙ rot_b(V)`, scaled and relinearised once.
//!
//! Rotations of one ciphertext are hoisted. Cached ciphertexts are left operands, which are the
//! cheaper ones to prepare, because there are more of them. Where whole rows or diagonals meet is
//! the business of [`Schedule`].

use cryptogen_he::evaluate::{Ciphertext, Evaluator, Left, Right};
use cryptogen_protocols::{ProtocolError, Result};
use rayon::prelude::*;

use super::schedule::{Message, Product, Schedule};

/// What the kernels need of an encryption scheme. The tests' twin computes on clear slots.
pub trait SlotArithmetic: Sync {
    /// A ciphertext, or what stands for one.
    type Ciphertext: Send + Sync;
    /// A left operand of products, the cheaper one to prepare.
    type Left: Send + Sync;
    /// A right operand of products.
    type Right: Send + Sync;

    /// Rotations of one ciphertext by each of `steps`; 0 is a copy.
    fn rotations(&self, ct: &Self::Ciphertext, steps: &[usize]) -> Result<Vec<Self::Ciphertext>>;
    /// Prepares a left operand.
    fn left(&self, ct: &Self::Ciphertext) -> Self::Left;
    /// Prepares a right operand.
    fn right(&self, ct: &Self::Ciphertext) -> Self::Right;
    /// `Σ left ⊙ right`.
    fn dot(&self, pairs: &[(&Self::Left, &Self::Right)]) -> Result<Self::Ciphertext>;
}

impl SlotArithmetic for Evaluator<'_> {
    type Ciphertext = Ciphertext;
    type Left = Left;
    type Right = Right;

    fn rotations(&self, ct: &Ciphertext, steps: &[usize]) -> Result<Vec<Ciphertext>> {
        match steps {
            [] | [0] => return Ok(vec![ct.clone(); steps.len()]),
            [step] => return Ok(vec![self.rotate(ct, *step)?]),
            _ => {}
        }
        let hoisted = self.hoist(ct);
        steps.par_iter().map(|step| Ok(hoisted.rotate(*step)?)).collect()
    }

    fn left(&self, ct: &Ciphertext) -> Left {
        Evaluator::left(self, ct)
    }

    fn right(&self, ct: &Ciphertext) -> Right {
        Evaluator::right(self, ct)
    }

    fn dot(&self, pairs: &[(&Left, &Right)]) -> Result<Ciphertext> {
        Ok(Evaluator::dot(self, pairs)?)
    }
}

/// Operands of a window of cached blocks, `[block][baby][pack]`.
pub struct Cached<L>(Vec<Vec<Vec<L>>>);

/// Operands of a query, `[member][giant][pack]`.
pub struct Queried<R>(Vec<Vec<Vec<R>>>);

fn missing() -> ProtocolError {
    ProtocolError::bug("operands of a message of products", "one for every product", "fewer")
}

/// Rotates the ciphertexts `[pack]` of every block of a window by the baby steps.
///
/// # Errors
/// Missing keys.
pub fn cached<S: SlotArithmetic>(
    s: &S,
    schedule: &Schedule,
    blocks: &[Vec<S::Ciphertext>],
) -> Result<Cached<S::Left>> {
    let steps = schedule.baby_steps();
    let one = |block: &Vec<S::Ciphertext>| rotated(s, block, &steps, |ct| s.left(ct));
    Ok(Cached(blocks.par_iter().map(one).collect::<Result<_>>()?))
}

/// Rotates the ciphertexts `[member][pack]` of a query by the giant steps.
///
/// # Errors
/// Missing keys.
pub fn queried<S: SlotArithmetic>(
    s: &S,
    schedule: &Schedule,
    query: &[S::Ciphertext],
) -> Result<Queried<S::Right>> {
    let steps = schedule.giant_steps();
    let members = query.par_chunks(schedule.layout.packs());
    Ok(Queried(members.map(|m| rotated(s, m, &steps, |ct| s.right(ct))).collect::<Result<_>>()?))
}

/// `[step][pack]` operands of ciphertexts `[pack]`.
fn rotated<S: SlotArithmetic, T: Send>(
    s: &S,
    packs: &[S::Ciphertext],
    steps: &[usize],
    operand: impl Fn(&S::Ciphertext) -> T + Sync,
) -> Result<Vec<Vec<T>>> {
    let by_pack: Vec<Vec<T>> = packs
        .par_iter()
        .map(|ct| Ok(s.rotations(ct, steps)?.par_iter().map(&operand).collect()))
        .collect::<Result<_>>()?;
    let mut by_step: Vec<Vec<T>> = steps.iter().map(|_| Vec::with_capacity(packs.len())).collect();
    for operands in by_pack {
        by_step.iter_mut().zip(operands).for_each(|(out, operand)| out.push(operand));
    }
    Ok(by_step)
}

/// One ciphertext of scores per product of the message; `first`: first block of the window.
///
/// # Errors
/// Operands that do not belong to the message.
pub fn scores<S: SlotArithmetic>(
    s: &S,
    message: &Message,
    first: usize,
    query: &Queried<S::Right>,
    cached: &Cached<S::Left>,
) -> Result<Vec<S::Ciphertext>> {
    let one = |p: &Product| {
        let right = query.0.get(p.member).and_then(|m| m.get(p.giant)).ok_or_else(missing)?;
        let left = cached.0.get(p.block - first).and_then(|b| b.get(p.baby)).ok_or_else(missing)?;
        s.dot(&left.iter().zip(right).collect::<Vec<_>>())
    };
    message.products.par_iter().map(one).collect()
}

/// One ciphertext of values per [`Message::outputs`] and pack, from one ciphertext of weights per
/// product.
///
/// # Errors
/// Operands that do not belong to the message.
pub fn values<S: SlotArithmetic>(
    s: &S,
    message: &Message,
    first: usize,
    weights: &[S::Ciphertext],
    cached: &Cached<S::Left>,
    packs: usize,
) -> Result<Vec<S::Ciphertext>> {
    let weights: Vec<S::Right> = weights.par_iter().map(|ct| s.right(ct)).collect();
    let outputs: Vec<(usize, usize, usize)> =
        message.outputs().into_iter().flat_map(|(m, g)| (0..packs).map(move |p| (m, g, p))).collect();
    let one = |&(member, giant, pack): &(usize, usize, usize)| {
        let mine = |(p, _): &(&Product, _)| p.member == member && p.giant == giant;
        let pairs = message.products.iter().zip(&weights).filter(mine).map(|(p, right)| {
            let block = cached.0.get(p.block - first).and_then(|b| b.get(p.baby));
            Ok((block.and_then(|b| b.get(pack)).ok_or_else(missing)?, right))
        });
        s.dot(&pairs.collect::<Result<Vec<_>>>()?)
    };
    outputs.par_iter().map(one).collect()
}

//! What a plan must fulfil beyond its shape: shifts, lengths and sizes of tables.

use cryptogen_ring::exponential::{MANTISSA_BITS, MAX_PRIMES, MODULUS_BITS};

use super::plan::{Activation, Head, Plan, Scalar, MAX_END, MAX_ENTRY, MAX_SHIFT};
use crate::error::PlanError;

/// Most windows of a layer's activations.
const MAX_WINDOWS: usize = 64;
/// Bits that the shares of an exponential are longer than its weight's shift: those of garbage are
/// then far above what the net takes for small (A4).
const LEAST_SHARES: i64 = 58;
/// Bits of a product of primes that are above its exponentials' largest in the window, which fail
/// with that probability (A9).
const ROOM: i64 = 30;
/// Most bits of a weight at its anchor.
const MAX_WEIGHT: i64 = 24;

impl Plan {
    pub(super) fn check(&self) -> Result<(), PlanError> {
        shift_ok("embed.shift", self.embed.shift)?;
        for (l, rope) in self.rope.iter().enumerate() {
            let Some(r) = rope else { continue };
            shift_ok(&format!("rope.{l}.bits"), r.bits)?;
            let n = (self.model.context * (self.model.head_dim / 2)) as i64;
            for id in [r.cos, r.sin] {
                let len = self.tables.get(id).map_or(0, Vec::len);
                expect(&format!("rope.{l}: length of table {id}"), n, len as i64)?;
            }
        }
        for (i, n) in self.norms.iter().enumerate() {
            let name = format!("norms.{i}");
            shift_ok(&name, n.pre_shift)?;
            self.check_scalar(&name, &n.scalar)?;
        }
        for (l, a) in self.attention.iter().enumerate() {
            let name = format!("attention.{l}");
            expect(&format!("{name}.heads"), self.model.heads as i64, a.heads.len() as i64)?;
            let first = &a.heads[0].scalar;
            for head in &a.heads {
                check_window(&name, head)?;
                shift_ok(&format!("{name}.o_shift"), head.o_shift)?;
                self.check_scalar(&name, &head.scalar)?;
                expect(&format!("{name}.scalar.hi.k"), first.hi.k as i64, head.scalar.hi.k as i64)?;
                let (k0, k1) = (first.lo.as_ref().map(|r| r.k), head.scalar.lo.as_ref().map(|r| r.k));
                if k0 != k1 {
                    return Err(PlanError::Value {
                        field: format!("{name}.scalar.lo.k"),
                        expected: format!("{k0:?}"),
                        actual: format!("{k1:?}"),
                    });
                }
            }
        }
        for (l, a) in self.activations.iter().enumerate() {
            self.check_activation(&format!("activations.{l}"), a)?;
        }
        Ok(())
    }

    fn check_activation(&self, name: &str, a: &Activation) -> Result<(), PlanError> {
        let windows = a.windows.len();
        if !(1..=MAX_WINDOWS).contains(&windows) {
            return Err(value(format!("{name}.windows"), &format!("1..{MAX_WINDOWS}"), windows));
        }
        expect(&format!("{name}.of"), self.model.ff as i64, a.of.len() as i64)?;
        if let Some(window) = a.of.iter().find(|w| **w >= windows) {
            return Err(value(format!("{name}.of"), &format!("below {windows}"), window));
        }
        let guarded = a.windows[0].g.is_some();
        for w in &a.windows {
            segment_ok(name, w.h, a.k)?;
            self.check_table(name, w.a, a.k)?;
            self.check_table(name, w.b, a.k)?;
            if w.c.is_some() == self.model.gated {
                return Err(value(format!("{name}.windows: c"), "in plain activations alone", "otherwise"));
            }
            w.c.map_or(Ok(()), |c| self.check_table(name, c, a.k))?;
            if w.g.is_some() != guarded {
                return Err(value(format!("{name}.windows: g"), "in all windows or in none", "in some"));
            }
            w.g.map_or(Ok(()), |g| self.check_bits(name, g, a.k))?;
        }
        Ok(())
    }

    fn check_scalar(&self, name: &str, s: &Scalar) -> Result<(), PlanError> {
        within(&format!("{name}.out_shift"), i64::from(s.out_shift), 1, i64::from(MAX_SHIFT))?;
        for r in [Some(&s.hi), s.lo.as_ref()].into_iter().flatten() {
            lifted_ok(&format!("{name}.mu"), r.mu)?;
            segment_ok(name, r.h, r.k)?;
            self.check_table(name, r.a, r.k)?;
            self.check_table(name, r.b, r.k)?;
            self.check_bits(name, r.g, r.k)?;
        }
        within(&format!("{name}.hi: end of the window"), i64::from(s.hi.end()), 0, i64::from(MAX_END))?;
        if let Some(z) = s.lo.as_ref().and_then(|r| r.z) {
            return Err(value(format!("{name}.scalar.lo.z"), "none", z));
        }
        match (&s.lo, s.hi.z) {
            (Some(_), Some(z)) => self.check_bits(name, z, s.hi.k),
            (Some(_), None) => Err(PlanError::Missing(format!("{name}.scalar.hi.z"))),
            (None, Some(z)) => Err(value(format!("{name}.scalar.hi.z"), "none without a fine range", z)),
            (None, None) => Ok(()),
        }
    }

    /// A table of zeros and ones.
    fn check_bits(&self, name: &str, id: usize, k: u32) -> Result<(), PlanError> {
        self.check_table(name, id, k)?;
        match self.tables[id].iter().find(|v| !matches!(v, 0 | 1)) {
            Some(v) => Err(value(format!("{name}: entry of table {id}"), "0 or 1", v)),
            None => Ok(()),
        }
    }

    fn check_table(&self, name: &str, id: usize, k: u32) -> Result<(), PlanError> {
        if !(4..=16).contains(&k) {
            return Err(value(format!("{name}.k"), "4..16", k));
        }
        let table = self.tables.get(id).ok_or_else(|| PlanError::Missing(format!("{name}: table {id}")))?;
        expect(&format!("{name}: length of table {id}"), 1i64 << k, table.len() as i64)?;
        match table.iter().find(|v| v.unsigned_abs() >= MAX_ENTRY as u64) {
            Some(v) => Err(value(format!("{name}: entry of table {id}"), "below 2^46", v)),
            None => Ok(()),
        }
    }
}

/// The window of a head's scores and the weights that come out of it (A9).
fn check_window(name: &str, head: &Head) -> Result<(), PlanError> {
    let (bottom, shift) = (i64::from(head.bottom), i64::from(head.shift));
    within(&format!("{name}.primes"), head.primes as i64, 2, MAX_PRIMES as i64)?;
    let modulus = i64::from(MODULUS_BITS[head.primes]);
    let mantissas = 2 * i64::from(MANTISSA_BITS);
    within(&format!("{name}.bottom"), bottom, 1, modulus - ROOM - mantissas)?;
    within(&format!("{name}.shift"), shift, 1, modulus - LEAST_SHARES)?;
    within(&format!("{name}: bits of a weight"), mantissas + bottom - shift, 1, MAX_WEIGHT)
}

fn value(field: String, expected: &str, actual: impl ToString) -> PlanError {
    PlanError::Value { field, expected: expected.into(), actual: actual.to_string() }
}

pub(super) fn shift_ok(field: &str, s: u32) -> Result<(), PlanError> {
    if s > MAX_SHIFT {
        return Err(value(format!("{field}: shift"), "0..32", s));
    }
    Ok(())
}

/// The shift of a segment index (A2). With `h + k ≤ 32` an index modulo `2^k` does not depend on
/// how shares wrap.
fn segment_ok(field: &str, h: u32, k: u32) -> Result<(), PlanError> {
    let most = MAX_SHIFT.saturating_sub(k);
    within(&format!("{field}: segment shift"), i64::from(h), 1, i64::from(most))
}

pub(super) fn within(field: &str, actual: i64, low: i64, high: i64) -> Result<(), PlanError> {
    if !(low..=high).contains(&actual) {
        return Err(value(field.into(), &format!("{low}..{high}"), actual));
    }
    Ok(())
}

/// The shift of a truncation whose outcome is lifted (A6): a share that was not truncated could be
/// lifted wrongly.
pub(super) fn lifted_ok(field: &str, s: u32) -> Result<(), PlanError> {
    if !(1..=MAX_SHIFT).contains(&s) {
        return Err(value(format!("{field}: shift of what is lifted"), "1..32", s));
    }
    Ok(())
}

pub(super) fn expect(field: &str, expected: i64, actual: i64) -> Result<(), PlanError> {
    if expected != actual {
        return Err(PlanError::Value {
            field: field.into(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        });
    }
    Ok(())
}

//! What a plan must fulfil beyond its shape: shifts, lengths and sizes of tables.

use super::{Plan, Scalar, MAX_ENTRY, MAX_SHIFT};
use crate::error::PlanError;

impl Plan {
    pub(super) fn check(&self) -> Result<(), PlanError> {
        shift_ok("embed.shift", self.embed.shift)?;
        if let Some(r) = &self.rope {
            shift_ok("rope.bits", r.bits)?;
            let n = (self.model.context * (self.model.head_dim / 2)) as i64;
            for id in [r.cos, r.sin] {
                let len = self.tables.get(id).map_or(0, Vec::len);
                expect(&format!("rope: length of table {id}"), n, len as i64)?;
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
            expect(&format!("{name}.k"), self.attention[0].k as i64, a.k as i64)?;
            let first = &a.heads[0].scalar;
            for head in &a.heads {
                for s in [head.h, head.e_shift, head.o_shift] {
                    shift_ok(&name, s)?;
                }
                self.check_table(&name, head.a, a.k)?;
                self.check_table(&name, head.b, a.k)?;
                self.check_scalar(&name, &head.scalar)?;
                expect(&format!("{name}.scalar.hi.k"), first.hi.k as i64, head.scalar.hi.k as i64)?;
                let (k0, k1) = (first.lo.as_ref().map(|r| r.k), head.scalar.lo.as_ref().map(|r| r.k));
                if k0 != k1 {
                    return Err(PlanError::Value {
                        field: format!("{name}.scalar.lo.k"),
                        expected: format!("{k0:?}"),
                        got: format!("{k1:?}"),
                    });
                }
            }
        }
        for (l, a) in self.activations.iter().enumerate() {
            let name = format!("activations.{l}");
            shift_ok(&name, a.h)?;
            self.check_table(&name, a.a, a.k)?;
            self.check_table(&name, a.b, a.k)?;
            if self.model.gated {
                expect(&format!("{name}.center"), 0, a.center)?;
            }
        }
        Ok(())
    }

    fn check_scalar(&self, name: &str, s: &Scalar) -> Result<(), PlanError> {
        shift_ok(name, s.out_shift)?;
        for r in [Some(&s.hi), s.lo.as_ref()].into_iter().flatten() {
            shift_ok(name, r.mu)?;
            shift_ok(name, r.h)?;
            self.check_table(name, r.a, r.k)?;
            self.check_table(name, r.b, r.k)?;
        }
        match (&s.lo, s.hi.z) {
            (Some(_), Some(z)) => self.check_table(name, z, s.hi.k),
            (Some(_), None) => Err(PlanError::Missing(format!("{name}.scalar.hi.z"))),
            (None, _) => Ok(()),
        }
    }

    fn check_table(&self, name: &str, id: usize, k: u32) -> Result<(), PlanError> {
        if !(4..=16).contains(&k) {
            return Err(PlanError::Value {
                field: format!("{name}.k"),
                expected: "4..16".into(),
                got: k.to_string(),
            });
        }
        let table = self.tables.get(id).ok_or_else(|| PlanError::Missing(format!("{name}: table {id}")))?;
        expect(&format!("{name}: length of table {id}"), 1i64 << k, table.len() as i64)?;
        match table.iter().find(|v| v.abs() >= MAX_ENTRY) {
            Some(v) => Err(PlanError::Value {
                field: format!("{name}: entry of table {id}"),
                expected: "below 2^46".into(),
                got: v.to_string(),
            }),
            None => Ok(()),
        }
    }
}

pub(super) fn shift_ok(field: &str, s: u32) -> Result<(), PlanError> {
    if s > MAX_SHIFT {
        return Err(PlanError::Value {
            field: format!("{field}: shift"),
            expected: "0..32".into(),
            got: s.to_string(),
        });
    }
    Ok(())
}

pub(super) fn expect(field: &str, expected: i64, got: i64) -> Result<(), PlanError> {
    if expected != got {
        return Err(PlanError::Value {
            field: field.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        });
    }
    Ok(())
}

//! Plan documents that break a rule are refused with the field, what was expected and what came.

use serde_json::{json, Value};

use super::tiny::{build_with, tiny, Arch, Settings};
use crate::error::PlanError;
use crate::model::Plan;

/// The document and tables of a valid plan.
fn valid(arch: Arch) -> (Value, Vec<Vec<i64>>) {
    let mut kept = None;
    build_with(&Settings::of(arch), |plan, tables| kept = Some((plan.clone(), tables.to_vec())));
    kept.expect("called once")
}

/// The error for a valid plan in which the value at `at` was replaced.
fn error(arch: Arch, at: &str, value: Value) -> PlanError {
    let (mut plan, tables) = valid(arch);
    *plan.pointer_mut(at).expect("a field of the plan") = value;
    Plan::parse(&plan.to_string(), tables).err().unwrap_or_else(|| panic!("{at} was accepted"))
}

#[test]
fn wrong_values_are_refused() {
    let (gpt, llama) = (Arch::Gpt, Arch::Llama);
    let windows = |n: usize| {
        let window = valid(gpt).0.pointer("/activations/1/windows/0").expect("a window").clone();
        Value::Array(vec![window; n])
    };
    for (arch, at, value, field) in [
        (gpt, "/version", json!(1), "version"),
        (gpt, "/norms/0/scalar/hi/h", json!(0), "segment shift"),
        (gpt, "/norms/0/scalar/hi/h", json!(27), "segment shift"),
        (gpt, "/norms/0/scalar/hi/g", json!(0), "entry of table 0"),
        (gpt, "/norms/0/scalar/hi/z", json!(0), "hi.z"),
        (llama, "/norms/0/scalar/lo/z", json!(0), "lo.z"),
        (llama, "/norms/0/scalar/lo/h", json!(0), "segment shift"),
        (gpt, "/version", json!(4), "version"),
        (llama, "/attention/1/heads/0/primes", json!(1), "primes"),
        (gpt, "/attention/0/heads/1/primes", json!(7), "primes"),
        (llama, "/attention/1/heads/0/bottom", json!(0), "bottom"),
        // 125 bits of two primes, less 30 and two mantissas.
        (gpt, "/attention/0/heads/1/bottom", json!(76), "bottom"),
        (gpt, "/attention/0/heads/0/shift", json!(0), "shift"),
        (gpt, "/attention/0/heads/1/shift", json!(68), "shift"),
        (gpt, "/attention/0/heads/0/shift", json!(60), "bits of a weight"),
        (llama, "/attention/0/heads/1/shift", json!(36), "bits of a weight"),
        (llama, "/attention/0/heads/1/o_shift", json!(33), "o_shift"),
        (gpt, "/activations/1/windows/1/h", json!(26), "segment shift"),
        (gpt, "/norms/1/scalar/out_shift", json!(0), "out_shift"),
        // 23 + 26 + 6 bits: one more than the net reaches.
        (gpt, "/norms/1/scalar/hi/h", json!(26), "end of the window"),
        (gpt, "/norms/1/scalar/hi/mu", json!(0), "mu: shift of what is lifted"),
        (llama, "/norms/1/scalar/lo/mu", json!(0), "mu: shift of what is lifted"),
        (llama, "/attention/0/heads/1/scalar/lo/mu", json!(33), "mu: shift of what is lifted"),
        (gpt, "/linears/layers.1.up/out_shift", json!([0]), "up.out_shift: shift of what is lifted"),
        (llama, "/linears/layers.0.up/out_shift", json!([0]), "up.out_shift: shift of what is lifted"),
        (llama, "/linears/layers.0.qkv/out_shift", json!([16]), "qkv.out_shift"),
        (gpt, "/linears/layers.1.down/out_shift", json!([]), "down.out_shift"),
        (gpt, "/linears/layers.1.down/out_shift", json!([9, 9]), "down.out_shift"),
        (llama, "/activations/0/windows/1/h", json!(0), "segment shift"),
        (gpt, "/activations/1/windows", windows(0), "windows"),
        (gpt, "/activations/1/windows", windows(65), "windows"),
        (gpt, "/activations/1/windows/2/g", Value::Null, "windows: g"),
        (gpt, "/activations/1/windows/2/c", Value::Null, "windows: c"),
        (gpt, "/activations/1/windows/2/c", json!(0), "length of table 0"),
        (llama, "/activations/1/windows/2/c", json!(0), "windows: c"),
        (gpt, "/activations/1/of", json!([0, 1]), "of"),
        (gpt, "/activations/1/of/3", json!(3), "of"),
        (llama, "/rope", json!([null]), "rope"),
        (llama, "/rope/1/bits", json!(33), "rope.1.bits"),
        (llama, "/rope/1/cos", json!(2), "rope.1: length of table 2"),
        (llama, "/rope/0/sin", json!(1u64 << 40), "rope.0: length of table"),
    ] {
        match error(arch, at, value) {
            PlanError::Value { field: got, .. } => assert!(got.contains(field), "{at}: {got}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    // Tables 0 and 1 of the second decoder are cosines and sines; guards and selectors are tables
    // of bits.
    for at in [
        "/norms/0/scalar/hi/z",
        "/norms/0/scalar/lo/g",
        "/attention/0/heads/1/scalar/hi/g",
        "/activations/0/windows/0/g",
    ] {
        let (plan, mut tables) = valid(llama);
        let id = plan.pointer(at).and_then(Value::as_u64).expect("a table") as usize;
        for entry in [2, -1] {
            tables[id][3] = entry;
            let error = Plan::parse(&plan.to_string(), tables.clone()).err();
            assert!(matches!(error, Some(PlanError::Value { .. })), "{at}: {error:?}");
        }
    }
}

#[test]
fn missing_values_are_refused() {
    for (arch, at) in [
        (Arch::Llama, "/norms/0/scalar/hi/z"),
        (Arch::Llama, "/norms/0/scalar/lo/g"),
        (Arch::Gpt, "/attention/0/heads/0/primes"),
        (Arch::Gpt, "/attention/0/heads/0/anchor"),
    ] {
        error(arch, at, Value::Null);
    }
    error(Arch::Gpt, "/attention/0/heads/0/anchor", json!("First"));
}

#[test]
fn sixty_four_windows_are_accepted() {
    let (mut plan, tables) = valid(Arch::Gpt);
    let window = plan["activations"][1]["windows"][0].clone();
    plan["activations"][1]["windows"] = Value::Array(vec![window; 64]);
    plan["activations"][1]["of"][0] = json!(63);
    assert!(Plan::parse(&plan.to_string(), tables).is_ok());
}

#[test]
fn heads_are_listed_by_their_primes() {
    let plan = &tiny(Arch::Gpt).plan;
    assert_eq!(plan.prime_counts(), [2, 3]);
    let heads = |l, n| plan.heads_with(l, n).collect::<Vec<_>>();
    assert_eq!([heads(0, 2), heads(0, 3), heads(0, 4)], [vec![1], vec![0], vec![]]);
    assert_eq!([heads(1, 2), heads(1, 3)], [vec![0, 1], vec![]]);
}

#[test]
fn the_widest_windows_are_accepted() {
    for (primes, shift) in [(2, 67), (3, 128), (4, 192), (5, 256), (6, 320)] {
        let (mut plan, tables) = valid(Arch::Gpt);
        let head = &mut plan["attention"][0]["heads"][0];
        (head["primes"], head["bottom"], head["shift"]) = (json!(primes), json!(shift + 4), json!(shift));
        assert!(Plan::parse(&plan.to_string(), tables.clone()).is_ok(), "{primes} primes");
        // Weights are then of 24 bits: nothing may be wider.
        for (field, value) in [("bottom", shift + 5), ("shift", shift - 1), ("shift", shift + 1)] {
            let mut wider = plan.clone();
            wider["attention"][0]["heads"][0][field] = json!(value);
            let error = Plan::parse(&wider.to_string(), tables.clone()).err();
            assert!(matches!(error, Some(PlanError::Value { .. })), "{primes} primes, {field} {value}");
        }
    }
}

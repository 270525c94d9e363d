//! The server's weights come some rows at a time.

use cryptogen_ring::Fp;

use crate::error::ProtocolError;
use crate::model::{Matrix, ServerModel, ServerModelBuilder, Site};
use crate::testing::tiny::{tiny, Arch, VOCAB};

/// All weights are 3 but for `embed`, which comes `step` tokens at a time.
fn model(embed: &[i32], step: usize) -> ServerModel {
    let plan = &tiny(Arch::Llama).plan;
    let mut builder = ServerModelBuilder::new(plan.clone());
    embed.chunks(step * plan.model.d).for_each(|rows| builder.embed(plan.model.d, rows).unwrap());
    for site in (0..plan.model.layers).flat_map(Site::of_layer).chain([Site::Head]) {
        let l = plan.linear(site);
        (0..l.d_out).for_each(|_| builder.weight(site, l.d_in, &vec![3; l.d_in]).unwrap());
    }
    builder.finish().unwrap()
}

#[test]
fn an_embedding_is_the_same_in_whatever_pieces_it_comes() {
    let plan = &tiny(Arch::Llama).plan;
    let d = plan.model.d;
    // Up to what fits 24 bits, or the limit; or one large number among others, first or last.
    let (short, limit) = ((1 << 23) - (1 << 7) - 1, (1 << 27) - 1);
    let edges = |most: i32| {
        let around =
            [0, 127, 128, -128, -129, 1 << 14, (1 << 14) - 1, -(1 << 14), -(1 << 14) - 1, most, -most];
        let number = |i: usize| (around[i % around.len()] ^ (i as i32 >> 3)).clamp(-most, most);
        (0..VOCAB * d).map(number).collect::<Vec<i32>>()
    };
    let but = |at: usize, number: i32| {
        let mut embed = edges(short);
        embed[at] = number;
        embed
    };
    let cases = [edges(short), edges(limit), but(0, short + 1), but(VOCAB * d - 1, -short - 1)];
    for (embed, step) in cases.iter().flat_map(|embed| [1, 3, VOCAB].map(|step| (embed, step))) {
        let model = model(embed, step);
        for j in 0..d {
            let mut row = [0; VOCAB];
            model.row(Matrix::Embed, j, &mut row);
            assert!(row.iter().enumerate().all(|(token, x)| *x == embed[token * d + j]), "{step}, {j}");
        }
        // More rows than are multiplied at once, all tokens in turn.
        let rows = 2 * VOCAB + 1;
        let mut x = vec![Fp::ZERO; rows * VOCAB];
        (0..rows).for_each(|t| x[t * VOCAB + t % VOCAB] = Fp::from_i64(-2));
        for (t, y) in model.embed(plan, &x).chunks(d).enumerate() {
            let token = &embed[t % VOCAB * d..][..d];
            assert!(y.iter().zip(token).all(|(y, e)| *y == Fp::from_i64(-2 * i64::from(*e))), "{step}, {t}");
        }
    }
}

#[test]
fn what_does_not_fit_the_plan_is_refused() {
    let plan = &tiny(Arch::Gpt).plan;
    let (d, last) = (plan.model.d, Site::Down(plan.model.layers - 1));
    let l = plan.linear(last);
    let refused = |put: &dyn Fn(&mut ServerModelBuilder) -> crate::error::Result<()>| {
        let mut builder = ServerModelBuilder::new(plan.clone());
        builder.weight(last, l.d_in, &vec![0; l.d_in]).unwrap();
        let error = put(&mut builder).unwrap_err();
        assert!(matches!(error, ProtocolError::Caller { .. }), "{error}");
        error.to_string()
    };
    for site in [Site::Qkv(plan.model.layers), Site::O(1 << 40), Site::Down(usize::MAX / 8)] {
        assert!(refused(&|b| b.weight(site, l.d_in, &[])).contains("site"));
        assert!(refused(&|b| b.bias(site, &[])).contains("site"));
    }
    refused(&|b| b.weight(last, l.d_in, &vec![0; l.d_in - 1]));
    refused(&|b| b.weight(last, l.d_in, &vec![0; l.d_in * l.d_out]));
    refused(&|b| b.weight(last, l.d_in / 2, &vec![0; l.d_in]));
    refused(&|b| b.embed(d / 2, &vec![0; d]));
    refused(&|b| b.positions(2 * d, &vec![0; 2 * d]));
    refused(&|b| b.bias(last, &vec![0; l.d_out + 1]));
    refused(&|b| b.embed(d, &vec![0; d + 1]));
    refused(&|b| b.embed(d, &vec![0; (VOCAB + 1) * d]));
    refused(&|b| b.embed(d, &vec![1 << 27; d]));
    refused(&|b| b.embed(d, &vec![i32::MIN; d]));
    refused(&|b| b.positions(d, &vec![0; (plan.model.context + 1) * d]));
}

#[test]
fn what_is_missing_is_named() {
    let plan = &tiny(Arch::Gpt).plan;
    let d = plan.model.d;
    let finished = |without: &str| {
        let mut builder = ServerModelBuilder::new(plan.clone());
        let less = |name: &str| usize::from(name == without);
        for site in (0..plan.model.layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let l = plan.linear(site);
            if without != "layers.1.o" || site != Site::O(1) {
                builder.weight(site, l.d_in, &vec![0; l.d_in * (l.d_out - less(&site.name()))]).unwrap();
            }
        }
        builder.embed(d, &vec![0; (VOCAB - less("embed")) * d]).unwrap();
        builder.positions(d, &vec![0; (plan.model.context - less("positions")) * d]).unwrap();
        builder.finish().map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(finished(""), Ok(()));
    for (without, text) in [
        ("layers.1.o", "layers.1.o"),
        ("head", "weight matrix"),
        ("embed", "embedding"),
        ("positions", "positions"),
    ] {
        let error = finished(without).unwrap_err();
        assert!(error.contains(text), "{error}");
    }
}

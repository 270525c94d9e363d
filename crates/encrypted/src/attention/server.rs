//! The server of attention over the encrypted cache; steps as in the header of the module above.

use cryptogen_he::evaluate::Evaluator;
use cryptogen_party::{Channel, Server};
use cryptogen_protocols::share::qkv::NewRows;
use cryptogen_protocols::Result;
use cryptogen_ring::Fp;

use super::cost::schedules;
use super::{products, shares};
use crate::{exchange, refresh, State};

/// Steps 1–3: appends new rows; returns this party's shares of their scores, `[entries]` in the
/// order of `preprocessed`.
///
/// # Errors
/// Connection failures, malformed ciphertexts, missing keys.
pub fn scores(h: &mut State<Server>, ch: &mut dyn Channel, layer: usize, new: &NewRows) -> Result<Vec<Fp>> {
    let evaluator = Evaluator::new(h.context, h.keys.evaluation()?);
    let (cache, rows) = (h.cache.encrypted_mut()?, new.keys.len());
    let (layout, first) = (*cache.shape().layout(), cache.shape().length(layer));
    let packs = layout.packs();
    // 1.
    let pieces = cache.shape().pieces(layer, rows);
    let n = pieces.len() * packs;
    let mut keys = exchange::receive(ch, 2 * n, |i| match i.checked_sub(n) {
        None => shares::row_slots(&layout, &new.keys, &pieces, i),
        Some(i) => shares::row_slots(&layout, &new.values, &pieces, i),
    })?;
    let values = keys.split_off(n);
    let due = cache.append(layer, rows, keys, values)?;
    refresh::server(ch, &evaluator, &mut h.rng, cache.blocks_mut(layer, &due))?;
    h.counts.encrypted += 2 * (n + packs * due.len()) as u64;

    let cache = cache.layer(layer)?;
    let mut all = vec![];
    for schedule in schedules(layout, first, rows) {
        let queries = &new.queries[schedule.first - first..][..schedule.rows];
        let mut scores = vec![Fp::ZERO; schedule.entries()];
        for batch in schedule.batches() {
            // 2.
            let per_query = packs * layout.group;
            let n = batch.queries.len() * per_query;
            let queries = exchange::receive(ch, n, |i| schedule.query_slots(queries, &batch.queries, i))?;
            h.counts.encrypted += n as u64;
            let queries = queries.chunks(per_query).map(|q| products::queried(&evaluator, &schedule, q));
            let queries = queries.collect::<Result<Vec<_>>>()?;
            // 3.
            for window in &batch.windows {
                let keys = products::cached(&evaluator, &schedule, &cache.keys[window.blocks.clone()])?;
                for message in &window.messages {
                    let query = &queries[message.query - batch.queries[0]];
                    let outputs = products::scores(&evaluator, message, window.blocks.start, query, &keys)?;
                    let outputs: Vec<_> = outputs.iter().collect();
                    let masks = exchange::mask(ch, &evaluator, &mut h.rng, &outputs)?;
                    let products = message.products.iter().zip(&masks);
                    products.for_each(|(p, slots)| schedule.take_scores(p, slots, &mut scores));
                }
            }
        }
        all.extend(scores);
    }
    h.counts.add(evaluator.operations());
    Ok(all)
}

/// Steps 4–5: this party's shares of `Σ_j e'_j·v_j` of the last `rows` rows,
/// `[softmax rows][heads][head_dim]`, from its shares of the weights `[entries]`.
///
/// # Errors
/// Connection failures, malformed ciphertexts, missing keys.
pub fn values(
    h: &mut State<Server>,
    ch: &mut dyn Channel,
    layer: usize,
    rows: usize,
    weights: &[Fp],
) -> Result<Vec<Fp>> {
    let evaluator = Evaluator::new(h.context, h.keys.evaluation()?);
    let cache = h.cache.encrypted_mut()?;
    let (layout, length) = (*cache.shape().layout(), cache.shape().length(layer));
    let (cache, packs, first) = (cache.layer(layer)?, layout.packs(), length.saturating_sub(rows));
    let (mut all, mut weights) = (vec![], weights);
    for schedule in schedules(layout, first, rows) {
        let mine;
        (mine, weights) = shares::split(weights, schedule.entries())?;
        let mut values = vec![Fp::ZERO; schedule.columns()];
        for window in schedule.batches().iter().flat_map(|b| &b.windows) {
            // 4.
            let received = window.messages.iter().map(|message| {
                exchange::receive(ch, message.products.len(), |i| {
                    schedule.weight_slots(&message.products[i], mine)
                })
            });
            let received = received.collect::<Result<Vec<_>>>()?;
            h.counts.encrypted += received.iter().map(Vec::len).sum::<usize>() as u64;
            let cached = products::cached(&evaluator, &schedule, &cache.values[window.blocks.clone()])?;
            // 5.
            for (message, weights) in window.messages.iter().zip(received) {
                let sums =
                    products::values(&evaluator, message, window.blocks.start, &weights, &cached, packs)?;
                let masks = exchange::mask(ch, &evaluator, &mut h.rng, &sums.iter().collect::<Vec<_>>())?;
                let outputs = message.outputs();
                for (i, slots) in masks.iter().enumerate() {
                    schedule.add_values(message.query, outputs[i / packs], i % packs, slots, &mut values);
                }
            }
        }
        all.extend(values);
    }
    h.counts.add(evaluator.operations());
    Ok(all)
}

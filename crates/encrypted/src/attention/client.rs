//! The client of attention over the encrypted cache; steps as in the header of the module above.

use cryptogen_party::{Channel, Client};
use cryptogen_protocols::share::qkv::NewRows;
use cryptogen_protocols::Result;
use cryptogen_ring::Fp;

use super::cost::schedules;
use super::shares;
use crate::{exchange, refresh, State};

/// Steps 1–3: appends new rows; returns this party's shares of their scores, `[entries]` in the
/// order of `preprocessed`.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn scores(h: &mut State<Client>, ch: &mut dyn Channel, layer: usize, new: &NewRows) -> Result<Vec<Fp>> {
    let (key, rows) = (h.keys.secret()?, new.keys.len());
    let shape = h.cache.shape_mut()?;
    let (layout, first) = (*shape.layout(), shape.length(layer));
    let packs = layout.packs();
    // 1.
    let pieces = shape.pieces(layer, rows);
    let n = pieces.len() * packs;
    exchange::encrypt(ch, key, &mut h.rng, 2 * n, |i| match i.checked_sub(n) {
        None => shares::row_slots(&layout, &new.keys, &pieces, i),
        Some(i) => shares::row_slots(&layout, &new.values, &pieces, i),
    })?;
    let due = shape.append(layer, rows);
    let refreshed = 2 * packs * due.len();
    refresh::client(ch, key, &mut h.rng, refreshed)?;
    h.counts.encrypted += (2 * n + refreshed) as u64;

    let mut all = vec![];
    for schedule in schedules(layout, first, rows) {
        let queries = &new.queries[schedule.first - first..][..schedule.rows];
        let mut scores = vec![Fp::ZERO; schedule.entries()];
        for batch in schedule.batches() {
            // 2.
            let n = batch.queries.len() * packs * layout.group;
            exchange::encrypt(ch, key, &mut h.rng, n, |i| schedule.query_slots(queries, &batch.queries, i))?;
            h.counts.encrypted += n as u64;
            // 3.
            for message in batch.windows.iter().flat_map(|w| &w.messages) {
                let slots = exchange::decrypt(ch, key, message.products.len())?;
                let products = message.products.iter().zip(&slots);
                products.for_each(|(p, slots)| schedule.take_scores(p, slots, &mut scores));
            }
        }
        all.extend(scores);
    }
    Ok(all)
}

/// Steps 4–5: this party's shares of `Σ_j e'_j·v_j` of the last `rows` rows,
/// `[softmax rows][heads][head_dim]`, from its shares of the weights `[entries]`.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn values(
    h: &mut State<Client>,
    ch: &mut dyn Channel,
    layer: usize,
    rows: usize,
    weights: &[Fp],
) -> Result<Vec<Fp>> {
    let (key, shape) = (h.keys.secret()?, h.cache.shape());
    let (layout, first) = (*shape.layout(), shape.length(layer).saturating_sub(rows));
    let packs = layout.packs();
    let (mut all, mut weights) = (vec![], weights);
    for schedule in schedules(layout, first, rows) {
        let mine;
        (mine, weights) = shares::split(weights, schedule.entries())?;
        let mut values = vec![Fp::ZERO; schedule.columns()];
        for window in schedule.batches().iter().flat_map(|b| &b.windows) {
            // 4.
            for message in &window.messages {
                let n = message.products.len();
                exchange::encrypt(ch, key, &mut h.rng, n, |i| {
                    schedule.weight_slots(&message.products[i], mine)
                })?;
                h.counts.encrypted += n as u64;
            }
            // 5.
            for message in &window.messages {
                let outputs = message.outputs();
                let slots = exchange::decrypt(ch, key, outputs.len() * packs)?;
                for (i, slots) in slots.iter().enumerate() {
                    schedule.add_values(message.query, outputs[i / packs], i % packs, slots, &mut values);
                }
            }
        }
        all.extend(values);
    }
    Ok(all)
}

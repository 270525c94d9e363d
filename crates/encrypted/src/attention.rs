//! Scores and values of attention over the encrypted KV cache (ct × ct): what the paper's protocols
//! put in the place of the openings and prepared products of
//! [`cryptogen_protocols::online::attention`], whose other steps they share.
//!
//! Functionality: from shares of the queries, keys and values of new rows, shares of `q·k` for
//! every cached key; from shares of weights, shares of their sums with the cached values.
//! Source: CryptoGen (arXiv 2602.08798), ARCC over the unified cache; layout in [`super::layout`],
//! products in [`schedule`].
//! Inputs: client and server shares of `q`, `[T, q_dim]`, and of `k`, `v`, `[T, kv_dim]`, over
//! `F_p` at scale F; later of the weights `e'`, `[heads][t + 1]` a row. Server the encrypted cache
//! and the client's evaluation keys. Results over `F_p`: scores at scale 2F, sums at the scale of
//! `e'` plus F.
//! Cost: 1 message, then per batch of queries 1 and per group of products 1; for the values 2 per
//! group; 2 more where blocks are refreshed. One new row: 5. 205 KB per ciphertext.
//! Material: none.
//! Leaks: nothing. Ciphertexts one way; uniformly masked and flooded ones the other.
//!
//! 1. C→S its shares of the new keys and values, each at its place in its block. The server adds
//!    its own and appends. [Refresh.]
//! 2. C→S its shares of the queries, replicated or in blocks of rows; the server adds its own.
//! 3. S→C `Σ q ⊙ k − m`. Both add up a head's features: shares of the scores.
//! 4. C→S its shares of the weights, arranged as the scores were; the server adds its own.
//! 5. S→C `Σ e' ⊙ v − m`. Both add up tokens, or giant steps: shares of the outputs.

pub mod client;
pub mod cost;
pub mod products;
pub mod schedule;
pub mod server;
mod shares;

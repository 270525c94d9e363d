//! Linear layers `y = TR(W·x + b)` (A5.3): the server holds `x − r'` in the clear.
//!
//! Default protocol, no message: `y_s = W·(x − r') + share + b`, `y_c` known offline; both truncate locally. The paper's protocols get the same
//! shares of `W·x` online ([`crate::hybrid::linear`]): only the server's comes from ciphertexts instead of the slot.

use std::collections::HashMap;
use std::path::Path;

use cryptogen_he::evaluate::Context;
use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::kernels::{matvec_i16_rows, SplitInput};
use cryptogen_ring::trunc::trunc_server;
use cryptogen_ring::word::word_trunc_server;
use cryptogen_ring::{Fp, Word};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::tables::trunc;
use super::{Kind, Online, Tensor};
use crate::error::{ProtocolError, Result};
use crate::hybrid::encoded::{Encoded, Loaded};
use crate::hybrid::linear;
use crate::hybrid::planner::LinearPlan;
use crate::plan::{Linear, Plan, Site};

/// The server's integer weights (A5).
pub struct ServerModel {
    weights: HashMap<String, Vec<i16>>,
    biases: HashMap<String, Vec<i64>>,
    /// `[vocab, d]` at scale `F + shift`
    pub embed: Vec<i32>,
    /// `[context, d]`, learned positions
    pub positions: Option<Vec<i32>>,
    /// weights encoded for the paper's protocols
    pub(crate) encoded: Encoded,
}

impl ServerModel {
    /// Checks every matrix against the plan.
    ///
    /// # Errors
    /// Missing or misshapen weights.
    pub fn new(
        plan: &Plan,
        weights: HashMap<String, Vec<i16>>,
        biases: HashMap<String, Vec<i64>>,
        embed: Vec<i32>,
        positions: Option<Vec<i32>>,
    ) -> Result<ServerModel> {
        let shape = |what: &'static str, expected: usize, got: usize| {
            if expected == got {
                Ok(())
            } else {
                Err(ProtocolError::Shape { what, expected: expected.to_string(), got: got.to_string() })
            }
        };
        let m = &plan.model;
        for site in (0..m.layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let name = site.name();
            let l = plan.linear(site);
            let w = weights.get(&name).ok_or_else(|| ProtocolError::MissingWeights(name.clone()))?;
            shape("weight matrix", l.d_in * l.d_out, w.len())?;
            if let Some(b) = biases.get(&name) {
                shape("bias", l.d_out, b.len())?;
            }
        }
        shape("embedding", m.vocab * m.d, embed.len())?;
        if let Some(p) = &positions {
            shape("positions", m.context * m.d, p.len())?;
        }
        Ok(ServerModel { weights, biases, embed, positions, encoded: Encoded::default() })
    }

    /// Keeps at most `bytes` of weights encoded for the paper's protocols; forgets those encoded so far.
    pub fn limit_encoded(&mut self, bytes: usize) {
        self.encoded = Encoded::with_limit(bytes);
    }

    /// Encodes all layers for one row, as far as they are kept, or reads them from files of `folder`, which are written where there are none.
    /// Whatever is wrong with a file is a warning.
    ///
    /// # Errors
    /// A folder that cannot be made, a plan that does not fit.
    pub fn load_encoded(&self, plan: &Plan, folder: &Path) -> Result<Loaded> {
        let failed = |e: std::io::Error| ProtocolError::File {
            path: folder.display().to_string(),
            reason: e.to_string(),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let (layout, mut loaded) = (LinearPlan::new(&plan.model)?, Loaded::default());
        for site in (0..plan.model.layers).flat_map(Site::of_layer) {
            let (p, layer) =
                (layout.generation(site).packing, (site.index(plan.model.layers), self.weight(site)));
            self.encoded.load(Context::get(), folder, &p, layer, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Bytes of weights encoded for the paper's protocols.
    pub fn encoded_bytes(&self) -> usize {
        self.encoded.bytes()
    }

    /// Row-major `[d_out, d_in]`.
    pub fn weight(&self, site: Site) -> &[i16] {
        self.weights.get(&site.name()).map_or(&[], Vec::as_slice)
    }

    /// Bias at scale `F + f_w`, if any.
    pub fn bias(&self, site: Site) -> Option<&[i64]> {
        self.biases.get(&site.name()).map(Vec::as_slice)
    }

    /// `W·x` for `rows` rows, `[rows, d_out]`. Parallel over blocks of output rows.
    pub fn multiply(&self, plan: &Plan, site: Site, x: &[Fp], rows: usize) -> Vec<Fp> {
        let l = plan.linear(site);
        let w = self.weight(site);
        let input = SplitInput::new(x, l.d_in);
        let block = l.d_out.div_ceil(4 * rayon::current_num_threads()).max(16);
        let mut columns = vec![Fp::ZERO; rows * l.d_out]; // [d_out, T]
        w.par_chunks(block * l.d_in)
            .zip(columns.par_chunks_mut(block * rows))
            .for_each(|(w, out)| matvec_i16_rows(w, &input, out));
        if rows == 1 {
            return columns;
        }
        let mut y = vec![Fp::ZERO; rows * l.d_out];
        y.par_chunks_mut(l.d_out).enumerate().for_each(|(t, row)| {
            row.iter_mut().zip(columns[t..].iter().step_by(rows)).for_each(|(y, v)| *y = *v);
        });
        y
    }
}

/// Adds a layer's bias, if it has one, to a row of its outputs.
pub(super) fn add_bias(row: &mut [Fp], bias: Option<&[i64]>) {
    for (v, b) in row.iter_mut().zip(bias.unwrap_or_default()) {
        *v += Fp::from_i64(*b);
    }
}

impl<P: Party> Online<P> {
    /// As [`Online::check`]; the head is evaluated by `logits`.
    fn check_linear(&self, x: &Tensor<P>, site: Site) -> Result<()> {
        if site == Site::Head {
            return Err(ProtocolError::Shape {
                what: "linear layer",
                expected: "one of a layer".into(),
                got: site.name(),
            });
        }
        self.check(x, Kind::Input(site))
    }
}

impl Online<Server> {
    /// `TR(x̂ − r, in_shift)`: what the server holds of the input of a linear layer.
    pub(crate) fn enter(&self, site: Site, x: impl Iterator<Item = Fp>) -> Vec<Fp> {
        x.zip(&self.plan.linear(site).in_shift).map(|(x, &k)| trunc_server(x, k)).collect()
    }

    /// The same behind an activation, modulo `2^64` (A6).
    pub(crate) fn enter_words(&self, site: Site, x: impl Iterator<Item = Word>) -> Vec<Fp> {
        x.zip(&self.plan.linear(site).in_shift).map(|(x, &k)| word_trunc_server(x, k)).collect()
    }

    /// The server's side.
    pub fn linear(
        &mut self,
        ch: &mut dyn Channel,
        model: &ServerModel,
        x: &Tensor<Server>,
        site: Site,
    ) -> Result<Tensor<Server>> {
        self.check_linear(x, site)?;
        let plan = self.plan.clone();
        let l = plan.linear(site);
        let mut y = match &mut self.hybrid {
            Some(hybrid) => {
                let key = site.index(plan.model.layers);
                linear::server(hybrid, ch, model, (site, key), x.rows, &x.data)?
            }
            None => {
                let mut y = model.multiply(&self.plan, site, &x.data, x.rows);
                y.par_chunks_mut(l.d_out).zip(&self.active).try_for_each(|(y, row)| {
                    let share = row.slot.words(self.layout.linear(site), l.d_out)?;
                    y.iter_mut().zip(share).for_each(|(v, s)| *v += s);
                    Ok::<_, ProtocolError>(())
                })?;
                y
            }
        };
        let bias = model.bias(site);
        y.par_chunks_mut(l.d_out).for_each(|row| {
            add_bias(row, bias);
            shorten::<Server>(row, l);
        });
        self.trace.truncated(x.data.iter().copied());
        self.trace.truncated(y.iter().copied());
        Ok(Tensor::new(Kind::Output(site), x.rows, y))
    }
}

impl Online<Client> {
    /// The client's side: its share comes straight from the slot.
    pub fn linear(&mut self, ch: &mut dyn Channel, x: &Tensor<Client>, site: Site) -> Result<Tensor<Client>> {
        self.check_linear(x, site)?;
        let plan = self.plan.clone();
        let l = plan.linear(site);
        let mut y = Zeroizing::new(Vec::with_capacity(x.rows * l.d_out));
        for row in &self.active {
            y.extend(row.slot.words(self.layout.linear(site), l.d_out)?);
        }
        if self.hybrid.is_some() {
            let mut r = Zeroizing::new(Vec::with_capacity(x.rows * l.d_in));
            (0..x.rows).for_each(|row| r.extend_from_slice(&self.entered(row, site)));
            if let Some(hybrid) = &mut self.hybrid {
                linear::client(hybrid, ch, site, x.rows, &r, &y)?;
            }
        }
        y.chunks_mut(l.d_out).for_each(|row| shorten::<Client>(row, l));
        self.log_remask(site, x.rows);
        self.trace.truncated(y.iter().copied());
        Ok(Tensor::new(Kind::Output(site), x.rows, std::mem::take(&mut *y)))
    }
}

/// The final truncation of one row of outputs, `[d_out]`.
fn shorten<P: Party>(row: &mut [Fp], linear: &Linear) {
    row.iter_mut().enumerate().for_each(|(i, v)| *v = trunc::<P>(*v, linear.out_shift(i)));
}

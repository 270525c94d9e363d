//! The weights of a model encoded for ct × pt with one row: made once, kept in memory, and in a
//! folder if asked.

mod file;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cryptogen_he::evaluate::{Context, Plaintext};
use cryptogen_he::HeError;
use cryptogen_protocols::model::{Plan, ServerModel, Site};
use cryptogen_protocols::{ProtocolError, Result};
use rayon::prelude::*;

use super::diagonals::Packing;
use super::planner::LinearPlan;

/// Bytes of encoded weights that a server keeps by default; what is beyond is encoded again for
/// every call.
pub const KEPT_BYTES: usize = 6 << 30;

/// All plaintexts of a layer, `[β][α][diagonal]`.
type Weights = Arc<Vec<Plaintext>>;

/// Encoded weights of the layers of a model, made when a layer is first used by one row. They
/// depend on no key, so all sessions share them.
pub struct Encoded {
    limit: usize,
    /// by [`cryptogen_protocols::model::Site::index`]
    sites: Mutex<HashMap<usize, Weights>>,
}

/// What became of the layers of [`Encoded::load`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// layers read from the folder
    pub read: usize,
    /// layers encoded and written
    pub written: usize,
    /// files that could not be used or written; the layers were encoded all the same
    pub warnings: Vec<String>,
}

impl Default for Encoded {
    fn default() -> Encoded {
        Encoded { limit: KEPT_BYTES, sites: Mutex::default() }
    }
}

impl Encoded {
    /// Keeps up to `limit` bytes.
    pub fn with_limit(limit: usize) -> Encoded {
        Encoded { limit, ..Encoded::default() }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.values().map(|w| w.len() * Plaintext::BYTES).sum()
    }

    /// All plaintexts of a layer `w`, unless they do not fit.
    pub(crate) fn get(
        &self,
        context: &Context,
        p: &Packing,
        layer: usize,
        w: &[i16],
    ) -> Result<Option<Weights>> {
        self.get_or(layer, p, || encode(context, p, w))
    }

    /// Encodes all layers of a model for one row, as far as they are kept, or reads them from files
    /// of `folder`, which are written where there are none. Whatever is wrong with a file is a
    /// warning.
    ///
    /// # Errors
    /// A folder that cannot be made, a plan that does not fit.
    pub fn load(&self, plan: &Plan, model: &ServerModel, folder: &Path) -> Result<Loaded> {
        std::fs::create_dir_all(folder).map_err(|e| ProtocolError::file(folder, e))?;
        let (layout, mut loaded) = (LinearPlan::new(&plan.model)?, Loaded::default());
        for site in (0..plan.model.layers).flat_map(Site::of_layer) {
            let (p, layer) =
                (layout.generation(site).packing, (site.index(plan.model.layers), model.weight(site)));
            self.load_layer(Context::get(), folder, &p, layer, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// One layer from a file of the folder, which is written if there is none.
    ///
    /// # Errors
    /// None for files: whatever is wrong with one is a warning, and the layer is encoded again.
    fn load_layer(
        &self,
        context: &Context,
        folder: &Path,
        p: &Packing,
        (layer, w): (usize, &[i16]),
        loaded: &mut Loaded,
    ) -> Result<()> {
        let binding = file::Binding::new(p, w);
        let path = folder.join(binding.name());
        self.get_or(layer, p, || {
            match file::read(context, &path, &binding) {
                Ok(Some(weights)) => {
                    loaded.read += 1;
                    return Ok(weights);
                }
                Ok(None) => {}
                Err(reason) => loaded.warnings.push(format!("{}: {reason}; encoded again", path.display())),
            }
            let weights = encode(context, p, w)?;
            match file::write(&path, &binding, &weights) {
                Ok(()) => loaded.written += 1,
                Err(e) => loaded.warnings.push(format!("{}: {e}; goes on without this file", path.display())),
            }
            Ok(weights)
        })?;
        Ok(())
    }

    fn get_or(
        &self,
        layer: usize,
        p: &Packing,
        make: impl FnOnce() -> std::result::Result<Vec<Plaintext>, HeError>,
    ) -> Result<Option<Weights>> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = sites.get(&layer) {
            return Ok(Some(kept.clone()));
        }
        let used: usize = sites.values().map(|w| w.len()).sum();
        if (used + p.plaintexts()) * Plaintext::BYTES > self.limit {
            return Ok(None);
        }
        let all = Arc::new(make()?);
        sites.insert(layer, all.clone());
        Ok(Some(all))
    }
}

fn encode(context: &Context, p: &Packing, w: &[i16]) -> std::result::Result<Vec<Plaintext>, HeError> {
    let all = (0..p.plaintexts()).into_par_iter().map(|i| {
        let (diagonal, rest) = (i % p.diagonals(), i / p.diagonals());
        Plaintext::encode(context, &p.diagonal(w, rest / p.inputs(), rest % p.inputs(), diagonal))
    });
    all.collect()
}

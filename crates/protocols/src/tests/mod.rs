//! Five tests for every protocol: it equals the clear function (bit for bit, given the outcomes of
//! the truncations); it does so over material of an insecure ideal dealer, so online steps do not
//! hide behind the offline phase; its cost is the declared one; its transcript with fixed seeds is
//! the recorded one; spoiled messages are errors and never panics. Online messages are moreover
//! uniform for fixed secrets; what their receiver can compute tells nothing of them either, thanks
//! to every single mask.

mod attention_material;
mod cost;
mod crop;
mod dealer;
mod endpoint;
mod faults;
mod fresh;
mod ideal;
mod masks;
mod net;
mod offline;
mod online;
mod plans;
mod prefix;
mod prepare;
mod ranges;
mod steps;
mod tables;
mod uniform;
mod weights;

use crate::testing::{between, channel, clear, elements, integers, rng, tiny};

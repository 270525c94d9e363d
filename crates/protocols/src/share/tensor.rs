//! Matrices of shares, which know what they are shares of.

use cryptogen_party::Party;
use cryptogen_ring::{Fp, Wiped};

use crate::error::{ProtocolError, Result};
use crate::model::Site;

/// What a tensor of shares is, so that steps cannot be confused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The residual stream, `[T, d]`, scale F. The client's share has been known since the offline
    /// phase.
    Hidden,
    /// A re-masked input of a linear layer: the server holds `x − r'`, the client nothing.
    Input(Site),
    /// The output of a linear layer, scale F.
    Output(Site),
}

/// One party's share of a matrix of activations. Wiped on drop; no Debug, Clone or codec.
///
/// Adding the client's share to the server's does not compile, nor does handing it to the server's
/// step:
/// ```compile_fail,E0308
/// use cryptogen_party::{Client, Server};
/// use cryptogen_protocols::share::Tensor;
/// fn sum(a: &Tensor<Client>, b: &Tensor<Server>) { a.add(b).unwrap(); }
/// ```
/// ```compile_fail,E0308
/// use cryptogen_party::{Channel, Client, Server};
/// use cryptogen_protocols::{model::Site, online::Online, share::Tensor};
/// fn step(o: &mut Online<Server>, ch: &mut dyn Channel, h: &Tensor<Client>) {
///     o.norm(ch, h, Site::Head).unwrap();
/// }
/// ```
/// A share cannot be printed, copied or read, so it cannot be sent:
/// ```compile_fail,E0277
/// use cryptogen_protocols::share::Tensor;
/// fn print(x: Tensor<cryptogen_party::Client>) { println!("{x:?}"); }
/// ```
/// ```compile_fail,E0599
/// use cryptogen_protocols::share::Tensor;
/// fn copy(x: Tensor<cryptogen_party::Client>) { x.clone(); }
/// ```
/// ```compile_fail,E0616
/// use cryptogen_protocols::share::Tensor;
/// fn read(x: Tensor<cryptogen_party::Client>) { &x.data[0]; }
/// ```
/// What is allowed does compile:
/// ```
/// use cryptogen_party::{Channel, Client};
/// use cryptogen_protocols::{model::Site, online::Online, share::Tensor};
/// fn step(o: &mut Online<Client>, ch: &mut dyn Channel, h: &Tensor<Client>) {
///     o.norm(ch, h, Site::Head).unwrap();
/// }
/// fn sum(a: &Tensor<Client>, b: &Tensor<Client>) { a.add(b).unwrap(); }
/// ```
pub struct Tensor<P: Party> {
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) data: Wiped<Fp>,
    _party: std::marker::PhantomData<P>,
}

impl<P: Party> Tensor<P> {
    pub(crate) fn new(kind: Kind, rows: usize, data: Vec<Fp>) -> Tensor<P> {
        Tensor { kind, rows, data: Wiped::new(data), _party: std::marker::PhantomData }
    }

    /// Rows of the tensor.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn row(&self, i: usize) -> &[Fp] {
        let n = self.data.len() / self.rows.max(1);
        &self.data[i * n..(i + 1) * n]
    }

    pub(crate) fn expect(&self, kind: Kind) -> Result<()> {
        if self.kind != kind {
            let (expected, actual) = (format!("{kind:?}"), format!("{:?}", self.kind));
            return Err(ProtocolError::caller("operand of a step", expected, actual));
        }
        Ok(())
    }

    /// The last row alone, for the final norm and the head.
    pub fn last(&self) -> Tensor<P> {
        Tensor::new(self.kind, 1, self.row(self.rows - 1).to_vec())
    }

    /// Residual connection `h + y`, local.
    pub fn add(&self, y: &Tensor<P>) -> Result<Tensor<P>> {
        self.expect(Kind::Hidden)?;
        if self.data.len() != y.data.len() || !matches!(y.kind, Kind::Output(Site::O(_) | Site::Down(_))) {
            let expected = format!("{} values of an o or down site", self.data.len());
            let actual = format!("{} values of {:?}", y.data.len(), y.kind);
            return Err(ProtocolError::caller("residual", expected, actual));
        }
        let data = self.data.iter().zip(y.data.iter()).map(|(a, b)| *a + *b).collect();
        Ok(Tensor::new(Kind::Hidden, self.rows, data))
    }
}

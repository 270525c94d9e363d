//! The linear layers of a decoder by name and number.

/// A linear layer of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// The matrix of a layer's queries, keys and values.
    Qkv(usize),
    /// The matrix behind a layer's attention.
    O(usize),
    /// The matrix in front of a layer's activation; gated: rows of gate, then of up.
    Up(usize),
    /// The matrix behind a layer's activation.
    Down(usize),
    /// The output head, which makes the logits.
    Head,
}

impl Site {
    /// Parses `layers.3.qkv`, `head`, …
    pub fn parse(name: &str) -> Option<Site> {
        if name == "head" {
            return Some(Site::Head);
        }
        let (layer, kind) = name.strip_prefix("layers.")?.split_once('.')?;
        let layer = layer.parse().ok()?;
        match kind {
            "qkv" => Some(Site::Qkv(layer)),
            "o" => Some(Site::O(layer)),
            "up" => Some(Site::Up(layer)),
            "down" => Some(Site::Down(layer)),
            _ => None,
        }
    }

    /// The name used in plans and weights.
    pub fn name(self) -> String {
        match self {
            Site::Qkv(l) => format!("layers.{l}.qkv"),
            Site::O(l) => format!("layers.{l}.o"),
            Site::Up(l) => format!("layers.{l}.up"),
            Site::Down(l) => format!("layers.{l}.down"),
            Site::Head => "head".into(),
        }
    }

    /// Position in execution order; the head is last.
    pub fn index(self, layers: usize) -> usize {
        match self {
            Site::Qkv(l) => 4 * l,
            Site::O(l) => 4 * l + 1,
            Site::Up(l) => 4 * l + 2,
            Site::Down(l) => 4 * l + 3,
            Site::Head => 4 * layers,
        }
    }

    /// The sites of one layer in execution order.
    pub fn of_layer(l: usize) -> [Site; 4] {
        [Site::Qkv(l), Site::O(l), Site::Up(l), Site::Down(l)]
    }
}

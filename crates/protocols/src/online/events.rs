//! Range events (A7): how many look-ups of a row met a guard. Every party adds up its shares; only
//! with a row's logits does the client learn a sum.

use cryptogen_party::Party;
use cryptogen_ring::Word;
use zeroize::Zeroizing;

use super::products::Side;
use super::Online;
use crate::material::Row;

/// Takes the shares of some rows: what is left behind is a share of none.
fn take<P: Party>(rows: &mut [Row<P>]) -> Word {
    rows.iter_mut().map(|row| std::mem::take(&mut *row.events)).sum()
}

impl<P: Side> Online<P> {
    /// Keeps the events of rows that nobody has sampled for the next row that somebody does.
    pub(crate) fn settle_events(&mut self) {
        *self.pending += take(&mut self.active);
    }

    /// Adds this party's shares of guards, `per_row` for each active row from `first` on.
    pub(crate) fn add_events(
        &mut self,
        first: usize,
        per_row: usize,
        guards: impl IntoIterator<Item = Word>,
    ) {
        for (i, guard) in guards.into_iter().enumerate() {
            *self.active[first + i / per_row].events += guard;
        }
    }

    /// The shares that belong to the last `sampled` active rows; the first of them stands for all
    /// rows since the last one sampled.
    pub(crate) fn release_events(&mut self, sampled: usize) -> Zeroizing<Vec<Word>> {
        let last = self.active.len().saturating_sub(sampled);
        let (unsampled, rows) = self.active.split_at_mut(last);
        *self.pending += take(unsampled);
        let mut out = Zeroizing::new(Vec::with_capacity(rows.len()));
        out.extend(rows.iter_mut().map(|row| std::mem::take(&mut *row.events)));
        if let Some(first) = out.first_mut() {
            *first += std::mem::take(&mut *self.pending);
        }
        out
    }

    /// Test builds: this party's shares of the events of the active rows, and of rows before them
    /// that nobody sampled.
    #[cfg(test)]
    pub(crate) fn insecure_events(&self) -> (Vec<Word>, Word) {
        (self.active.iter().map(|row| *row.events).collect(), *self.pending)
    }
}

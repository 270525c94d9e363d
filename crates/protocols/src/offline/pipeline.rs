//! Work on messages while others are on their way.

use std::collections::VecDeque;
use std::sync::mpsc::{sync_channel, Receiver};

use crate::error::Result;

/// Inputs in work at a time: one that waits, one that is worked on and one that is done, which
/// bounds memory.
pub const DEPTH: usize = 3;

/// Passes every input through `work`, in the thread pool, and the results in order to `done`.
/// Inputs are drawn and results given away in the calling thread, which owns the connection:
/// whichever of the two sends or receives does so while the pool works on other messages. The
/// caller waits for the pool, so it must not be one of its threads.
///
/// # Errors
/// The first that any of the three returns.
pub fn pipeline<T: Send, R: Send>(
    inputs: impl Iterator<Item = Result<T>>,
    work: impl Fn(T) -> Result<R> + Sync,
    done: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    pipeline_of(DEPTH, inputs, work, done)
}

/// The same with `depth` inputs in work at a time, for work that takes much memory.
///
/// # Errors
/// Those of [`pipeline`].
pub fn pipeline_of<T: Send, R: Send>(
    depth: usize,
    inputs: impl Iterator<Item = Result<T>>,
    work: impl Fn(T) -> Result<R> + Sync,
    mut done: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let work = &work;
    rayon::in_place_scope(|scope| {
        let mut begun: VecDeque<Receiver<Result<R>>> = VecDeque::with_capacity(depth);
        let mut finish = |result: Receiver<Result<R>>| done(result.recv().expect("work does not panic")?);
        for input in inputs {
            let input = input?;
            let (give, take) = sync_channel(1);
            scope.spawn(move |_| {
                // Nobody waits for it after an error.
                let _ = give.send(work(input));
            });
            begun.push_back(take);
            if begun.len() == depth {
                begun.pop_front().map_or(Ok(()), &mut finish)?;
            }
        }
        begun.into_iter().try_for_each(finish)
    })
}

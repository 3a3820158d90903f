//! Folds the windows of a plan from the journal.

use std::sync::Arc;

use super::decoded;
use super::shared::Shared;
use crate::window::Plan;
use crate::window::emit::{Emitter, Folded, Priors};

/// What becomes of a plan. Memory: 8 bytes a reading, no more than the plan allows; see `window/collect.rs`.
///
/// # Errors
/// The buffer's.
pub(super) async fn fold(shared: &Shared, plan: Plan) -> anyhow::Result<Folded> {
    // An earlier decision on a window ends after its start, whatever length it then had.
    let decided = plan.windows.iter().filter(|w| w.late || w.frozen).map(|w| w.start).min();
    let names = Arc::clone(&shared.dictionary);
    let (emitter, priors) = shared
        .buffer
        .run(move |b| -> anyhow::Result<(Emitter, Priors)> {
            let mut priors = Priors::of(&plan);
            if let Some(earliest) = decided {
                b.each_decision(earliest, |bytes| {
                    if let Some(decided) = decoded(bytes) {
                        priors.take(&decided);
                    }
                })?;
            }
            let mut emitter = Emitter::new(plan);
            emitter.collect(&|key| priors.get(key), &|key| names.get(key), |from, to, take| {
                b.scan(from, to, |row| take(row))
            })?;
            Ok((emitter, priors))
        })
        .await??;
    Ok(emitter.finish(&|key| priors.get(key)))
}

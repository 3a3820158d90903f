//! Answers the tools: questions about the buffer between two commits, and rejects that are to be tried again.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::retry::retry;
use super::shared::Shared;
use crate::clock::Moment;
use crate::tools::control::{self, Reply, Request};

/// Answers until told to stop. Without its socket the agent works as well, and tools say that it doesn't answer.
///
/// # Errors
/// None: what tools ask for ends no life.
pub(super) async fn answer_loop(shared: Arc<Shared>, end: CancellationToken) -> anyhow::Result<()> {
    let dir = shared.config.state_dir.clone();
    match control::bind(&dir) {
        Ok(listener) => {
            control::serve(listener, &dir, end, move |request| answer(Arc::clone(&shared), request)).await;
        }
        Err(e) => {
            warn!(
                "{} can't be made, so that the tools can't ask this agent: {e}",
                control::path(&dir).display()
            );
            end.cancelled().await;
        }
    }
    Ok(())
}

async fn answer(shared: Arc<Shared>, request: Request) -> Result<Reply, String> {
    match request {
        Request::Read(ask) => {
            let page = shared.buffer.run(move |b| b.read(&ask)).await;
            let page = page.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            Ok(Reply::Page(page))
        }
        Request::Retry(ids) => {
            // Looking at the clock is intake's.
            let moment = Moment { synced: shared.live().clock_synced, ..Moment::believed(shared.now()) };
            let tried = retry(&shared, ids, moment).await.map_err(|e| format!("{e:#}"))?;
            let readings: u64 = tried.iter().filter_map(|t| t.readings.as_ref().ok()).sum();
            info!(rejects = tried.len(), readings, "rejects were tried again");
            Ok(Reply::Retried(tried.into_iter().map(Into::into).collect()))
        }
        Request::Backfill(what) => {
            let asked = shared.buffer.run(move |b| b.backfill(what)).await;
            let readings = asked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            info!(readings, "a backfill was asked for");
            Ok(Reply::Asked(readings))
        }
    }
}

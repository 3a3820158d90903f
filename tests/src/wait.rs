//! Waiting for what another process does: asked again and again, because nobody tells.

use std::time::{Duration, Instant};

use anyhow::bail;

/// After so long a condition is given up; many times what it takes on a slow machine.
pub const GIVE_UP: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(40);

/// Asks `look` until it finds something.
///
/// # Errors
/// After a minute and a half, with `what` was waited for and the last error of `look`, if there was one.
pub async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + GIVE_UP;
    loop {
        let looked = look().await;
        if let Ok(Some(found)) = looked {
            return Ok(found);
        }
        if Instant::now() > deadline {
            let why = looked.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("waited {} s in vain until {what}{why}", GIVE_UP.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

//! `rejects retry`: what couldn't be decoded is tried again with the present configuration, by the running agent or, where
//! none runs, in its buffer.

use std::io::Write;

use serde_json::json;

use super::stopped::in_stopped;
use crate::config::Config;
use crate::pipeline::retry;
use crate::tools::Found;
use crate::tools::access::Access;
use crate::tools::control::Tried;
use crate::tools::rejects::{Choice, can_be_retried};
use crate::tools::text::plain;
use crate::tools::walk;

/// Tries `ids` again, or all that are chosen.
///
/// # Errors
/// The way to the buffer's, and writing.
pub fn retry_rejects(
    config: &Config,
    ids: &[i64],
    choice: &Choice,
    as_json: bool,
    out: &mut dyn Write,
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let mut access = Access::new(config);
    let (rejects, _) = walk::rejects(&mut access)?;
    let ids: Vec<i64> = if ids.is_empty() {
        let whole = rejects.iter().filter(|r| choice.wants(r) && can_be_retried(r).is_ok());
        whole.map(|r| r.id).collect()
    } else {
        ids.to_vec()
    };
    let mut sum = (0, 0, 0_u64);
    for some in ids.chunks(retry::AT_ONCE) {
        let tried = match access.retry(some)? {
            Some(tried) => tried,
            None => in_stopped(config, |buffer, moment| {
                let done = retry::retry_in(buffer, config, some, moment)?;
                Ok(done.into_iter().map(|(outcome, _)| outcome.into()).collect())
            })?,
        };
        for Tried { id, occurrences, readings, failed } in tried {
            match (readings, &failed) {
                (Some(readings), _) => {
                    sum = (sum.0 + 1, sum.1, sum.2 + readings);
                    if !as_json {
                        let once = if occurrences > 1 {
                            format!(" (of one message; {occurrences} identical ones came)")
                        } else {
                            String::new()
                        };
                        writeln!(out, "reject {id}: {readings} readings{once}")?;
                    }
                }
                (None, failed) => {
                    sum.1 += 1;
                    if !as_json {
                        writeln!(out, "reject {id}: {}", plain(failed.as_deref().unwrap_or_default()))?;
                    }
                }
            }
            if as_json {
                let shown =
                    json!({"id": id, "occurrences": occurrences, "readings": readings, "failed": failed});
                writeln!(out, "{shown}")?;
            }
        }
    }
    let (done, failed, readings) = sum;
    note(&format!(
        "{readings} readings of {done} rejects are in the buffer now; {failed} rejects stay as they are"
    ));
    Ok(if failed == 0 { Found::Well } else { Found::Faults })
}

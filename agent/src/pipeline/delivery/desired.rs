//! What operators ask of this gateway: asked for when something else went over the link anyway, and taken durably.

use tracing::{info, warn};
use tributary_contract::desired::MAX_BYTES;
use tributary_contract::time::Timestamp;

use super::Deliverer;
use crate::upload::answer::Got;
use crate::upload::bucket::{Bucket, Fetched};
use crate::upload::classify::{Outcome, classify};
use crate::upload::desired::{Verdict, read};
use crate::upload::link::Class;

impl<B: Bucket + 'static> Deliverer<B> {
    /// Asks for the object `desired` if that is due, and takes it if it is new.
    pub(super) async fn read_desired(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let written = self.status_written.map(|(at, _)| at);
        let every = self.shared.config.status.every;
        let due = is_due(self.desired_at, written, self.uploaded_at, every);
        if !due || now < self.rest_until || !self.may_go(Class::Live, 0) {
            return Ok(());
        }
        let key = self.shared.config.bucket.prefix.desired(&self.shared.config.gateway);
        self.shared.live().link.requests += 1;
        match self.bucket.get(&key, self.desired_etag.as_deref(), MAX_BYTES).await {
            Ok(Fetched::Unchanged) => self.went_well(),
            Ok(Fetched::Body { bytes, etag }) => {
                self.went_well();
                self.take_desired(&key, &bytes).await?;
                self.desired_etag = etag;
            }
            // There, and not to be had as a whole: that says something of the object, and nothing of the link.
            Err(answer) if matches!(answer.got, Got::Reply { status: 200..=299, .. }) => {
                self.refuse_desired(Some(format!("{key} isn't taken: {answer}")));
            }
            Err(answer) => match classify(&answer) {
                // Nobody asks for anything, or whoever may not list isn't told so.
                Outcome::Absent | Outcome::Unknown => self.refuse_desired(None),
                Outcome::Refused => self.refuse_desired(Some(format!("{key} can't be read: {answer}"))),
                Outcome::Again
                | Outcome::Later
                | Outcome::LookFirst(_)
                | Outcome::Conflict
                | Outcome::Stop => {
                    self.went_wrong(&answer, now);
                    return Ok(());
                }
            },
        }
        self.desired_at = Some(self.shared.now());
        Ok(())
    }

    async fn take_desired(&mut self, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let config = &self.shared.config;
        let (last, known) = self.shared.buffer.run(|b| b.desired()).await?;
        match read(bytes, &config.gateway, &config.namespaces(), &last, &known) {
            Verdict::Same => self.refuse_desired(None),
            Verdict::Refused(why) => self.refuse_desired(Some(format!("{key} isn't taken: {why}"))),
            Verdict::Take(taking) => {
                self.refuse_desired(None);
                info!(revision = taking.taken.revision, requests = taking.requests.len(), "{key} is taken");
                let refused =
                    taking.requests.iter().filter_map(|(request, why)| Some((request, why.as_ref()?)));
                for (request, why) in refused {
                    warn!(id = request.id, "backfill: refused: {why}");
                }
                for what in &taking.taken.not_applied {
                    warn!("{key}: not applied: {what}");
                }
                self.shared.buffer.run(move |b| b.take_desired(&taking)).await??;
            }
        }
        Ok(())
    }

    /// Says why the object isn't taken, or that nothing is wrong with it any more.
    fn refuse_desired(&self, why: Option<String>) {
        let mut live = self.shared.live();
        if let Some(why) = why.as_ref().filter(|why| live.desired_refused.as_ref() != Some(*why)) {
            warn!("{why}");
        }
        live.desired_refused = why;
    }
}

/// Whether to ask: once after each status object, and after an upload if nothing was asked for as long as one status follows
/// another. So the question goes over a connection that is there anyway, and a gateway without readings asks as often as it
/// says that it is there.
fn is_due(
    asked: Option<Timestamp>,
    status_written: Option<Timestamp>,
    uploaded: Timestamp,
    every: i64,
) -> bool {
    asked.is_none_or(|asked| status_written.is_some_and(|at| at > asked) || uploaded.since(asked) >= every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_after_a_status_or_where_uploads_put_that_off_after_one_of_them() {
        let due = |status: i64, uploaded: i64| {
            is_due(Some(Timestamp(100)), Some(Timestamp(status)), Timestamp(uploaded), 1_000)
        };
        assert!(is_due(None, None, Timestamp(0), 1_000));
        assert!(due(101, 0) && !due(100, 0) && !due(0, 1_099) && due(0, 1_100));
        assert!(!is_due(Some(Timestamp(100)), None, Timestamp(0), 1_000));
    }
}

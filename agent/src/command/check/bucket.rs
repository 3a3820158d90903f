//! The bucket: credentials, reading, writing under our own name only where it is free, and its clock against ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tributary_contract::time::Timestamp;

use super::Finding;
use crate::config::Config;
use crate::pipeline::{Clock as _, SystemClock, first_status};
use crate::upload::answer::{Got, Transport};
use crate::upload::bucket::Bucket;
use crate::upload::classify::{Outcome, classify};
use crate::upload::probe::{Probe, probe};
use crate::upload::s3::S3Bucket;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Beyond this S3 refuses signatures, microseconds.
const REFUSED: i64 = 15 * 60 * 1_000_000;
/// Beyond this event times are worth a look, microseconds.
const NOTABLE: i64 = 5 * 1_000_000;

/// Reads the receipt, creates the status object where it isn't there, and looks at the store's clock.
pub(super) async fn bucket(config: &Config, now: impl Fn() -> Timestamp) -> Vec<Finding> {
    let name = format!("bucket s3://{}/{}", config.bucket.name, config.bucket.prefix.as_str());
    let store = S3Bucket::new(&config.bucket, Arc::new(|| SystemClock::default().now())).await;
    let silent = || {
        Finding::Bad(format!("{name} doesn't answer within {} s; is the endpoint right?", PATIENCE.as_secs()))
    };
    let mut findings = Vec::new();
    let key = config.bucket.prefix.receipt(&config.gateway);
    match tokio::time::timeout(PATIENCE, store.get(&key, None, 1 << 20)).await {
        Ok(Ok(_)) => findings.push(Finding::Good(format!("{name} answers, and holds a receipt for this gateway"))),
        Ok(Err(answer)) => match classify(&answer) {
            Outcome::Absent => {
                findings.push(Finding::Good(format!("{name} answers; it holds no receipt for this gateway yet")));
            }
            Outcome::Unknown => findings.push(Finding::Note(format!(
                "{name} answers, but neither gives nor denies the receipt ({answer}): that is what a policy without \
                 s3:ListBucket says of what isn't there; if a receipt is, allow s3:GetObject on receipts/"
            ))),
            _ => {
                return vec![Finding::Bad(match answer.got {
                    Got::Nothing(Transport::NoCredentials | Transport::NoCredentialsNow) => {
                        format!("credentials of {name}: {}", answer.detail)
                    }
                    _ => format!("{name}: {answer}"),
                })];
            }
        },
        Err(_) => return vec![silent()],
    }
    let status = first_status(config, &SystemClock::default());
    let status = Bytes::from(serde_json::to_vec(&status).unwrap_or_default());
    let key = config.bucket.prefix.status(&config.gateway);
    findings.push(match tokio::time::timeout(PATIENCE, probe(&store, &key, status)).await {
        Ok(Ok(Probe::Honoured)) => Finding::Good(format!(
            "{name} lets this gateway write, and honours If-None-Match: nothing is ever overwritten"
        )),
        Ok(Ok(Probe::Ignored)) => Finding::Bad(format!("{name}: {}", Probe::REFUSAL)),
        Ok(Err(answer)) => Finding::Bad(format!(
            "{name} doesn't let this gateway write {key}: {answer}; allow s3:PutObject on segments/ and status/ under its \
             name"
        )),
        Err(_) => silent(),
    });
    if let Ok(date) = tokio::time::timeout(PATIENCE, store.date(&key)).await {
        findings.extend(date.map(|theirs| clock_against(theirs, now())));
    }
    findings
}

/// The store's clock shows whole seconds.
fn clock_against(theirs: Timestamp, ours: Timestamp) -> Finding {
    let off = ours.since(theirs);
    let seconds = off.abs() / 1_000_000;
    let side = if off < 0 { "behind" } else { "ahead of" };
    if off.abs() > REFUSED {
        Finding::Bad(format!(
            "clock: it is {seconds} s {side} the bucket's: requests are refused beyond 15 minutes; set it, and have a time \
             service keep it"
        ))
    } else if off.abs() > NOTABLE {
        Finding::Note(format!("clock: it is {seconds} s {side} the bucket's; have a time service keep it"))
    } else {
        Finding::Good("clock: it agrees with the bucket's".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_by_how_much_and_to_which_side() {
        let theirs = Timestamp(1_772_323_200_000_000);
        let said = |seconds: i64| clock_against(theirs, theirs.plus(seconds * 1_000_000)).to_string();
        assert!(said(3).starts_with("ok"));
        assert!(said(-60).starts_with("warn") && said(-60).contains("60 s behind"), "{}", said(-60));
        assert!(said(901).starts_with("FAIL") && said(901).contains("901 s ahead of"), "{}", said(901));
    }
}

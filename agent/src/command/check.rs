//! Edge: tries what the configuration names: brokers, folder, bucket, clock. All it leaves behind is this gateway's status
//! object, where the bucket had none.

mod brokers;
mod bucket;
mod disk;

use std::fmt;

use serde_json::json;
use tributary_contract::time::Timestamp;

use crate::clock::Moment;

use crate::config::Config;
use crate::ingest::decode::{Decoders, DecodersError, sample};
use crate::ingest::topic::{TopicTemplate, overlaps};
use crate::pipeline::{Clock as _, SystemClock};

/// What one trial gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Good(String),
    /// It works, but something is worth knowing.
    Note(String),
    /// It doesn't; the sentence says what to do.
    Bad(String),
}

impl Finding {
    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let (word, text) = match self {
            Finding::Good(text) => ("ok", text),
            Finding::Note(text) => ("warn", text),
            Finding::Bad(text) => ("fail", text),
        };
        json!({"result": word, "text": text})
    }

    /// Whether the agent couldn't do its work with this.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Finding::Bad(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Good(text) => write!(f, "ok    {text}"),
            Finding::Note(text) => write!(f, "warn  {text}"),
            Finding::Bad(text) => write!(f, "FAIL  {text}"),
        }
    }
}

/// Tries everything; one finding a thing.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = topics(config);
    findings.extend(samples(config, now()));
    findings.extend(disk::disk(config));
    let (brokers, bucket) = tokio::join!(brokers::brokers(config), bucket::bucket(config, now));
    findings.extend(brokers);
    findings.extend(bucket);
    findings.push(clock(&SystemClock::default().moment()));
    findings
}

/// Topics that more than one source would take: the first one does.
fn topics(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut parsed: Vec<(&str, TopicTemplate)> = Vec::new();
    for source in &config.sources {
        for topic in &source.topics {
            match TopicTemplate::parse(topic) {
                Ok(template) => {
                    for (other, earlier) in parsed.iter().filter(|(other, _)| *other != source.name) {
                        if overlaps(earlier, &template) {
                            findings.push(Finding::Note(format!(
                                "source {:?} and source {other:?} share topics under {:?}; {other:?} stands first and \
                                 takes them",
                                source.name,
                                template.filter()
                            )));
                        }
                    }
                    parsed.push((&source.name, template));
                }
                Err(e) => {
                    findings.push(Finding::Bad(format!("source {:?}: topic {topic:?}: {e}", source.name)))
                }
            }
        }
    }
    findings
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The samples of all sources, and settings that no decoder can follow.
fn samples(config: &Config, now: Timestamp) -> Vec<Finding> {
    let mut decoders = match Decoders::new(config) {
        Ok(decoders) => decoders,
        // Topics are named above, each by itself.
        Err(DecodersError::Topic { .. }) => return Vec::new(),
        Err(e) => return vec![Finding::Bad(e.to_string())],
    };
    let mut findings = Vec::new();
    for (at, source) in config.sources.iter().enumerate().filter(|(_, s)| !s.decoding.samples.is_empty()) {
        let faults = sample::faults(&mut decoders, at, source, now);
        if faults.is_empty() {
            let text = format!(
                "source {:?}: {} sample(s) give what they say",
                source.name,
                source.decoding.samples.len()
            );
            findings.push(Finding::Good(text));
        }
        findings.extend(faults.into_iter().map(Finding::Bad));
    }
    findings
}

/// Whether the clock can be believed.
fn clock(moment: &Moment) -> Finding {
    if moment.synced {
        return Finding::Good("clock: nothing says that it isn't synchronised".into());
    }
    Finding::Note(
        "clock: it isn't synchronised: what has no time of its own waits for it, an hour at most; is a time service \
         running, and does it reach its servers?"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;
    use crate::config::decoding::{Expect, ExpectedReading, Sample};
    use crate::ingest::decode::tests::{config, source};

    #[test]
    fn a_sample_that_gives_something_else_is_named_with_what_it_gives() {
        let mut s = source("s/{device}/{metric}", Decoder::Auto);
        let expect = |value: &str| {
            Expect::Readings(vec![ExpectedReading {
                value: Some(value.into()),
                ..ExpectedReading::default()
            }])
        };
        let sample = |payload: &str, expect: Expect| Sample {
            topic: "s/d/t".into(),
            payload: payload.as_bytes().to_vec(),
            expect,
        };
        s.decoding.samples = vec![sample("21.50", expect("21.5")), sample("{", Expect::Reject(None))];
        let good = samples(&config(vec![s.clone()]), Timestamp(0));
        assert_eq!(good, [Finding::Good("source \"plant\": 2 sample(s) give what they say".into())]);
        s.decoding.samples.push(sample("22", expect("21.5")));
        s.decoding.samples.push(sample("{", expect("1")));
        let bad: Vec<String> =
            samples(&config(vec![s]), Timestamp(0)).iter().map(Finding::to_string).collect();
        assert_eq!(bad.len(), 2);
        assert!(bad[0].contains("sample 3 (s/d/t): expected value 21.5, got d t = 22"), "{bad:?}");
        assert!(bad[1].contains("sample 4 (s/d/t): rejected, malformed"), "{bad:?}");
    }
}

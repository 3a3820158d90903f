//! Edge: tries what the configuration names (folder, broker, bucket) without changing anything there.

use std::fmt;
use std::time::Duration;

use tributary_contract::id::GatewayId;
use tributary_contract::time::Timestamp;

use crate::config::Config;
use crate::ingest::decode::{Decoders, DecodersError, sample};
use crate::ingest::topic::{TopicTemplate, overlaps};
use crate::upload::bucket::Bucket;
use crate::upload::classify::{Outcome, classify};
use crate::upload::s3::S3Bucket;

/// How long one thing may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

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
    /// Whether the agent couldn't do its work with this.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Finding::Bad(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Good(text) => write!(f, "ok    {text}"),
            Finding::Note(text) => write!(f, "note  {text}"),
            Finding::Bad(text) => write!(f, "FAIL  {text}"),
        }
    }
}

/// Tries everything; one finding a thing.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = topics(config);
    findings.extend(samples(config, now()));
    findings.push(folder(config));
    for broker in &config.brokers {
        findings.push(reach(&broker.host, broker.port).await);
    }
    findings.push(bucket(config, &config.gateway).await);
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

fn folder(config: &Config) -> Finding {
    let dir = &config.state_dir;
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Finding::Bad(format!("state_dir {shown} is no folder; name another")),
        Ok(meta) if meta.permissions().readonly() => {
            Finding::Bad(format!("state_dir {shown} can't be written; change its owner or mode"))
        }
        Ok(_) => Finding::Good(format!("state_dir {shown} is there")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Finding::Note(format!("state_dir {shown} isn't there yet; the agent makes it at its first start"))
        }
        Err(e) => Finding::Bad(format!("state_dir {shown}: {e}")),
    }
}

async fn reach(host: &str, port: u16) -> Finding {
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Finding::Good(format!("broker {host}:{port} takes connections")),
        Ok(Err(e)) => {
            Finding::Bad(format!("broker {host}:{port}: {e}; is it running, and is the port right?"))
        }
        Err(_) => Finding::Bad(format!("broker {host}:{port} doesn't answer; is a firewall between?")),
    }
}

/// Asks for the gateway's receipt: reading it needs the same address, credentials and clock as all else.
async fn bucket(config: &Config, gateway: &GatewayId) -> Finding {
    let name = format!("bucket s3://{}/{}", config.bucket.name, config.bucket.prefix.as_str());
    let store = match S3Bucket::new(&config.bucket).await {
        Ok(store) => store,
        Err(e) => return Finding::Bad(format!("{name}: {e}")),
    };
    let key = config.bucket.prefix.receipt(gateway);
    match tokio::time::timeout(PATIENCE, store.get(&key, None, 1 << 20)).await {
        Ok(Ok(_)) => Finding::Good(format!("{name} answers, and holds a receipt for this gateway")),
        Ok(Err(answer)) if classify(&answer) == Outcome::Absent => {
            Finding::Good(format!("{name} answers; it holds no receipt for this gateway yet"))
        }
        Ok(Err(answer)) => Finding::Bad(format!("{name}: {answer}")),
        Err(_) => Finding::Bad(format!("{name} doesn't answer; is the endpoint right?")),
    }
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

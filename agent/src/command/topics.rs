//! `topics`: what arrives at the brokers for a while, and which source would take it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tributary_contract::time::Timestamp;

use super::Said;
use crate::config::Config;
use crate::ingest::decode::Decoders;
use crate::ingest::mqtt::listen::{Heard, listen};

/// Topics that are told apart; messages on others are counted together.
const MOST_TOPICS: usize = 10_000;

/// What came on one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Topic {
    messages: u64,
    bytes: u64,
    source: Option<usize>,
    readings: u64,
    /// Why its last rejected message was.
    rejected: Option<String>,
}

/// What came, by broker and topic.
#[derive(Debug, Clone, Default)]
pub struct Table {
    topics: BTreeMap<(usize, String), Topic>,
    beyond: u64,
}

impl Table {
    /// Takes note of one message.
    fn note(&mut self, decoders: &mut Decoders, broker: usize, heard: &Heard, now: Timestamp) {
        let key = (broker, heard.topic.clone());
        if !self.topics.contains_key(&key) && self.topics.len() >= MOST_TOPICS {
            self.beyond += 1;
            return;
        }
        let topic = self.topics.entry(key).or_default();
        topic.messages += 1;
        topic.bytes += heard.payload.len() as u64;
        topic.source = decoders.source_of(&heard.topic);
        let Some(source) = topic.source else { return };
        match decoders.decode(source, &heard.topic, &heard.payload, now, heard.retain) {
            Ok(decoded) => topic.readings += decoded.readings.len() as u64,
            Err(reject) => topic.rejected = Some(format!("{}: {}", reject.reason, reject.detail)),
        }
    }

    /// For people: what no source takes first.
    pub fn text(&self, config: &Config) -> String {
        let mut out = String::new();
        let (unmatched, matched): (Vec<_>, Vec<_>) =
            self.topics.iter().partition(|(_, t)| t.source.is_none());
        out += &format!("{} topic(s) that no source takes\n", unmatched.len());
        for ((_, name), topic) in unmatched {
            out += &format!("  {} message(s)  {}\n", topic.messages, name.escape_debug());
        }
        out += &format!("{} topic(s) that a source takes\n", matched.len());
        for ((_, name), topic) in matched {
            let source = topic.source.and_then(|at| config.sources.get(at)).map_or("", |s| s.name.as_str());
            out += &format!(
                "  {} message(s)  {} reading(s)  {source}  {}\n",
                topic.messages,
                topic.readings,
                name.escape_debug()
            );
            if let Some(why) = &topic.rejected {
                out += &format!("    rejected, {}\n", why.escape_debug());
            }
        }
        if self.beyond > 0 {
            out += &format!("{} message(s) on further topics\n", self.beyond);
        }
        out
    }

    /// For programs: an object a topic.
    pub fn json(&self, config: &Config) -> String {
        let row = |((broker, name), topic): (&(usize, String), &Topic)| {
            let source = topic.source.and_then(|at| config.sources.get(at)).map(|s| s.name.as_str());
            let row = json!({
                "broker": broker,
                "topic": name,
                "messages": topic.messages,
                "bytes": topic.bytes,
                "source": source,
                "readings": topic.readings,
                "rejected": topic.rejected,
            });
            format!("{row}\n")
        };
        self.topics.iter().map(row).collect()
    }
}

/// Listens to all brokers for `time` on sessions that they forget, to `filters`, and shows what came.
pub async fn topics(
    config: &Config,
    filters: &[String],
    time: Duration,
    as_json: bool,
    now: impl Fn() -> Timestamp,
) -> Said {
    let mut decoders = match Decoders::new(config) {
        Ok(decoders) => decoders,
        Err(e) => return Said { notes: vec![e.to_string()], failed: true, ..Said::default() },
    };
    let (sender, mut heard) = tokio::sync::mpsc::channel(1024);
    let mut said = Said::default();
    let mut listeners = Vec::new();
    for (at, broker) in config.brokers.iter().enumerate() {
        let (broker, filters, sender) = (broker.clone(), filters.to_vec(), sender.clone());
        listeners.push(tokio::spawn(async move { listen(&broker, &filters, time, at, sender).await }));
    }
    drop(sender);
    let mut table = Table::default();
    while let Some((broker, message)) = heard.recv().await {
        table.note(&mut decoders, broker, &message, now());
    }
    for (listener, broker) in listeners.into_iter().zip(&config.brokers) {
        if let Ok(Err(e)) = listener.await {
            said.failed = true;
            said.notes.push(format!("broker {}:{}: {e}", broker.host, broker.port));
        }
    }
    said.data = if as_json { table.json(config) } else { table.text(config) };
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;
    use crate::ingest::decode::tests::{config, source};

    #[test]
    fn what_no_source_takes_is_told_apart_from_what_one_takes_or_rejects() {
        let config = config(vec![source("a/#", Decoder::Json)]);
        let mut decoders = Decoders::new(&config).unwrap();
        let mut table = Table::default();
        for (topic, payload) in
            [("a/b", "{\"v\":1}"), ("a/b", "{"), ("x/\u{1b}[0m", "1"), ("a/b", "{\"v\":1,\"w\":2}")]
        {
            let heard = Heard { topic: topic.into(), payload: payload.as_bytes().to_vec(), retain: false };
            table.note(&mut decoders, 0, &heard, Timestamp(0));
        }
        // Neither names a device: both are rejects.
        let text = table.text(&config);
        assert!(
            text.contains("1 topic(s) that no source takes") && text.contains("1 message(s)  x/\\u{1b}[0m"),
            "{text}"
        );
        assert!(text.contains("3 message(s)  0 reading(s)  plant  a/b"), "{text}");
        assert!(text.contains("rejected, no-name"), "{text}");
        assert_eq!(table.json(&config).lines().count(), 2);
    }
}

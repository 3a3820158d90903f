//! Each broker: whether it lets us in, what it grants each source.

use super::Finding;
use crate::config::{Config, MqttVersion, Source};
use crate::ingest::mqtt::trial::{self, Trial};
use crate::ingest::mqtt::{Filter, filters};
use crate::ingest::topic::TopicTemplate;

/// Asks all brokers at once.
pub(super) async fn brokers(config: &Config) -> Vec<Finding> {
    let Ok(filters) = filters(config) else { return Vec::new() };
    let mut asked = tokio::task::JoinSet::new();
    for (at, broker) in config.brokers.iter().enumerate() {
        let (broker, filters) = (broker.clone(), filters.clone());
        asked.spawn(async move { (at, trial::ask(&broker, &filters).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    let judged = answers.into_iter().filter_map(|(at, answer)| {
        let broker = config.brokers.get(at)?;
        let name = format!("broker {}:{}", broker.host, broker.port);
        Some(judge(&name, broker.version, &config.sources, answer))
    });
    judged.flatten().collect()
}

fn judge(name: &str, wanted: MqttVersion, sources: &[Source], answer: Result<Trial, String>) -> Vec<Finding> {
    let Trial { protocol, granted } = match answer {
        Ok(trial) => trial,
        Err(why) => return vec![Finding::Bad(format!("{name}: {why}; {}", hint(&why)))],
    };
    let spoken = if protocol == MqttVersion::V5 { "5" } else { "3.1.1" };
    let mut findings = vec![if protocol == wanted {
        Finding::Good(format!("{name} lets us in, with MQTT {spoken}"))
    } else {
        Finding::Note(format!(
            "{name} lets us in, but doesn't speak MQTT 5: 3.1.1 is used; set version = \"3.1.1\""
        ))
    }];
    for source in sources {
        findings.extend(source.topics.iter().filter_map(|topic| of_topic(name, source, topic, &granted)));
    }
    findings
}

/// What the broker grants one topic of a source.
fn of_topic(
    name: &str,
    source: &Source,
    topic: &str,
    granted: &[(Filter, Result<u8, String>)],
) -> Option<Finding> {
    let filter = TopicTemplate::parse(topic).ok()?.filter();
    let (_, answer) = granted.iter().find(|(f, _)| f.path == filter)?;
    let what = format!("source {:?} at {name}: {filter:?}", source.name);
    Some(match answer {
        Err(why) => Finding::Bad(format!(
            "{what} is refused ({why}); let this user read it in the broker's access rules, or change the topic"
        )),
        Ok(0) if source.qos == 0 => Finding::Note(format!(
            "{what} comes at QoS 0, as it is set: what arrives within a commit interval before a crash is lost; set qos = 1"
        )),
        Ok(qos) if *qos < source.qos => Finding::Note(format!(
            "{what} is granted at QoS {qos} only, asked was {}: what arrives within a commit interval before a crash is \
             lost; raise the QoS that the broker grants",
            source.qos
        )),
        Ok(qos) => Finding::Good(format!(
            "{what} comes at QoS {qos}, as far as it is published so: what sensors send at QoS 0 stays there \
             (`status` has their share)"
        )),
    })
}

fn hint(why: &str) -> &'static str {
    if why.contains("BadUserNamePassword") {
        "check username and password_file"
    } else if why.contains("NotAuthorized") {
        "the broker doesn't let this user or client id in: check username, password_file, and its access rules"
    } else if why.contains("certificate") || why.contains("TLS") || why.contains("tls") {
        "check ca_file, cert_file, key_file, and the clock"
    } else if why.contains("lookup") || why.contains("resolve") {
        "is the host's name right, and does the name service answer?"
    } else {
        "is it running, is the port right, and is no firewall between?"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Decoder;
    use crate::ingest::decode::tests::{config, source};

    #[test]
    fn each_source_s_topic_gets_its_own_word() {
        let (mut one, two) = (source("a/{device}/#", Decoder::Json), source("b/#", Decoder::Json));
        one.topics.push("c/+".into());
        let mut zero = source("z", Decoder::Json);
        zero.qos = 0;
        let granted = |path: &str, qos, answer| (Filter { path: path.into(), qos }, answer);
        let trial = Trial {
            protocol: MqttVersion::V311,
            granted: vec![
                granted("a/+/#", 1, Ok(1)),
                granted("c/+", 1, Ok(0)),
                granted("b/#", 1, Err("NotAuthorized".into())),
                granted("z", 0, Ok(0)),
            ],
        };
        let config = config(vec![one, two, zero]);
        let said: Vec<String> = judge("b:1883", MqttVersion::V5, &config.sources, Ok(trial))
            .iter()
            .map(Finding::to_string)
            .collect();
        let expected = [
            ("warn ", "3.1.1 is used"),
            ("ok ", "\"a/+/#\" comes at QoS 1"),
            ("warn ", "\"c/+\" is granted at QoS 0 only, asked was 1"),
            ("FAIL ", "\"b/#\" is refused (NotAuthorized)"),
            ("warn ", "\"z\" comes at QoS 0, as it is set"),
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, (word, text)) in said.iter().zip(expected) {
            assert!(said.starts_with(word) && said.contains(text), "{said}");
        }
        let refused = judge("b:1883", MqttVersion::V5, &[], Err("BadUserNamePassword".into()));
        assert!(refused[0].is_failure() && refused[0].to_string().contains("password_file"));
    }
}

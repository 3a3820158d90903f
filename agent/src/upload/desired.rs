//! What an object `desired` says: whether it is taken, and which of its requests are worked on.
//!
//! It is read from a bucket that others can write to. So it never does more than an operator could ask for: it is taken
//! only with a greater revision than the last one, and a request names a range of readings that this gateway has anyway.

use tributary_contract::desired::{Backfill, Desired};
use tributary_contract::digest::Digest;
use tributary_contract::id::{GatewayId, Namespace};

use crate::buffer::{Taken, Taking};

/// What came of reading a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It was taken before.
    Same,
    /// It isn't taken; why, in a sentence for whoever wrote it.
    Refused(String),
    /// It is taken.
    Take(Taking),
}

/// Reads `bytes` for `gateway`, whose sources write to `namespaces`, and which took `last` with the requests `known`.
pub fn read(
    bytes: &[u8],
    gateway: &GatewayId,
    namespaces: &[Namespace],
    last: &Taken,
    known: &[Backfill],
) -> Verdict {
    let content = Digest::of(bytes);
    if last.content == Some(content) {
        return Verdict::Same;
    }
    let desired = match Desired::from_json(bytes, gateway) {
        Ok(desired) => desired,
        Err(e) => return Verdict::Refused(e.to_string()),
    };
    if desired.revision <= last.revision {
        let (got, last) = (desired.revision, last.revision);
        return Verdict::Refused(format!("its revision {got} isn't above {last}, the last one taken"));
    }
    let mut not_applied: Vec<String> =
        desired.settings.keys().map(|key| format!("settings.{key}: this agent takes no settings")).collect();
    if desired.paused {
        not_applied.push("paused: this agent isn't paused from afar; set link.paused at the gateway".into());
    }
    let other = |request: &&Backfill| known.iter().any(|k| k.id == request.id && k != *request);
    for Backfill { id, .. } in desired.backfills.iter().filter(other) {
        not_applied.push(format!("backfill {id}: another request had that id before: use a new one"));
    }
    let why = |request: &Backfill| {
        let Backfill { namespace, .. } = request;
        let unknown = || format!("no source of this gateway writes to the namespace {namespace}");
        request.senseless().or_else(|| (!namespaces.contains(namespace)).then(unknown))
    };
    let requests = desired.backfills.into_iter().map(|request| (why(&request), request));
    let requests = requests.map(|(why, request)| (request, why)).collect();
    let taken = Taken { revision: desired.revision, content: Some(content), not_applied };
    Verdict::Take(Taking { taken, requests })
}

#[cfg(test)]
mod tests {
    use tributary_contract::time::Timestamp;

    use super::*;

    fn gateway() -> GatewayId {
        GatewayId::new("gw-1").unwrap()
    }

    fn request(id: &str, from: i64, to: i64) -> Backfill {
        let (from, to) = (Timestamp(from), Timestamp(to));
        Backfill { id: id.into(), namespace: Namespace::default(), device: None, metric: None, from, to }
    }

    fn document(revision: u64, backfills: Vec<Backfill>) -> Desired {
        Desired { revision, backfills, ..Desired::new(gateway()) }
    }

    fn reading(desired: &Desired, last: &Taken, known: &[Backfill]) -> Verdict {
        read(desired.to_json().as_bytes(), &gateway(), &[Namespace::default()], last, known)
    }

    fn taken(verdict: Verdict) -> Taking {
        match verdict {
            Verdict::Take(taking) => taking,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_greater_revision_is_taken_and_the_same_bytes_again_are_nothing() {
        let first = document(3, vec![request("a", 0, 1)]);
        let last = taken(reading(&first, &Taken::default(), &[])).taken;
        assert_eq!(last.revision, 3);
        assert_eq!(reading(&first, &last, &[]), Verdict::Same);
        for revision in [0, 2, 3] {
            let other = document(revision, vec![request("b", 0, 1)]);
            let verdict = reading(&other, &last, &[]);
            assert!(
                matches!(&verdict, Verdict::Refused(why) if why.contains("isn't above 3")),
                "{verdict:?}"
            );
        }
        let next = document(u64::MAX, Vec::new());
        assert_eq!(taken(reading(&next, &last, &[])).taken.revision, u64::MAX);
    }

    #[test]
    fn a_document_that_is_not_ours_or_no_document_is_refused_as_a_whole() {
        let elsewhere = Desired { gateway: GatewayId::new("gw-2").unwrap(), ..document(9, Vec::new()) };
        let twice = document(9, vec![request("a", 0, 1), request("a", 0, 1)]);
        for (desired, words) in [(elsewhere, "gw-2"), (twice, "twice")] {
            let verdict = reading(&desired, &Taken::default(), &[]);
            assert!(matches!(&verdict, Verdict::Refused(why) if why.contains(words)), "{verdict:?}");
        }
        let rubbish = read(b"<html>", &gateway(), &[], &Taken::default(), &[]);
        assert!(matches!(&rubbish, Verdict::Refused(why) if why.contains("isn't readable")));
    }

    #[test]
    fn a_senseless_request_is_refused_alone() {
        let foreign = Backfill { namespace: Namespace::new("office").unwrap(), ..request("b", 0, 1) };
        let all = document(1, vec![request("a", 5, 5), foreign, request("c", i64::MIN, i64::MAX)]);
        let requests = taken(reading(&all, &Taken::default(), &[])).requests;
        let why: Vec<Option<String>> = requests.into_iter().map(|(_, why)| why).collect();
        assert!(why[0].as_deref().is_some_and(|w| w.contains("ends")), "{why:?}");
        assert!(why[1].as_deref().is_some_and(|w| w.contains("namespace office")), "{why:?}");
        assert_eq!(why[2], None);
    }

    #[test]
    fn what_is_not_done_yet_is_said() {
        let mut all = document(1, vec![request("a", 0, 1)]);
        all.paused = true;
        all.settings = serde_json::Map::from_iter([("log.level".into(), "debug".into())]);
        let said = taken(reading(&all, &Taken::default(), &[request("a", 0, 2)])).taken.not_applied;
        assert!(said[0].starts_with("settings.log.level") && said[1].starts_with("paused"), "{said:?}");
        assert!(said[2].contains("backfill a: another request"), "{said:?}");
        let same =
            taken(reading(&document(1, vec![request("a", 0, 1)]), &Taken::default(), &[request("a", 0, 1)]));
        assert_eq!(same.taken.not_applied, [""; 0]);
    }
}

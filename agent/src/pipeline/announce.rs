//! Tells closed windows on the broker within moments of the commit that closed them: long before their segment is made.
//!
//! Nothing durable comes of it. A message goes out at QoS 0, to who is there then: what matters is in the table. After a
//! restart a window that wasn't sealed yet is told once more.

use std::sync::Arc;

use tributary_contract::time::Timestamp;

use super::folding::fold;
use super::shared::Shared;
use crate::ingest::decode::Outgoing;
use crate::ingest::mqtt::OUTGOING;
use crate::window::announce::{message, names_of};
use crate::window::emit::Folded;

/// Windows of one series each that are told in one pass: so that acknowledgements and they find room for the socket.
const AT_ONCE: usize = OUTGOING / 2;

/// Tells what is closed at `now` and wasn't told; the number of messages. More may be waiting for the next pass.
///
/// # Errors
/// The buffer's.
pub async fn announce(shared: &Arc<Shared>, now: Timestamp) -> anyhow::Result<usize> {
    let (drained, connected) = {
        let live = shared.live();
        (live.drained.iter().all(|d| *d), live.brokers.first().is_some_and(|b| b.connected))
    };
    if !connected {
        return Ok(0);
    }
    let Some(plan) = shared.windows().to_announce(now, drained, AT_ONCE) else { return Ok(0) };
    let folded = fold(shared, plan).await?;
    let told = tell(shared, &folded);
    // What turned out to hold nothing new isn't asked for again.
    let mut windows = shared.windows();
    for passed in &folded.passed_over {
        windows.announce(&passed.key, passed.through);
    }
    Ok(told)
}

/// Tells those of the folded windows that are to be told and hold something that wasn't; the number of messages.
pub(super) fn tell(shared: &Shared, folded: &Folded) -> usize {
    let Some(publisher) = shared.publisher.get() else { return 0 };
    let gateway = &shared.config.gateway;
    let mut told = 0;
    for emission in &folded.emissions {
        for (row, decision) in emission.rows.iter().zip(&emission.decided.decisions) {
            if !shared.windows().announce(&decision.key(), emission.decided.seen.through) {
                continue;
            }
            let definition = shared.config.windows.iter().find(|w| *w.name == *decision.window);
            let (Some(topic), Some(entry)) =
                (definition.and_then(|w| w.publish.as_ref()), shared.dictionary.get(row.series))
            else {
                continue;
            };
            let topic = topic.topic(&names_of(gateway, &decision.window, &entry));
            publisher.publish(Outgoing { topic, payload: message(row, &entry, gateway) });
            told += 1;
        }
    }
    told
}

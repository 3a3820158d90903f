//! What operators ask of a gateway: the next version of its object `desired`.
//!
//! In: the object as it lies in the bucket, what the gateway says of it in its status, a request. Out: the object to write
//! under the condition that nobody wrote it meanwhile ([`write`]). Absent on purpose: state of its own; the bucket has it.

pub mod write;
#[cfg(test)]
mod tests;

use tributary_contract::desired::{Backfill, Desired, DesiredError, MAX_BACKFILLS, MAX_BYTES};
use tributary_contract::id::{GatewayId, Namespace};
use tributary_contract::status::GatewayStatus;
use tributary_contract::time::Timestamp;

/// What is asked for: a range of event times of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name; else one is made of the revision.
    pub id: Option<String>,
    /// Owner of the data.
    pub namespace: Namespace,
    /// One device, else all.
    pub device: Option<String>,
    /// One metric, else all.
    pub metric: Option<String>,
    /// First event time wanted.
    pub from: Timestamp,
    /// First event time no longer wanted.
    pub to: Timestamp,
}

/// Why a request can't be put into the document.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    /// It would match nothing.
    #[error("nothing is asked for: {0}")]
    Senseless(String),
    /// By its status the gateway has no such namespace.
    #[error("gateway {gateway} writes to {known}, not to the namespace {namespace}")]
    Namespace {
        /// Which gateway.
        gateway: GatewayId,
        /// Those that it says it writes to.
        known: String,
        /// The one asked for.
        namespace: Namespace,
    },
    /// No room, and nothing in it has ended.
    #[error(
        "its document is full: {MAX_BACKFILLS} requests or {} KiB, none of which the gateway calls done: wait until it does",
        MAX_BYTES >> 10
    )]
    Full,
    /// There is no greater revision.
    #[error("its revision can't grow any more: {0}")]
    Revision(u64),
    /// It would be refused by the gateway.
    #[error(transparent)]
    Refused(#[from] DesiredError),
}

/// The document with the request in it, and the request's name. Requests that the gateway says have ended are dropped where
/// there is no room otherwise.
///
/// # Errors
/// Why the gateway would refuse it.
pub fn with_backfill(
    current: Option<Desired>,
    gateway: &GatewayId,
    status: Option<&GatewayStatus>,
    wanted: &Wanted,
) -> Result<(Desired, String), Unwritable> {
    let mut desired = current.unwrap_or_else(|| Desired::new(gateway.clone()));
    let said = status.and_then(|s| s.desired.as_ref());
    // Where the object was removed the gateway still knows the last one.
    let last = said.map_or(0, |s| s.revision).max(desired.revision);
    desired.revision = last.checked_add(1).ok_or(Unwritable::Revision(last))?;
    let Wanted { id, namespace, device, metric, from, to } = wanted.clone();
    if let Some(status) = status.filter(|s| !s.namespaces.iter().any(|known| known == namespace.as_str())) {
        let known = status.namespaces.join(", ");
        return Err(Unwritable::Namespace { gateway: gateway.clone(), known, namespace });
    }
    let id = id.unwrap_or_else(|| format!("backfill-{}", desired.revision));
    let request = Backfill { id: id.clone(), namespace, device, metric, from, to };
    if let Some(why) = request.senseless() {
        return Err(Unwritable::Senseless(why));
    }
    desired.backfills.push(request);
    let ended = |id: &str| {
        let backfills = said.iter().flat_map(|s| &s.backfills);
        backfills.into_iter().any(|b| b.id == id && matches!(b.state.as_str(), "done" | "refused"))
    };
    while desired.backfills.len() > MAX_BACKFILLS || desired.to_json().len() as u64 > MAX_BYTES {
        let at = desired.backfills.iter().position(|b| ended(&b.id) && b.id != id).ok_or(Unwritable::Full)?;
        desired.backfills.remove(at);
    }
    desired.check()?;
    Ok((desired, id))
}

//! Arrivals: what the bucket holds that the ledger has not settled yet.
//!
//! In: listings, one per gateway and epoch, from behind the number up to which everything is settled. Out: keys with
//! size and etag. A listing promises that an object whose PUT was answered before it began is in it; it says nothing
//! about order of delivery, so number 7 may be there before number 5, and it repeats what is still unsettled: the
//! ledger tells what is new. A crash loses nothing, the next listing shows the same. Absent on purpose: any memory of
//! where a listing stopped. Keys that no gateway would write are arrivals too, so that someone is told about them.

pub mod listing;

use tributary_contract::id::{Epoch, GatewayId};
use tributary_contract::key::{KeyError, Prefix, SegmentKey};

use crate::bucket::Listed;

/// The folder of one epoch, as discovered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochFolder {
    /// Whose.
    pub gateway: GatewayId,
    /// Which life of its buffer.
    pub epoch: Epoch,
}

/// What the folder structure under `segments/` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Folders of epochs.
    pub epochs: Vec<EpochFolder>,
    /// Objects where no segment may lie.
    pub strays: Vec<Listed>,
}

/// What a key is.
#[derive(Debug)]
pub enum Arrival {
    /// A segment's key.
    Segment(SegmentKey),
    /// Anything else below `segments/`, with what is wrong.
    Stray(KeyError),
}

/// Reads a key below `segments/`.
pub fn classify(prefix: &Prefix, key: &str) -> Arrival {
    match SegmentKey::parse(prefix, key) {
        Ok(key) => Arrival::Segment(key),
        Err(why) => Arrival::Stray(why),
    }
}

/// The last part of a folder's name: `a/b/gw-1/` is `gw-1`.
fn last_part(folder: &str) -> &str {
    let trimmed = folder.strip_suffix('/').unwrap_or(folder);
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

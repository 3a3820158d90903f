//! What must hold of every segment that comes to be: its laws, growing counters, a number used once.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::file::metadata::ParquetMetaDataReader;
use tributary_contract::counters::Counters;
use tributary_contract::digest::Digest;
use tributary_contract::id::Epoch;
use tributary_contract::manifest::{MANIFEST_KEY, Manifest};

/// All segments so far.
#[derive(Default)]
pub struct Manifests {
    seen: BTreeMap<(Epoch, u64), (Digest, Counters)>,
}

impl Manifests {
    /// A segment was created under `key`, for the first time or again.
    ///
    /// # Errors
    /// A sentence that says what doesn't hold.
    pub fn created(&mut self, key: &str, bytes: &Bytes) -> Result<(), String> {
        let manifest = read(bytes).map_err(|e| format!("{key}: {e}"))?;
        if !key.ends_with(&manifest.key().file_name()) {
            return Err(format!("{key} holds the segment {}", manifest.key().file_name()));
        }
        let (digest, counters) = (Digest::of(bytes), manifest.counters);
        counters.check().map_err(|e| format!("{key}: {e}"))?;
        let id = (manifest.epoch, manifest.number.get());
        if let Some((known, _)) = self.seen.get(&id) {
            let again = *known == digest;
            return again
                .then_some(())
                .ok_or_else(|| format!("{key}: its number has named other bytes before"));
        }
        let below = self.seen.range((id.0, 0)..id).next_back();
        let above = self.seen.range(id..=(id.0, u64::MAX)).next();
        if let Some(((_, n), (_, earlier))) = below
            && !counters.grew_from(earlier)
        {
            return Err(format!("{key}: a counter is smaller than in number {n}"));
        }
        if let Some(((_, n), (_, later))) = above
            && !later.grew_from(&counters)
        {
            return Err(format!("{key}: a counter is greater than in number {n}"));
        }
        self.seen.insert(id, (digest, counters));
        Ok(())
    }
}

fn read(bytes: &Bytes) -> Result<Manifest, String> {
    let footer = ParquetMetaDataReader::new().parse_and_finish(bytes).map_err(|e| e.to_string())?;
    let pairs = footer.file_metadata().key_value_metadata();
    let json = pairs.into_iter().flatten().find(|p| p.key == MANIFEST_KEY).and_then(|p| p.value.as_deref());
    Manifest::from_json(json.ok_or("no manifest")?).map_err(|e| e.to_string())
}

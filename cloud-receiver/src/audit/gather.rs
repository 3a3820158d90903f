//! Reads the evidence out of tables and bucket.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use tributary_contract::id::GatewayId;
use tributary_contract::key::{Prefix, SegmentKey};
use tributary_contract::manifest::{MANIFEST_KEY, Manifest};
use tributary_contract::receipt::Receipt;
use tributary_contract::status::GatewayStatus;

use super::Evidence;
use crate::arrival::listing::{arrivals, discover};
use crate::bucket::{Bucket, Extent, Got, Query};
use crate::catalog::Lake;
use crate::dedupe::own_gaps::gap_numbers;
use crate::receipt::write::MAX_BYTES;
use crate::validate::inspect::{Latest, latest_footer};

/// Footers read at a time.
const READS: usize = 16;

/// Reads everything that is compared.
pub async fn gather(lake: &Lake, bucket: &dyn Bucket, prefix: &Prefix) -> anyhow::Result<Evidence> {
    let mut evidence = Evidence::default();
    // What gateways and receipts claim is read first: what lands meanwhile can only bear it out.
    for (gateway, json) in documents(bucket, &prefix.receipts()).await? {
        evidence.receipts.extend(Receipt::from_json(&json, &gateway).ok().map(|r| (gateway, r)));
    }
    for (gateway, json) in documents(bucket, &prefix.statuses()).await? {
        let status = serde_json::from_slice::<GatewayStatus>(&json).ok();
        evidence.statuses.extend(status.filter(|s| s.gateway == gateway).map(|s| (gateway, s)));
    }
    for (namespace, table) in lake.names().await? {
        let Some(look) = lake.peek(&namespace, table).await? else { continue };
        let held = look.holdings().await?;
        evidence.foreign.insert(look.name(), held.foreign);
        for (id, held) in held.segments {
            evidence.held.entry(id).or_default().insert(look.name(), held.rows);
        }
        evidence.doubled.extend(look.doubled().await?);
        for gap in look.own_gaps().await? {
            let Some((reason, first, last)) = gap_numbers(&gap.id) else { continue };
            let numbers = if reason.leaves_out() { &mut evidence.left_out } else { &mut evidence.void };
            numbers.entry((gap.gateway, gap.epoch)).or_default().insert_range(first, last);
        }
    }
    for folder in discover(bucket, prefix).await?.epochs {
        let mut page = None;
        loop {
            let listed = arrivals(bucket, prefix, &folder, 0, page).await?;
            let keys = listed.objects.into_iter().filter_map(|o| {
                let key = SegmentKey::parse(prefix, &o.key).ok()?;
                Some((key, o.key))
            });
            let read: Vec<_> = futures::stream::iter(keys)
                .map(|(key, object_key)| async move {
                    let manifest = manifest(bucket, &object_key, &key).await?;
                    anyhow::Ok(manifest.map(|manifest| (key, manifest)))
                })
                .buffered(READS)
                .try_collect()
                .await?;
            for (key, manifest) in read.into_iter().flatten() {
                evidence.segments.insert(key.id, manifest);
            }
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
    }
    Ok(evidence)
}

/// The manifest of a segment in the bucket; none if it is gone by now.
async fn manifest(
    bucket: &dyn Bucket,
    object_key: &str,
    key: &SegmentKey,
) -> anyhow::Result<Option<Result<Manifest, String>>> {
    let footer = match latest_footer(bucket, object_key).await? {
        Latest::Read(footer) => footer,
        Latest::Unreadable(why) => return Ok(Some(Err(why))),
        Latest::Gone => return Ok(None),
    };
    let pairs = footer.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let json = pairs.iter().find(|kv| kv.key == MANIFEST_KEY).and_then(|kv| kv.value.as_deref());
    let read = json.ok_or_else(|| "its footer has no manifest".to_owned()).and_then(|json| {
        let manifest = Manifest::from_json(json).map_err(|e| e.to_string())?;
        manifest.agrees_with(key).map_err(|e| e.to_string())?;
        Ok(manifest)
    });
    Ok(Some(read))
}

/// The JSON documents of a folder, by the gateway that their names say.
async fn documents(bucket: &dyn Bucket, folder: &str) -> anyhow::Result<BTreeMap<GatewayId, bytes::Bytes>> {
    let mut query = Query { prefix: folder.to_owned(), limit: 1000, ..Query::default() };
    let mut all = BTreeMap::new();
    loop {
        let page = bucket.list(&query).await?;
        for listed in page.objects {
            let name = listed.key.strip_prefix(folder).and_then(|n| n.strip_suffix(".json"));
            let Some(gateway) = name.and_then(|n| n.parse::<GatewayId>().ok()) else { continue };
            if let Got::Object(object) = bucket.get(&listed.key, Extent::Whole { limit: MAX_BYTES }).await? {
                all.insert(gateway, object.bytes);
            }
        }
        match page.next {
            Some(next) => query.page = Some(next),
            None => return Ok(all),
        }
    }
}

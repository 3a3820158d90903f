//! Listings of the bucket: which epochs there are, and what is new in one.

use tributary_contract::id::{Epoch, GatewayId};
use tributary_contract::key::Prefix;

use super::{Discovered, EpochFolder, last_part};
use crate::bucket::{Bucket, BucketError, Listed, Page, Query};

/// Objects and folders of one request.
const PAGE: usize = 1000;
/// The most strays that one discovery brings; the next one brings those behind them once these are known.
const STRAYS: usize = 1000;

/// Finds all epochs' folders, and the objects that lie beside them.
pub async fn discover(bucket: &dyn Bucket, prefix: &Prefix) -> Result<Discovered, BucketError> {
    let mut found = Discovered::default();
    let mut foreign = Vec::new();
    let gateways = folders(bucket, prefix.segments(), &mut found.strays).await?;
    for folder in gateways {
        let Ok(gateway) = last_part(&folder).parse::<GatewayId>() else {
            foreign.push(folder);
            continue;
        };
        for folder in folders(bucket, prefix.segments_of(&gateway), &mut found.strays).await? {
            match last_part(&folder).parse::<Epoch>() {
                Ok(epoch) => found.epochs.push(EpochFolder { gateway: gateway.clone(), epoch }),
                Err(_) => foreign.push(folder),
            }
        }
    }
    for folder in foreign {
        if found.strays.len() >= STRAYS {
            break;
        }
        let page = bucket.list(&Query { prefix: folder, limit: PAGE, ..Query::default() }).await?;
        found.strays.extend(page.objects);
    }
    Ok(found)
}

async fn folders(
    bucket: &dyn Bucket,
    prefix: String,
    strays: &mut Vec<Listed>,
) -> Result<Vec<String>, BucketError> {
    let mut all = Vec::new();
    let mut query = Query { prefix, folders: true, limit: PAGE, ..Query::default() };
    loop {
        let Page { objects, folders, next } = bucket.list(&query).await?;
        all.extend(folders);
        // Some tools make folders as empty objects whose key ends with a slash.
        strays.extend(objects.into_iter().filter(|o| !(o.size == 0 && o.key.ends_with('/'))));
        strays.truncate(STRAYS);
        match next {
            Some(page) => query.page = Some(page),
            None => return Ok(all),
        }
    }
}

/// One page of what lies in `folder` behind number `settled`; `page` is where the page before ended.
pub async fn arrivals(
    bucket: &dyn Bucket,
    prefix: &Prefix,
    folder: &EpochFolder,
    settled: u64,
    page: Option<String>,
) -> Result<Page, BucketError> {
    let query = Query {
        prefix: prefix.epoch(&folder.gateway, folder.epoch),
        start_after: Some(prefix.after(&folder.gateway, folder.epoch, settled)),
        page,
        limit: PAGE,
        ..Query::default()
    };
    bucket.list(&query).await
}

#[cfg(test)]
mod tests {
    use tributary_contract::time::Timestamp;

    use super::*;
    use crate::bucket::memory::MemoryBucket;

    fn keys(objects: &[Listed]) -> Vec<&str> {
        objects.iter().map(|o| o.key.as_str()).collect()
    }

    #[tokio::test]
    async fn gateways_and_epochs_are_discovered_and_foreign_objects_are_strays() {
        let bucket = MemoryBucket::default();
        for key in [
            "p/segments/gw-1/00000000000000aa/0000000001-t.readings-2026-01-01.parquet",
            "p/segments/gw-1/00000000000000ab/0000000001-t.readings-2026-01-01.parquet",
            "p/segments/gw-1/not-an-epoch/x.parquet",
            "p/segments/gw-2/00000000000000aa/0000000009-t.readings-2026-01-01.parquet",
            "p/segments/bad name/x",
            "p/segments/loose.parquet",
            "p/status/gw-1.json",
        ] {
            bucket.deliver(key, "x", Timestamp(0));
        }
        let found = discover(&bucket, &Prefix::new("p").unwrap()).await.unwrap();
        let epochs: Vec<String> = found.epochs.iter().map(|f| format!("{}/{}", f.gateway, f.epoch)).collect();
        assert_eq!(epochs, ["gw-1/00000000000000aa", "gw-1/00000000000000ab", "gw-2/00000000000000aa"]);
        assert_eq!(
            keys(&found.strays),
            ["p/segments/loose.parquet", "p/segments/bad name/x", "p/segments/gw-1/not-an-epoch/x.parquet"]
        );
    }

    #[tokio::test]
    async fn only_what_lies_behind_the_settled_number_is_listed_page_by_page() {
        let bucket = MemoryBucket::default();
        let key = |n: u64| format!("segments/gw/00000000000000aa/{n:010}-t.readings-2026-01-01.parquet");
        for n in 1..=2105 {
            bucket.deliver(&key(n), "x", Timestamp(0));
        }
        let prefix = Prefix::default();
        let folder = EpochFolder { gateway: GatewayId::new("gw").unwrap(), epoch: Epoch(0xaa) };
        let mut seen = Vec::new();
        let mut page = None;
        loop {
            let got = arrivals(&bucket, &prefix, &folder, 5, page).await.unwrap();
            seen.extend(got.objects.into_iter().map(|o| o.key));
            page = got.next;
            if page.is_none() {
                break;
            }
        }
        assert_eq!(seen, (6..=2105).map(key).collect::<Vec<_>>());
    }
}

//! Listings: what is in them, in which order, and how pages follow each other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::page::{After, page};
use super::*;

async fn keys(world: &World, list: impl Fn(Listing) -> Listing) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), None);
    loop {
        let request = list(world.client.list_objects_v2().bucket(BUCKET)).set_continuation_token(token);
        let page = request.send().await.unwrap();
        assert_eq!(page.key_count(), Some((page.contents().len() + page.common_prefixes().len()) as i32));
        keys.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        prefixes.extend(page.common_prefixes().iter().map(|prefix| prefix.prefix().unwrap().to_owned()));
        if page.is_truncated() != Some(true) {
            return (keys, prefixes);
        }
        token = Some(page.next_continuation_token.unwrap());
    }
}

type Listing = aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;

#[tokio::test]
async fn listings_follow_prefix_delimiter_start_and_pages() {
    let world = World::start().await;
    let all = ["a", "seg/gw-1/1", "seg/gw-1/2", "seg/gw-1/3", "seg/gw-2/1", "seg/gw-2/2", "seg/x", "z", "ä"];
    for key in all {
        world.put(key, key.as_bytes()).await;
    }
    for world in [world] {
        let world = world.restart().await;
        assert_eq!(keys(&world, |list| list).await.0, all);
        for size in [1, 2, 3] {
            assert_eq!(keys(&world, |list| list.max_keys(size)).await.0, all, "pages of {size}");
            let (flat, groups) = keys(&world, |list| list.delimiter("/").prefix("seg/").max_keys(size)).await;
            assert_eq!(flat, ["seg/x"], "pages of {size}");
            assert_eq!(groups, ["seg/gw-1/", "seg/gw-2/"], "pages of {size}");
            let (new, _) =
                keys(&world, |list| list.prefix("seg/gw-1/").start_after("seg/gw-1/1").max_keys(size)).await;
            assert_eq!(new, ["seg/gw-1/2", "seg/gw-1/3"], "pages of {size}");
        }
        assert_eq!(
            keys(&world, |list| list.start_after("seg/gw-2/15")).await.0,
            ["seg/gw-2/2", "seg/x", "z", "ä"]
        );
        assert_eq!(keys(&world, |list| list.prefix("none")).await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn a_listing_tells_sizes_and_etags_and_encodes_names_when_asked() {
    let world = World::start().await;
    let etag = world.put("a b/ü+%", b"value").await;
    let list = || world.client.list_objects_v2().bucket(BUCKET);
    let plain = list().send().await.unwrap();
    let object = &plain.contents()[0];
    assert_eq!(
        (object.key(), object.size(), object.e_tag()),
        (Some("a b/ü+%"), Some(5), Some(etag.as_str()))
    );
    let encoded = list().encoding_type(aws_sdk_s3::types::EncodingType::Url).send().await.unwrap();
    assert_eq!(encoded.contents()[0].key(), Some("a%20b/%C3%BC%2B%25"));
}

#[tokio::test]
async fn pages_that_cannot_be_are_refused() {
    let world = World::start().await;
    world.put("k", b"value").await;
    let list = || world.client.list_objects_v2().bucket(BUCKET);
    assert_eq!(refusal(list().max_keys(-1).send().await), refused(400, "InvalidArgument"));
    assert_eq!(refusal(list().continuation_token("nonsense").send().await), refused(400, "InvalidArgument"));
    let none = list().max_keys(0).send().await.unwrap();
    assert_eq!((none.contents().len(), none.is_truncated()), (0, Some(false)));
}

proptest! {
    #[test]
    fn pages_of_any_size_together_are_the_whole_listing(
        names in prop::collection::btree_set("[ab/é]{1,6}", 0..40),
        prefix in "[ab/]{0,2}",
        delimiter in prop::option::of("[/a]"),
        start in prop::option::of("[ab/]{0,4}"),
        limit in 1usize..7,
    ) {
        let all: BTreeMap<String, String> = names.iter().map(|name| (name.clone(), name.clone())).collect();
        let begin = start.clone().map_or(After::Start, After::Key);
        let mut expected_keys = Vec::new();
        let mut expected_prefixes = BTreeSet::new();
        for name in names.iter().filter(|name| name.starts_with(&prefix)) {
            if start.as_ref().is_some_and(|start| name <= start) {
                continue;
            }
            let cut = delimiter.as_ref().and_then(|d| name[prefix.len()..].find(d.as_str()));
            match cut {
                Some(at) => drop(expected_prefixes.insert(name[..=prefix.len() + at].to_owned())),
                None => expected_keys.push(name.clone()),
            }
        }
        let (mut keys, mut prefixes, mut after) = (Vec::new(), Vec::new(), begin);
        loop {
            let one = page(&all, &prefix, delimiter.as_deref(), &after, limit);
            prop_assert!(one.entries.len() + one.prefixes.len() <= limit);
            keys.extend(one.entries);
            prefixes.extend(one.prefixes);
            let Some(next) = one.next else { break };
            after = After::from_token(&next.to_token()).unwrap();
            prop_assert_eq!(&after, &next);
        }
        prop_assert_eq!(keys, expected_keys);
        prop_assert_eq!(prefixes, expected_prefixes.into_iter().collect::<Vec<_>>());
    }
}

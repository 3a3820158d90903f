//! What validation promises: sound segments pass, each fault has its reason, nothing panics.

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use proptest::prelude::*;
use tributary_contract::id::Number;
use tributary_contract::manifest::Manifest;
use tributary_contract::reject::QuarantineReason as Reason;
use tributary_contract::table::Table;

use super::content::read_footer;
use super::inspect::judge;
use super::*;
use crate::bucket::Object;
use crate::fixture::{Forge, Sealed, encode, manifest, object, rows};

fn segment() -> Sealed {
    Forge::new("gw-1", 0xaa).seal(Table::Readings, 10)
}

fn reason(object: Object, key: &SegmentKey) -> Reason {
    let refused = judge(object, key).unwrap_err();
    assert!(!refused.detail.is_empty());
    refused.reason
}

/// The reason for which a file of these rows and this manifest is refused.
fn reason_of(key: &SegmentKey, rows: &RecordBatch, manifest: Option<&str>) -> Reason {
    reason(object(encode(rows, manifest)), key)
}

fn changed(change: impl FnOnce(&mut Manifest)) -> Reason {
    let key = segment().key;
    let mut manifest = manifest(&key, 10, None);
    change(&mut manifest);
    reason_of(&key, &rows(&key, 10), Some(&manifest.to_json()))
}

#[test]
fn a_sound_segment_of_every_table_is_accepted_with_what_registration_needs() {
    for table in Table::ALL {
        let sealed = Forge::new("gw:1", 0xbb).seal(table, 9000);
        let accepted = judge(sealed.object(), &sealed.key).unwrap();
        assert_eq!((accepted.key, accepted.manifest), (sealed.key.clone(), sealed.manifest.clone()));
        assert_eq!((accepted.digest, accepted.size), (sealed.digest(), sealed.bytes.len() as u64));
        assert_eq!(accepted.footer.file_metadata().num_rows(), 9000);
    }
}

#[test]
fn bytes_without_their_digest_are_a_wrong_digest() {
    let sealed = segment();
    let other = Digest::of(b"other").to_string();
    for digest in [None, Some("nonsense".to_owned()), Some(other)] {
        assert_eq!(reason(Object { digest, ..sealed.object() }, &sealed.key), Reason::WrongDigest);
    }
}

#[test]
fn what_is_no_parquet_file_is_unreadable() {
    let sealed = segment();
    let half = sealed.bytes.slice(..sealed.bytes.len() / 2);
    for bytes in [Bytes::new(), Bytes::from_static(b"PAR1"), Bytes::from_static(b"hello world, PAR1"), half] {
        assert_eq!(reason(object(bytes), &sealed.key), Reason::Unreadable);
    }
}

#[test]
fn a_file_whose_pages_are_damaged_is_unreadable_even_if_its_digest_is_right() {
    let sealed = segment();
    let mut bytes = sealed.bytes.to_vec();
    bytes[4..400].fill(0xff);
    assert_eq!(reason(object(bytes.into()), &sealed.key), Reason::Unreadable);
}

#[test]
fn an_object_beyond_the_limit_is_too_large() {
    assert_eq!(inspect::too_large(MAX_OBJECT_BYTES + 1).reason, Reason::TooLarge);
}

#[test]
fn a_file_without_a_manifest_or_with_one_that_contradicts_itself_has_a_bad_manifest() {
    let key = segment().key;
    assert_eq!(reason_of(&key, &rows(&key, 10), None), Reason::BadManifest);
    assert_eq!(reason_of(&key, &rows(&key, 10), Some("{}")), Reason::BadManifest);
    assert_eq!(changed(|m| m.counters.messages.received = 1), Reason::BadManifest);
    assert_eq!(changed(|m| m.version = 0), Reason::BadManifest);
}

#[test]
fn a_manifest_of_a_later_format_is_a_future_version() {
    assert_eq!(changed(|m| m.version += 1), Reason::FutureVersion);
}

#[test]
fn a_segment_under_another_name_is_a_wrong_name() {
    assert_eq!(changed(|m| m.number = Number::new(2).unwrap()), Reason::WrongName);
    let sealed = segment();
    let mut key = sealed.key.clone();
    key.id.gateway = "gw-2".parse().unwrap();
    assert_eq!(reason(sealed.object(), &key), Reason::WrongName);
}

#[test]
fn columns_that_are_not_the_tables_are_a_foreign_schema() {
    let key = segment().key;
    let good = rows(&key, 10);
    let json = manifest(&key, 10, None).to_json();
    let with = |change: &dyn Fn(usize, &Field) -> Option<Field>| {
        let kept: Vec<(Field, _)> = good
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter_map(|(i, f)| Some((change(i, f)?, good.column(i).clone())))
            .collect();
        let (fields, columns): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        RecordBatch::try_new(Schema::new(fields).into(), columns).unwrap()
    };
    let renamed = with(&|i, f| Some(if i == 2 { f.clone().with_name("metrik") } else { f.clone() }));
    let renumbered =
        with(&|i, f| Some(if i == 2 { f.clone().with_metadata(Default::default()) } else { f.clone() }));
    let dropped = with(&|i, f| (i != 2).then(|| f.clone()));
    let loosened = with(&|i, f| Some(if i == 2 { f.clone().with_nullable(true) } else { f.clone() }));
    for batch in [renamed, renumbered, dropped, loosened] {
        assert_eq!(reason_of(&key, &batch, Some(&json)), Reason::ForeignSchema);
    }
    let older = with(&|_, f| (f.name() != "unit").then(|| f.clone()));
    judge(object(encode(&older, Some(&json))), &key).expect("an optional column may be absent");
}

#[test]
fn rows_that_are_not_what_the_manifest_says_are_wrong_rows() {
    assert_eq!(changed(|m| m.rows = 11), Reason::WrongRows);
    assert_eq!(changed(|m| m.max_ts = m.max_ts.plus(1)), Reason::WrongRows);
    assert_eq!(changed(|m| m.min_seq = Some(1)), Reason::WrongRows);
    let key = segment().key;
    let json = manifest(&key, 10, None).to_json();
    for change in 0..4 {
        let mut other = key.clone();
        match change {
            0 => other.id.gateway = "gw-2".parse().unwrap(),
            1 => other.id.epoch.0 += 1,
            2 => other.id.number = Number::new(2).unwrap(),
            _ => other.day.0 += 1,
        }
        let mut batch = rows(&other, 10);
        if change == 2 {
            // The seqs stay those of the manifest.
            let index = batch.schema().index_of("seq").unwrap();
            let mut columns = batch.columns().to_vec();
            columns[index] = rows(&key, 10).column(index).clone();
            batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
        }
        assert_eq!(reason_of(&key, &batch, Some(&json)), Reason::WrongRows, "change {change}");
    }
}

#[test]
fn one_foreign_row_among_many_is_found_and_named() {
    let sealed = Forge::new("gw-1", 0xaa).seal(Table::Readings, 5000);
    let batch = rows(&sealed.key, 5000);
    let index = batch.schema().index_of("segment_number").unwrap();
    let mut columns = batch.columns().to_vec();
    let numbers = (0..5000).map(|i| Some(if i == 4321 { 7 } else { 1 }));
    columns[index] = Arc::new(numbers.collect::<Int64Array>());
    let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let refused = judge(object(encode(&batch, Some(&sealed.manifest.to_json()))), &sealed.key).unwrap_err();
    assert_eq!(refused.reason, Reason::WrongRows);
    assert!(refused.detail.starts_with("row 4322 says"), "{}", refused.detail);
}

#[test]
fn a_footer_is_read_from_the_end_of_a_file_and_says_how_much_it_needs() {
    let bytes = segment().bytes;
    let needed = read_footer(&bytes.slice(bytes.len() - 20..)).unwrap().unwrap_err();
    let tail = bytes.slice(bytes.len() - needed as usize..);
    assert_eq!(read_footer(&tail).unwrap().unwrap().file_metadata().num_rows(), 10);
    assert!(read_footer(&Bytes::from_static(b"nothing at all")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let verdict = judge(object(bytes.into()), &segment().key);
        prop_assert_eq!(verdict.unwrap_err().reason, Reason::Unreadable);
    }

    #[test]
    fn truncated_segments_are_refused_and_never_panic(share in 0.0f64..1.0) {
        let sealed = segment();
        let cut = (sealed.bytes.len() as f64 * share) as usize;
        prop_assert!(judge(object(sealed.bytes.slice(..cut)), &sealed.key).is_err());
    }

    /// Whoever can write a digest can write any bytes: a flipped bit is either harmless to all that was checked, or
    /// refused.
    #[test]
    fn segments_with_flipped_bits_never_panic(flips in proptest::collection::vec((0.0f64..1.0, 0u8..8), 1..8)) {
        let sealed = segment();
        let mut bytes = sealed.bytes.to_vec();
        for (share, bit) in flips {
            let at = (bytes.len() as f64 * share) as usize;
            bytes[at] ^= 1 << bit;
        }
        if let Ok(accepted) = judge(object(bytes.into()), &sealed.key) {
            prop_assert_eq!(accepted.key, sealed.key);
            prop_assert_eq!(accepted.manifest.rows, 10);
        }
    }
}

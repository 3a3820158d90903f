//! Decides whether a segment may be registered: key and facts in, verdict out.

use arrow::datatypes::{DataType, Field, Schema};
use tributary_contract::digest::Digest;
use tributary_contract::key::SegmentKey;
use tributary_contract::manifest::{Manifest, ManifestError};
use tributary_contract::reject::QuarantineReason as Reason;
use tributary_contract::schema::FIELD_ID_KEY;
use tributary_contract::table::Table;
use tributary_contract::time::Timestamp;

use super::{Accepted, Refused};
use crate::validate::content::{Content, Trouble};

/// What was found out about an object by reading it.
#[derive(Debug)]
pub struct Facts {
    /// Bytes.
    pub size: u64,
    /// Digest of the bytes.
    pub digest: Digest,
    /// The digest that the object's metadata claims.
    pub claimed: Option<String>,
    /// What the bytes hold.
    pub content: Result<Content, Trouble>,
}

/// What the rows say, read one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowFacts {
    /// How many there are.
    pub rows: u64,
    /// Least value of the day column.
    pub min_ts: Option<Timestamp>,
    /// Greatest value of the day column.
    pub max_ts: Option<Timestamp>,
    /// Least seq, for readings.
    pub min_seq: Option<i64>,
    /// Greatest seq, for readings.
    pub max_seq: Option<i64>,
    /// The first row that names another gateway, epoch or number than the key.
    pub foreign: Option<String>,
}

/// The verdict on the object at `key`.
pub fn check(key: &SegmentKey, facts: Facts) -> Result<Accepted, Refused> {
    let Facts { size, digest, claimed, content } = facts;
    let refuse = |(reason, detail): (Reason, String)| Refused { reason, detail, digest: Some(digest) };
    check_digest(digest, claimed.as_deref()).map_err(refuse)?;
    let content = content.map_err(|trouble| match trouble {
        Trouble::Unreadable(detail) => refuse((Reason::Unreadable, detail)),
        Trouble::TooLarge(detail) => refuse((Reason::TooLarge, detail)),
    })?;
    let manifest = check_manifest(key, &content.manifests).map_err(refuse)?;
    if let Some(fault) = schema_fault(key.table, &content.schema) {
        return Err(refuse((Reason::ForeignSchema, fault)));
    }
    let rows = content.rows.map_err(|why| refuse((Reason::Unreadable, why)))?;
    if let Some(fault) = rows_fault(&manifest, &rows) {
        return Err(refuse((Reason::WrongRows, fault)));
    }
    Ok(Accepted { key: key.clone(), digest, size, manifest, footer: content.footer })
}

fn check_digest(digest: Digest, claimed: Option<&str>) -> Result<(), (Reason, String)> {
    let claimed = claimed
        .ok_or_else(|| (Reason::WrongDigest, format!("its metadata has no `{}`", Digest::METADATA_KEY)))?;
    match claimed.parse::<Digest>() {
        Ok(claimed) if claimed == digest => Ok(()),
        Ok(claimed) => {
            Err((Reason::WrongDigest, format!("its metadata says {claimed}, its bytes have {digest}")))
        }
        Err(e) => Err((Reason::WrongDigest, format!("its metadata has an {e}"))),
    }
}

fn check_manifest(key: &SegmentKey, manifests: &[String]) -> Result<Manifest, (Reason, String)> {
    let [json] = manifests else {
        return Err((
            Reason::BadManifest,
            format!("its footer holds {} manifests, expected one", manifests.len()),
        ));
    };
    let classify = |e: ManifestError| {
        let reason = match e {
            ManifestError::Version(0) => Reason::BadManifest,
            ManifestError::Version(_) => Reason::FutureVersion,
            ManifestError::Disagrees { .. } => Reason::WrongName,
            ManifestError::TooLong(_)
            | ManifestError::Json(_)
            | ManifestError::Law(_)
            | ManifestError::Contradiction(_) => Reason::BadManifest,
        };
        (reason, e.to_string())
    };
    let manifest = Manifest::from_json(json).map_err(classify)?;
    manifest.agrees_with(key).map_err(classify)?;
    Ok(manifest)
}

fn rows_fault(manifest: &Manifest, rows: &RowFacts) -> Option<String> {
    if let Some(foreign) = &rows.foreign {
        return Some(foreign.clone());
    }
    if rows.rows != manifest.rows {
        return Some(format!("the manifest says {} rows, the file has {}", manifest.rows, rows.rows));
    }
    for (name, said, found) in
        [("least time", manifest.min_ts, rows.min_ts), ("greatest time", manifest.max_ts, rows.max_ts)]
    {
        match found {
            Some(ts) if !manifest.day.holds(ts) => {
                return Some(format!("its {name} {ts} lies outside its day {}", manifest.day));
            }
            Some(ts) if ts == said => {}
            Some(ts) => return Some(format!("the manifest says {name} {said}, the rows say {ts}")),
            None => return Some(format!("the rows have no {name}")),
        }
    }
    for (name, said, found) in
        [("least", manifest.min_seq, rows.min_seq), ("greatest", manifest.max_seq, rows.max_seq)]
    {
        if said.map(|n| i64::try_from(n).ok()) != found.map(Some) {
            return Some(format!("the manifest says {name} seq {said:?}, the rows say {found:?}"));
        }
    }
    None
}

/// What is wrong with a file's columns, if anything: each must be the table's, by name, type, id and nullability; a
/// column that may be null may be absent, for files of older versions.
pub fn schema_fault(table: Table, found: &Schema) -> Option<String> {
    let expected = table.arrow_schema();
    for field in found.fields() {
        let Ok(wanted) = expected.field_with_name(field.name()) else {
            return Some(format!("`{table}` has no column {:?}", clip(field.name())));
        };
        if let Some(fault) = field_fault(wanted, field) {
            return Some(format!("column `{}`: {fault}", field.name()));
        }
        if found.fields().iter().filter(|f| f.name() == field.name()).count() > 1 {
            return Some(format!("column `{}` is there twice", field.name()));
        }
    }
    let missing =
        expected.fields().iter().find(|f| !f.is_nullable() && found.field_with_name(f.name()).is_err());
    missing.map(|f| format!("required column `{}` is missing", f.name()))
}

fn field_fault(wanted: &Field, found: &Field) -> Option<String> {
    let id = |f: &Field| f.metadata().get(FIELD_ID_KEY).cloned().unwrap_or_default();
    if id(wanted) != id(found) {
        return Some(format!("has field id {:?}, expected {}", clip(&id(found)), id(wanted)));
    }
    if wanted.is_nullable() != found.is_nullable() {
        let word = if wanted.is_nullable() { "optional" } else { "required" };
        return Some(format!("must be {word}"));
    }
    match (wanted.data_type(), found.data_type()) {
        (DataType::Map(wanted, _), DataType::Map(found, _)) => {
            match (wanted.data_type(), found.data_type()) {
                (DataType::Struct(wanted), DataType::Struct(found)) if wanted.len() == found.len() => {
                    wanted.iter().zip(found).find_map(|(w, f)| field_fault(w, f))
                }
                (_, other) => Some(format!("has entries of type {other}")),
            }
        }
        (wanted, found) if wanted == found => None,
        (wanted, found) => Some(format!("has type {found}, expected {wanted}")),
    }
}

/// The beginning of a text that comes from outside, for a message.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

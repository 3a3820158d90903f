//! Pages of a sorted listing: prefix, delimiter, where to go on, and the token that says so.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as TOKEN;

/// Where a listing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// From the first key.
    Start,
    /// Behind this key (which need not exist).
    Key(String),
    /// Behind every key under this common prefix.
    Prefix(String),
}

impl After {
    /// The opaque continuation token.
    pub fn to_token(&self) -> String {
        TOKEN.encode(match self {
            Self::Start => String::new(),
            Self::Key(key) => format!("k{key}"),
            Self::Prefix(prefix) => format!("p{prefix}"),
        })
    }

    /// Reads a token back; `None` if it isn't one of ours.
    pub fn from_token(token: &str) -> Option<Self> {
        let text = String::from_utf8(TOKEN.decode(token).ok()?).ok()?;
        let mut chars = text.chars();
        match chars.next()? {
            'k' => Some(Self::Key(chars.as_str().to_owned())),
            'p' => Some(Self::Prefix(chars.as_str().to_owned())),
            _ => None,
        }
    }

    fn passes(&self, key: &str) -> bool {
        match self {
            Self::Start => true,
            Self::Key(last) => key > last.as_str(),
            Self::Prefix(last) => key > last.as_str() && !key.starts_with(last.as_str()),
        }
    }

    fn least(&self) -> &str {
        match self {
            Self::Start => "",
            Self::Key(last) | Self::Prefix(last) => last,
        }
    }
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page<T> {
    /// Values whose key has no delimiter behind the prefix, in key order.
    pub entries: Vec<T>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// Where the next page begins, when there is one.
    pub next: Option<After>,
}

/// Lists at most `limit` entries and common prefixes together, in the order of the keys' UTF-8 bytes.
pub fn page<T: Clone>(
    all: &BTreeMap<String, T>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &After,
    limit: usize,
) -> Page<T> {
    let mut page = Page { entries: Vec::new(), prefixes: Vec::new(), next: None };
    let mut last = after.clone();
    let least = prefix.max(after.least());
    for (key, value) in all.range::<str, _>((Bound::Included(least), Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        if !last.passes(key) {
            continue;
        }
        if page.entries.len() + page.prefixes.len() == limit {
            // S3 answers max-keys=0 with an empty, complete page.
            page.next = (limit > 0).then_some(last);
            break;
        }
        let group = delimiter.filter(|d| !d.is_empty()).and_then(|d| rest.find(d).map(|at| at + d.len()));
        match group {
            Some(end) => {
                let common = format!("{prefix}{}", &rest[..end]);
                page.prefixes.push(common.clone());
                last = After::Prefix(common);
            }
            None => {
                page.entries.push(value.clone());
                last = After::Key(key.clone());
            }
        }
    }
    page
}

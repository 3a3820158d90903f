//! Rows in the leaves of SQLite's tables, read from single pages: what salvage goes by where no path leads to a page.
//!
//! Format: <https://sqlite.org/fileformat2.html>, "B-tree Pages", "Cell Payload Overflow Pages", "Record Format". Only
//! leaves of tables with rowids are read. The bytes may be anything: what isn't a row gives none.

/// First byte of a leaf of a table.
const TABLE_LEAF: u8 = 0x0d;
/// The database's own header, before the first page's.
const FILE_HEADER: usize = 100;
/// No row of ours is greater.
const LARGEST: usize = 64 << 20;

/// A row as its leaf has it; what doesn't fit lies in a chain of overflow pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Its rowid.
    pub rowid: i64,
    /// Bytes of the whole record.
    pub size: usize,
    /// As many of them as lie in the leaf.
    pub local: &'a [u8],
    /// The first overflow page; 0 if there is none.
    pub overflow: u32,
}

/// A value of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// NULL; also what stands for an integer key.
    Null,
    /// INTEGER.
    Int(i64),
    /// TEXT.
    Text(&'a str),
    /// BLOB.
    Blob(&'a [u8]),
}

/// The rows of a whole page, if it is a leaf of a table. A pointer or a row that leads nowhere is passed over.
pub fn cells(page: &[u8]) -> Vec<Cell<'_>> {
    let start = if page.starts_with(b"SQLite format 3\0") { FILE_HEADER } else { 0 };
    if page.len() < 512 || page.get(start) != Some(&TABLE_LEAF) {
        return Vec::new();
    }
    let short =
        |at: usize| page.get(at..at + 2).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
    let pointers = (0..short(start + 3)).map(|i| short(start + 8 + 2 * i));
    pointers.take(page.len() / 2).filter_map(|at| cell(page, at)).collect()
}

fn cell(page: &[u8], at: usize) -> Option<Cell<'_>> {
    let mut rest = page.get(at..)?;
    let size = usize::try_from(varint(&mut rest)?).ok().filter(|n| *n <= LARGEST)?;
    let rowid = varint(&mut rest)?;
    let local = local_size(size, page.len());
    let (local, rest) = rest.split_at_checked(local)?;
    let overflow = if local.len() == size { 0 } else { u32::from_be_bytes(rest.first_chunk().copied()?) };
    Some(Cell { rowid, size, local, overflow })
}

/// How many bytes of a record of `size` lie in a leaf of `page` bytes.
fn local_size(size: usize, page: usize) -> usize {
    let most = page - 35;
    if size <= most {
        return size;
    }
    let least = (page - 12) * 32 / 255 - 23;
    let fitting = least + (size - least) % (page - 4);
    if fitting <= most { fitting } else { least }
}

/// An overflow page: the next one (0: none), and its bytes of the record.
pub fn overflow(page: &[u8]) -> Option<(u32, &[u8])> {
    let (next, bytes) = page.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*next), bytes))
}

/// The kinds of a record's values, a letter each: `n`ull, `i`nteger, `t`ext, `b`lob, `?` for all else. Its header is
/// enough, and that lies in the leaf.
pub fn kinds(record: &[u8]) -> Option<String> {
    let mut rest = record;
    let header = usize::try_from(varint(&mut rest)?).ok()?;
    let mut types = record.get(record.len() - rest.len()..header)?;
    let mut out = String::new();
    while !types.is_empty() {
        out.push(match varint(&mut types)? {
            0 => 'n',
            1..=6 | 8 | 9 => 'i',
            n @ 12.. if n % 2 == 0 => 'b',
            13.. => 't',
            _ => '?',
        });
    }
    Some(out)
}

/// The values of a record; none if it isn't one, or holds a number with a fraction, which no table of ours has.
pub fn record(bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut rest = bytes;
    let header = usize::try_from(varint(&mut rest)?).ok()?;
    let mut types = bytes.get(bytes.len() - rest.len()..header)?;
    let mut body = bytes.get(header..)?;
    let mut fields = Vec::new();
    while !types.is_empty() {
        let kind = varint(&mut types)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 => 8,
            12.. => usize::try_from((kind - 12) / 2).ok()?,
            _ => return None,
        };
        let (value, behind) = body.split_at_checked(length)?;
        body = behind;
        fields.push(match kind {
            0 => Field::Null,
            8 | 9 => Field::Int(kind - 8),
            1..=6 => {
                let sign = if value.first().is_some_and(|b| *b >= 0x80) { -1 } else { 0 };
                Field::Int(value.iter().fold(sign, |n: i64, b| n << 8 | i64::from(*b)))
            }
            _ if kind % 2 == 0 => Field::Blob(value),
            _ => Field::Text(str::from_utf8(value).ok()?),
        });
    }
    Some(fields)
}

/// SQLite's variable-length integer: seven bits a byte, greatest first, the ninth byte whole.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut n = 0u64;
    for i in 0..9 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        if i == 8 {
            return Some((n << 8 | u64::from(*first)) as i64);
        }
        n = n << 7 | u64::from(first & 0x7f);
        if first & 0x80 == 0 {
            return Some(n as i64);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::{Connection, params};

    use super::*;

    /// Pages of a database that SQLite itself wrote.
    fn written(rows: &[(i64, i64, String, Vec<u8>)]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let sql = Connection::open(&path).unwrap();
        sql.execute_batch("PRAGMA page_size = 1024; CREATE TABLE t (id INTEGER PRIMARY KEY, n, s, b, z)")
            .unwrap();
        sql.execute_batch("BEGIN").unwrap();
        for (id, n, s, b) in rows {
            sql.execute("INSERT INTO t VALUES (?1, ?2, ?3, ?4, NULL)", params![id, n, s, b]).unwrap();
        }
        sql.execute_batch("COMMIT").unwrap();
        drop(sql);
        std::fs::read(path).unwrap()
    }

    fn whole(file: &[u8], cell: &Cell<'_>) -> Vec<u8> {
        let mut bytes = cell.local.to_vec();
        let mut next = cell.overflow;
        while next != 0 {
            let page = &file[(next as usize - 1) * 1024..][..1024];
            let (after, more) = overflow(page).unwrap();
            bytes.extend_from_slice(&more[..more.len().min(cell.size - bytes.len())]);
            next = after;
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn rows_that_sqlite_wrote_are_read_as_they_are(
            numbers in prop::collection::btree_set(any::<i64>(), 1..40),
            n in any::<i64>(),
            small in -200i64..200,
            lengths in prop::collection::vec(0usize..5000, 40),
        ) {
            let rows: Vec<_> = numbers.iter().zip(&lengths).enumerate().map(|(i, (id, length))| {
                let text = "x".repeat(length % 37);
                (*id, if i % 2 == 0 { n } else { small + i as i64 }, text, vec![i as u8; *length])
            }).collect();
            let file = written(&rows);
            let mut read = Vec::new();
            for page in file.chunks(1024) {
                for cell in cells(page) {
                    let bytes = whole(&file, &cell);
                    let fields = record(&bytes).unwrap();
                    prop_assert_eq!(kinds(cell.local).map(|k| k.len()), Some(fields.len()));
                    if let [Field::Null, Field::Int(n), Field::Text(s), Field::Blob(b), Field::Null] = &fields[..] {
                        read.push((cell.rowid, *n, (*s).to_owned(), b.to_vec()));
                    }
                }
            }
            read.sort();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn pages_of_anything_give_rows_or_none_and_no_panic(
            mut page in prop::collection::vec(any::<u8>(), 1024), leaf: bool, first: bool,
        ) {
            if first {
                page[..16].copy_from_slice(b"SQLite format 3\0");
            }
            if leaf {
                page[if first { 100 } else { 0 }] = TABLE_LEAF;
            }
            for cell in cells(&page) {
                let _ = record(cell.local);
            }
        }
    }
}

//! What a damage left of each batch, by walking SQLite's files: an oracle that never asks the buffer.
//!
//! On the files as they were, the tree of the table is walked from its root through the newest frame of each page. On the
//! files as they are, a batch is *intact* if an image of its leaf and one of each page of its chain still have the bytes
//! that they had. Format: <https://sqlite.org/fileformat2.html>.

use std::collections::{BTreeMap, BTreeSet};

const PAGE: usize = 1024;
const FRAME: usize = 24 + PAGE;

/// The two files.
#[derive(Debug, Clone, Default)]
pub(super) struct Bytes {
    pub(super) database: Vec<u8>,
    pub(super) log: Vec<u8>,
}

/// Where one batch lay.
struct Spot {
    leaf: u32,
    /// Its cell's bytes in the leaf, wherever in it they stand.
    cell: Vec<u8>,
    /// Each page of its chain: number, and the bytes of it that count.
    chain: Vec<(u32, Vec<u8>)>,
}

impl Bytes {
    /// Every image of a page: in the database, then in each whole frame that says it is that page.
    fn images(&self, page: u32) -> Vec<&[u8]> {
        let at = (page as usize - 1) * PAGE;
        let database = self.database.get(at..at + PAGE);
        let frames = self.log.get(32..).unwrap_or_default().chunks_exact(FRAME);
        let frames = frames.filter(|f| number(&f[..4]) == u64::from(page)).map(|f| &f[24..]);
        database.into_iter().chain(frames).collect()
    }

    /// The newest image of a page that is committed in the present round of the log.
    fn newest(&self, page: u32) -> &[u8] {
        let salt = self.log.get(16..24).unwrap_or_default();
        let frames = self.log.get(32..).unwrap_or_default().chunks_exact(FRAME);
        let round: Vec<&[u8]> = frames.take_while(|f| f[8..16] == *salt).collect();
        let end = round.iter().rposition(|f| number(&f[4..8]) != 0).map_or(0, |i| i + 1);
        let newest = round[..end].iter().rev().find(|f| number(&f[..4]) == u64::from(page));
        newest.map_or_else(|| &self.database[(page as usize - 1) * PAGE..][..PAGE], |f| &f[24..])
    }

    fn walk(&self, page: u32, out: &mut BTreeMap<i64, Spot>) {
        let bytes = self.newest(page);
        let head = if page == 1 { 100 } else { 0 };
        let cells = number(&bytes[head + 3..head + 5]) as usize;
        let (kind, pointers) = (bytes[head], head + if bytes[head] == 5 { 12 } else { 8 });
        for i in 0..cells {
            let at = number(&bytes[pointers + 2 * i..][..2]) as usize;
            if kind == 5 {
                self.walk(number(&bytes[at..at + 4]) as u32, out);
                continue;
            }
            assert_eq!(kind, 13, "page {page}");
            let (size, a) = varint(&bytes[at..]);
            let (id, b) = varint(&bytes[at + a..]);
            let begin = at + a + b;
            let (size, most) = (size as usize, PAGE - 35);
            let least = (PAGE - 12) * 32 / 255 - 23;
            let local = match least + size.saturating_sub(least) % (PAGE - 4) {
                _ if size <= most => size,
                n if n <= most => n,
                _ => least,
            };
            let spills = local < size;
            let end = begin + local + if spills { 4 } else { 0 };
            let mut chain = Vec::new();
            let (mut left, mut next) = (size - local, 0);
            if spills {
                next = number(&bytes[end - 4..end]) as u32;
            }
            while left > 0 {
                let page = self.newest(next);
                let counts = 4 + left.min(PAGE - 4);
                chain.push((next, page[..counts].to_vec()));
                left -= counts - 4;
                next = number(&page[..4]) as u32;
            }
            out.insert(id as i64, Spot { leaf: page, cell: bytes[at..end].to_vec(), chain });
        }
        if kind == 5 {
            self.walk(number(&bytes[head + 8..head + 12]) as u32, out);
        }
    }
}

/// Batches of which everything is still there, in the database or in the log. `root` is the root page of their table.
pub(super) fn intact(before: &Bytes, after: &Bytes, root: u32) -> BTreeSet<i64> {
    let mut spots = BTreeMap::new();
    before.walk(root, &mut spots);
    let whole = |spot: &Spot| {
        let holds = |image: &[u8]| image.windows(spot.cell.len()).any(|w| w == spot.cell);
        let had: Vec<&[u8]> = before.images(spot.leaf).into_iter().filter(|i| holds(i)).collect();
        let leaf = after.images(spot.leaf).iter().any(|image| had.contains(image));
        leaf && spot
            .chain
            .iter()
            .all(|(page, bytes)| after.images(*page).iter().any(|i| i.starts_with(bytes)))
    };
    spots.into_iter().filter(|(_, spot)| whole(spot)).map(|(id, _)| id).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn varint(bytes: &[u8]) -> (u64, usize) {
    let mut n = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if i == 8 {
            return (n << 8 | u64::from(*byte), 9);
        }
        n = n << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return (n, i + 1);
        }
    }
    panic!("a number that doesn't end")
}

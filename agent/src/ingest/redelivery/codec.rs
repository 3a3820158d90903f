//! The memory as bytes of a batch row: runs of one connection, ids and times as differences.

use tributary_contract::time::Timestamp;

use super::{Kind, Remembered};

const VERSION: u8 = 1;

/// Bytes that are no memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redelivery memory: {0}")]
pub struct MemoryError(&'static str);

/// Writes the memory of one batch: about ten bytes a message. No messages, no bytes.
pub fn encode(memory: &[Remembered]) -> Vec<u8> {
    let mut out = Vec::new();
    if memory.is_empty() {
        return out;
    }
    out.reserve(16 + memory.len() * 11);
    out.push(VERSION);
    for run in memory.chunk_by(|a, b| (a.connection, a.generation) == (b.connection, b.generation)) {
        let Some(head) = run.first() else { continue };
        put(&mut out, u64::from(head.connection));
        put(&mut out, head.generation);
        put(&mut out, run.len() as u64);
        let (mut id, mut ms) = (0_i64, 0_i64);
        for r in run {
            let kind = match r.kind {
                Kind::Session => 0,
                Kind::Content => 1,
                Kind::SessionBegan => 2,
            };
            put(&mut out, zigzag(i64::from(r.packet_id) - id) << 2 | kind);
            id = i64::from(r.packet_id);
            let at = r.at.micros().div_euclid(1000);
            put(&mut out, zigzag(at.wrapping_sub(ms)));
            ms = at;
            out.extend_from_slice(&r.hash.to_le_bytes());
        }
    }
    out
}

/// The memory of a batch whose times move by `by` microseconds; bytes that are no memory stay as they are.
pub fn moved(bytes: &[u8], by: i64) -> Vec<u8> {
    match decode(bytes) {
        Ok(mut memory) => {
            memory.iter_mut().for_each(|r| r.at = r.at.plus(by));
            encode(&memory)
        }
        Err(_) => bytes.to_vec(),
    }
}

/// Reads what [`encode`] wrote. Hostile bytes give an error, never a panic, and allocate no more than they fill.
pub fn decode(bytes: &[u8]) -> Result<Vec<Remembered>, MemoryError> {
    let Some((version, mut rest)) = bytes.split_first() else { return Ok(Vec::new()) };
    if *version != VERSION {
        return Err(MemoryError("written by another version"));
    }
    let mut memory = Vec::with_capacity(bytes.len() / 10);
    while !rest.is_empty() {
        let connection =
            u16::try_from(get(&mut rest)?).map_err(|_| MemoryError("connection out of range"))?;
        let generation = get(&mut rest)?;
        let run = get(&mut rest)?;
        let (mut id, mut ms) = (0_i64, 0_i64);
        for _ in 0..run {
            let head = get(&mut rest)?;
            id = id.wrapping_add(unzigzag(head >> 2));
            let kind = match head & 3 {
                0 => Kind::Session,
                1 => Kind::Content,
                2 => Kind::SessionBegan,
                _ => return Err(MemoryError("unknown kind")),
            };
            ms = ms.wrapping_add(unzigzag(get(&mut rest)?));
            let (hash, after) = rest.split_first_chunk::<8>().ok_or(MemoryError("cut short"))?;
            rest = after;
            memory.push(Remembered {
                connection,
                generation,
                packet_id: u16::try_from(id).map_err(|_| MemoryError("packet id out of range"))?,
                kind,
                hash: u64::from_le_bytes(*hash),
                at: Timestamp::from_millis(ms),
            });
        }
    }
    Ok(memory)
}

const fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

const fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn get(rest: &mut &[u8]) -> Result<u64, MemoryError> {
    let mut n = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(MemoryError("cut short"))?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        n |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(MemoryError("number too long"))
}

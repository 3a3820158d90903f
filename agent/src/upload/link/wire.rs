//! What bytes of HTTP take on the wire: an estimate of what TCP, IP and TLS add.
//!
//! A program can't see what its packets carry besides. Packets of 1,400 bytes with 52 of headers, and an empty packet in
//! the other direction for every second one, are what is usual with mobile operators; TLS adds 22 bytes to each 16 KiB.

/// Payload of a packet, bytes.
const PACKET: u64 = 1400;
/// What TCP and IP add to each: its own headers, and half of an acknowledgement.
const HEADERS: u64 = 52 + 26;
/// What a new TLS connection costs: packets that open and close it, certificates, keys.
const TLS_CONNECTION: u64 = 6500;
/// The same without TLS.
const CONNECTION: u64 = 400;
/// What a request and its answer take beside the body, as HTTP: for what is asked before it is counted.
const HEADS: u64 = 1800;
/// A connection that rested for so long is counted as a new one, microseconds: stores close them after a few seconds.
const RESTS: i64 = 20_000_000;

/// What `bytes` of one message take on the wire.
pub const fn message(bytes: u64) -> u64 {
    let packets = bytes.div_ceil(PACKET);
    bytes.saturating_add(packets.saturating_mul(HEADERS))
}

/// What a request with a body of that many bytes will take, answer included.
pub const fn request(body: u64) -> u64 {
    message(body).saturating_add(message(HEADS))
}

/// What opening a connection takes, if one has to be opened that many microseconds after the last request.
pub const fn connection(idle: i64, tls: bool) -> u64 {
    if idle < RESTS {
        0
    } else if tls {
        TLS_CONNECTION
    } else {
        CONNECTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_a_few_percent_of_a_great_body_and_more_of_a_small_one() {
        let share = |bytes: u64| message(bytes) as f64 / bytes as f64;
        assert!((1.05..1.06).contains(&share(5 << 20)));
        assert!(share(100) > 1.7);
        assert_eq!(message(0), 0);
        assert_eq!(message(u64::MAX), u64::MAX);
        assert!(connection(0, true) == 0 && connection(RESTS, true) > connection(RESTS, false));
    }
}

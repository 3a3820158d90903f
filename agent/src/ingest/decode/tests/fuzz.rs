//! Seeded fuzzing of every decoder: mutated and made-up payloads; nothing panics, and what comes out obeys the limits.
//!
//! `TRIBUTARY_SEED` and `TRIBUTARY_FUZZ` (inputs per decoder) change what is tried; a failure prints seed and input.

use super::*;

/// Payloads to begin with, of each format.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<(&'static str, Vec<u8>)> = [
        ("a/b", r#"{"ts":1714550400123,"device":"d","t":21.5,"x":{"value":1,"unit":"C"},"l":[{"n":"a","v":1},[2,null]]}"#),
        ("senml/x", r#"[{"bn":"urn:dev:ow:1:","bt":1714550400,"bu":"A","n":"v","v":1.5},{"n":"c","t":-5,"vb":true,"s":3}]"#),
        ("telegraf/x", "cpu,host=a\\ b value=1.5,n=7i,s=\"x\\\"y\" 1714550400000000000\nmem free=3u\n"),
        ("a/csv", "time,a,\"b\"\"c\"\n2024-05-01T08:00:00Z,1,x\n1714550400,2,\"y\nz\"\n"),
        ("c8y/s/us", "200,c8y,temp,21.5,C\n211,25,2024-05-01T08:00:00Z\n"),
        ("a/value", "-21.5e3"),
        ("v3/a/devices/d/up", r#"{"end_device_ids":{},"received_at":"2024-05-01T08:00:00Z","uplink_message":{"decoded_payload":{"t":1}}}"#),
        ("ruuvi/g/x", r#"{"data":{"tags":{"AA:BB:CC:DD:EE:FF":{"t":"1.5","timestamp":"1714550400"}}}}"#),
        ("s/x", r#"{"entries":[{"propertyAlias":"/a/b","propertyValues":[{"value":{"doubleValue":1.5},"timestamp":{"timeInSeconds":1}}]}]}"#),
        ("edgex/events/x", r#"{"readings":[{"deviceName":"d","resourceName":"r","value":"1.5","valueType":"Float32","origin":1714550400000000000}]}"#),
    ]
    .into_iter()
    .map(|(topic, text)| (topic, text.as_bytes().to_vec()))
    .collect();
    seeds.push((
        "cbor/x",
        vec![
            0xa4, 0x66, b'd', b'e', b'v', b'i', b'c', b'e', 0x61, b'p', 0x62, b't', b's', 0x1a, 0x66, 0x31,
            0xf6, 0x80, 0x61, b't', 0xfb, 0x40, 0x35, 0x80, 0, 0, 0, 0, 0, 0x61, b'l', 0x9f, 0x01, 0xc2,
            0x42, 1, 0, 0xff,
        ],
    ));
    seeds.push((
        "senml/c",
        vec![0x81, 0xa3, 0x21, 0x62, b'a', b':', 0x00, 0x61, b'v', 0x02, 0xf9, 0x3e, 0x00],
    ));
    seeds.push((
        "pack/x",
        vec![
            0x83, 0xa1, b't', 0xca, 0x41, 0xad, 0x99, 0x9a, 0xa1, b'l', 0x92, 0xd6, 0xff, 0x66, 0x31, 0xf6,
            0x80, 0xc0, 0xa1, b'd', 0xd9, 2, b'o', b'k',
        ],
    ));
    let metric =
        [vec![0x0a, 1, b'm', 0x10, 1, 0x20, 10, 0x69], 1.5f64.to_bits().to_le_bytes().to_vec()].concat();
    let whole =
        [vec![0x08, 0x80, 0xc8, 0xab, 0x99, 0xf3, 0x31, 0x12, metric.len() as u8], metric, vec![0x18, 0]]
            .concat();
    for kind in ["NBIRTH", "NDATA", "NDEATH"] {
        seeds.push((
            if kind == "NBIRTH" {
                "spBv1.0/g/NBIRTH/n"
            } else if kind == "NDATA" {
                "spBv1.0/g/NDATA/n"
            } else {
                "spBv1.0/g/NDEATH/n"
            },
            whole.clone(),
        ));
    }
    seeds.push((
        "spBv1.0/g/NDATA/n",
        vec![
            0x12, 24, 0x0a, 1, b'T', 0x20, 19, 0x92, 1, 16, 0x12, 14, 0x0a, 1, b'r', 0x20, 10, 0x69, 0, 0, 0,
            0, 0, 0, 0xf8, 0x3f,
        ],
    ));
    seeds
}

fn mutated(random: &mut fastrand::Rng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..bytes.len() + 1);
        match random.u8(..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            4 if at < bytes.len() => {
                bytes[at] = *random.choice(b"\x00\xff\x7f\x80\x9f\xbf{}[]\",:=\\\n;#0e-").unwrap()
            }
            5 => {
                let from = random.usize(..other.len() + 1);
                let piece = other[from..].iter().take(random.usize(..32)).copied().collect::<Vec<_>>();
                bytes.splice(at..at, piece);
            }
            6 => {
                let piece: Vec<u8> = bytes[at..].iter().take(random.usize(..16)).copied().collect();
                let times = random.usize(..40);
                bytes.splice(at..at, piece.repeat(times));
            }
            _ => {
                let n = random.u64(..) >> random.u8(..64);
                bytes.splice(at..at, n.to_be_bytes()[random.usize(..8)..].iter().copied());
            }
        }
        bytes.truncate(4096);
    }
    bytes
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_input_makes_a_decoder_panic_or_break_its_limits() {
    let (seed, count) = (env("TRIBUTARY_SEED", 1), env("TRIBUTARY_FUZZ", 5_000));
    let seeds = seeds();
    let mut tried: Vec<Decoder> = Decoder::FORMATS.iter().map(|(_, d)| *d).collect();
    tried.extend(Decoder::PRESETS.map(Decoder::Preset));
    for decoder in tried {
        let mut c = config(vec![source("#", decoder)]);
        c.limits = Limits {
            payload: 4096,
            depth: 16,
            readings: 200,
            text: 100,
            series: 500,
            device_series: 100,
            open_windows: 1000,
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut decoders, mut taken) = (Decoders::new(&c).unwrap(), 0u64);
        for number in 0..count {
            let (topic, payload) = random.choice(&seeds).unwrap();
            let (_, other) = random.choice(&seeds).unwrap();
            let payload = mutated(&mut random, payload, other);
            let shown = || format!("{} seed {seed} input {number} {topic}: {payload:02x?}", decoder.word());
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                decoders.decode(0, topic, &payload, AT, false)
            }));
            let Ok(outcome) = outcome else { panic!("{}", shown()) };
            let Ok(decoded) = outcome else { continue };
            taken += 1;
            assert!(decoded.readings.len() <= 200, "{}", shown());
            for r in &decoded.readings {
                assert!(r.device.len() <= 100 && !r.device.is_empty() && !r.metric.is_empty(), "{}", shown());
                assert!(r.value.numeric().is_none_or(f64::is_finite), "{}", shown());
                assert!(r.metric.len() <= 100 && r.tags.values().all(|t| t.len() <= 100), "{}", shown());
                if let Value::Text(text) = &r.value {
                    assert!(text.len() <= 100, "{}", shown());
                }
            }
        }
        println!("{}: seed {seed}, {count} inputs, {taken} taken", decoder.word());
    }
}

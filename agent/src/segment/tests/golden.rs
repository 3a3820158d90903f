//! Digests of segments of every table, from fixed rows: the same on every architecture that gateways have.
//!
//! `agent/golden/segments.txt` has them, a line each: name, bytes, digest. They hold for one version of the program: another
//! choice of how columns are written, another version of the Parquet library or of zstd makes other bytes, and harms nothing,
//! for nothing is ever encoded again under the same number. Then `TRIBUTARY_GOLDEN=write` writes the file anew, and its
//! change is reviewed with the one that caused it: see that readers agree first.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

/// Pseudo-random numbers by whole-number arithmetic alone: a function of `libm` may differ from one machine to the next.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Two row groups of many pages: slow curves with noise in decimals, as sensors have them, now and then something else.
fn many_readings() -> Vec<Row> {
    let mut numbers = Numbers(1);
    let mut levels = [200_i64; 90];
    let of = |seq: u64| {
        let series = numbers.below(90) as u32;
        let level = &mut levels[series as usize];
        *level += numbers.below(7) as i64 - 3;
        let value = match numbers.below(1000) {
            0 => Value::Int((1 << 53) + 1 + *level),
            1 => Value::Bool(true),
            2 => Value::Text(format!("state {}", numbers.below(5))),
            _ => Value::Float(*level as f64 / 10.0),
        };
        let mut row = reading(seq, series, value);
        row.ts = DAY.start().plus(seq as i64 * 1_000_000 + numbers.below(50) as i64 * 1000);
        row.received_at = row.ts.plus(5000 + numbers.below(128) as i64 * 1000);
        if numbers.below(500) == 0 {
            row.quality = Quality::GOOD.with(Doubt::PossibleDuplicate);
            row.row_tags = Some(Arc::new(tags(&[("trace", "x1")])));
        }
        row
    };
    (0..ROW_GROUP as u64 + 5000).map(of).collect()
}

/// Windows as they are folded, every statistic filled in: of which numbers come out is part of what must agree.
fn many_aggregates() -> Vec<AggregateRow> {
    let mut numbers = Numbers(2);
    let mut of = |i: u32| {
        let values: Vec<f64> =
            (0..=numbers.below(40)).map(|_| numbers.below(5000) as f64 / 100.0 - 7.0).collect();
        AggregateRow {
            functions: Function::ALL.into_iter().collect(),
            ..aggregate(i % 90, i64::from(i / 90), &values)
        }
    };
    (0..9000).map(&mut of).collect()
}

fn digests() -> String {
    let rejects = vec![some_reject(2), some_reject(1)];
    let series = (0..90).map(|key| (*dictionary(key).unwrap()).clone()).collect();
    let segments = [
        ("readings-few", encode(some_readings())),
        ("readings-many", encode(many_readings())),
        ("aggregates-few", encode_aggregates(vec![aggregate(1, 5, &[1.0]), aggregate(2, 4, &[1.0, 2.0])])),
        ("aggregates-many", encode_aggregates(many_aggregates())),
        ("series", encode(series)),
        ("gaps", encode(vec![some_gap("g2"), some_gap("g1")])),
        ("rejects", encode(rejects)),
        ("alerts", encode(vec![some_alert(false), some_alert(true)])),
    ];
    let line =
        |(name, segment): (&str, Vec<u8>)| format!("{name} {} {}\n", segment.len(), Digest::of(&segment));
    segments.map(line).concat()
}

#[test]
fn the_same_rows_give_the_digests_that_lie_here_on_every_architecture() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/segments.txt");
    let got = digests();
    if std::env::var_os("TRIBUTARY_GOLDEN").is_some_and(|word| word == "write") {
        fs::write(&file, &got).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap();
    assert_eq!(got, golden, "{} says otherwise", file.display());
    let tables: BTreeSet<&str> = golden.lines().filter_map(|line| line.split([' ', '-']).next()).collect();
    assert_eq!(tables, Table::ALL.iter().map(|t| t.name()).collect(), "a digest for each table");
}

//! Databases whose every page is right and whose content makes no sense: the buffer starts, and keeps its batches.

use std::fs;

use rusqlite::Connection;
use tributary_contract::reject::RejectReason;

use super::*;

/// A buffer with something in each table, left by a clean stop or by a crash, its log written back into the database.
fn written(clean: bool) -> World {
    let mut world = World::new();
    let (mut buffer, _) = world.open();
    for rows in [2, 3] {
        world.append(&mut buffer, rows).unwrap();
    }
    world.seal(&mut buffer).unwrap();
    let mut batch = world.batch(4);
    batch.messages = MessageCounters { received: 2, accepted: 1, rejected: 1, ..Default::default() };
    batch.rejected = vec![Rejected {
        source: 0,
        received_at: world.now,
        topic: "sensors/x".into(),
        payload: b"{".to_vec(),
        size: 1,
        reason: RejectReason::Malformed,
        detail: "ends early".into(),
    }];
    batch.settings = vec![("a", b"setting".to_vec())];
    buffer.append(batch, &sources()).unwrap();
    if clean {
        buffer.stop().unwrap();
    } else {
        drop(buffer);
    }
    world
}

/// Every table with its columns.
fn columns(world: &World) -> Vec<(String, Vec<String>)> {
    let sql = Connection::open(world.path("buffer.db")).unwrap();
    let list = |text: &str| -> Vec<String> {
        let mut select = sql.prepare(text).unwrap();
        select.query_map([], |r| r.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let tables = list("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    let with_columns = |table: String| {
        let columns = list(&format!("SELECT name FROM pragma_table_info('{table}')"));
        (table, columns)
    };
    tables.into_iter().map(with_columns).collect()
}

/// Changes the database behind the buffer's back, starts, goes on, and looks whether every batch is still there. The
/// change may fail, where the schema doesn't allow it; true if it was made.
fn survives(world: &mut World, folder: &std::path::Path, change: &str, keeps: bool) -> bool {
    fs::remove_dir_all(world.path("")).unwrap();
    copy(folder, &world.path(""));
    world.bucket.clear();
    world.next_value = 9;
    let sql = Connection::open(world.path("buffer.db")).unwrap();
    let made = sql.execute_batch(change).is_ok() && sql.changes() > 0;
    // No trace in a log: the file says so itself.
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(sql);
    fs::write(world.path("buffer.db-wal"), b"").unwrap();
    world.now = world.now.plus(1_000_000);
    let mut opened = Buffer::open(&world.settings()).unwrap_or_else(|e| panic!("{change}: {e}"));
    let rows = match live(world, &mut opened.buffer) {
        Ok(rows) => rows,
        // After a clean stop not everything is looked at: what is found later costs one more life.
        Err(first) => {
            drop(opened);
            let mut again =
                Buffer::open(&world.settings()).unwrap_or_else(|e| panic!("{change}, after {first}: {e}"));
            live(world, &mut again.buffer).unwrap_or_else(|e| panic!("{change}, after {first}: {e}"))
        }
    };
    let lost = (0..9).filter(|value| !rows.contains(value)).count();
    assert!(lost == 0 || !keeps, "{change}: {lost} of 9 readings are lost");
    assert!(rows.contains(&9), "{change}: what comes afterwards isn't there");
    made
}

/// Takes something in, delivers everything, gives the values of the lake.
fn live(world: &mut World, buffer: &mut Buffer) -> Result<Vec<i64>, BufferError> {
    world.read_back(buffer)?;
    world.next_value = 9;
    world.append(buffer, 1)?;
    while world.seal(buffer)?.is_some() {}
    world.deliver(buffer)?;
    buffer.stats()?.books.counters.check()?;
    let segments = world.bucket.values().map(|bytes| serde_json::from_slice::<Segment>(bytes).unwrap());
    Ok(segments.flat_map(|(_, rows)| rows.into_iter().map(|row| row.1)).collect())
}

#[test]
fn whatever_one_column_of_one_table_says_the_buffer_starts_and_keeps_its_batches() {
    for clean in [false, true] {
        let mut world = written(clean);
        let kept = scratch();
        copy(&world.path(""), kept.path());
        let mut made = 0;
        for (table, columns) in columns(&world) {
            for column in columns {
                // A text that isn't UTF-8, bytes, and a number beyond what any column means.
                for value in ["CAST(x'66ff' AS TEXT)", "x'00ff'", "-9000000000000000001"] {
                    let one = format!("UPDATE OR IGNORE {table} SET {column} = {value}");
                    // A batch proves itself by its checksum: where that is wrong, it is lost.
                    made += u32::from(survives(&mut world, kept.path(), &one, table != "batch"));
                }
            }
        }
        assert!(made > 150, "only {made} changes could be made");
    }
}

#[test]
fn a_table_that_is_gone_costs_what_was_in_it_and_no_start() {
    for clean in [false, true] {
        let mut world = written(clean);
        let kept = scratch();
        copy(&world.path(""), kept.path());
        for (table, _) in columns(&world) {
            survives(&mut world, kept.path(), &format!("DROP TABLE {table}"), table != "batch");
        }
    }
}

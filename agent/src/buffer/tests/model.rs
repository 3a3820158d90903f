//! Any order of operations, with a crash at any durable step of any of them, against plain arithmetic.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tributary_contract::desired::Backfill as Request;

use super::requests::begin_one;
use super::*;

#[derive(Debug, Clone, Copy)]
enum Op {
    Append(usize),
    AppendKept(usize),
    Backfill(i64),
    Ask(i64),
    GiveUp(usize),
    Seal,
    Deliver,
    Release,
    Trim,
    Supersede,
    NewEpoch,
    Quarantine,
    Stop,
    Crash,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0usize..30).prop_map(Op::Append),
        3 => (0usize..30).prop_map(Op::AppendKept),
        2 => (0i64..80).prop_map(Op::Backfill),
        2 => (0i64..80).prop_map(Op::Ask),
        2 => (1usize..4).prop_map(Op::GiveUp),
        4 => Just(Op::Seal),
        3 => Just(Op::Deliver),
        2 => Just(Op::Release),
        1 => Just(Op::Trim),
        1 => Just(Op::Supersede),
        1 => Just(Op::NewEpoch),
        1 => Just(Op::Quarantine),
        1 => Just(Op::Stop),
        1 => Just(Op::Crash),
    ]
}

/// What is kept back of the first so many values.
fn all_until(values: i64) -> Backfill {
    let (from, to) = (Timestamp(i64::MIN), Timestamp(START + values * 3_600_000_000));
    Backfill { of: Default::default(), from, to }
}

/// The document after so many requests, each for the first so many values.
fn document(asked: &[i64]) -> Taking {
    let request = |(n, values): (usize, &i64)| Request {
        id: n.to_string(),
        namespace: Namespace::default(),
        device: None,
        metric: None,
        from: Timestamp(i64::MIN),
        to: Timestamp(START + values * 3_600_000_000),
    };
    let requests = asked.iter().enumerate().map(request).map(|request| (request, None)).collect();
    Taking { taken: Taken { revision: asked.len() as u64, ..Taken::default() }, requests }
}

struct Run {
    world: World,
    /// What operators asked for.
    asked: Vec<i64>,
    buffer: Option<Buffer>,
    /// Values of appends that returned.
    acknowledged: BTreeSet<i64>,
    /// Readings of appends that died, and are there or not.
    unanswered: u64,
    /// (epoch, seq) of every row ever handed back.
    seqs: BTreeSet<(Epoch, u64)>,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let buffer = Some(world.open().0);
        Self {
            world,
            asked: Vec::new(),
            buffer,
            acknowledged: BTreeSet::new(),
            unanswered: 0,
            seqs: BTreeSet::new(),
        }
    }

    /// Opens again, as often as the script lets it die there, and reads back.
    fn recover(&mut self, deaths: &[usize]) {
        drop(self.buffer.take());
        for at in deaths {
            self.world.script.die_after(*at);
            if let Ok(opened) = Buffer::open(&self.world.settings()) {
                let mut buffer = opened.buffer;
                let _ = self.world.read_back(&mut buffer);
            }
        }
        self.world.script.live();
        let (mut buffer, _) = self.world.open();
        self.world.read_back(&mut buffer).unwrap();
        self.world.check(&mut buffer);
        self.buffer = Some(buffer);
    }

    fn step(&mut self, op: Op) -> Result<(), BufferError> {
        let Some(mut buffer) = self.buffer.take() else { panic!("it is open between operations") };
        let out = match op {
            Op::Stop => return buffer.stop(),
            Op::Crash => return Err(BufferError::Poisoned),
            Op::Append(rows) | Op::AppendKept(rows) => {
                let first = self.world.next_value;
                self.unanswered += rows as u64;
                let appended = match op {
                    Op::Append(_) => self.world.append_mixed(&mut buffer, rows),
                    _ => self.world.append_kept(&mut buffer, rows),
                };
                appended.map(|appended| {
                    self.acknowledged.extend(first..self.world.next_value);
                    self.unanswered -= rows as u64;
                    for row in appended.rows {
                        assert!(self.seqs.insert((buffer.epoch(), row.seq)), "seq {} came twice", row.seq);
                    }
                })
            }
            Op::GiveUp(batches) => self.world.give_up(&mut buffer, batches).map(|_| ()),
            Op::Backfill(values) => buffer.backfill(all_until(values)).map(|_| ()),
            Op::Ask(values) => {
                self.asked.push(values);
                buffer.take_desired(&document(&self.asked)).and_then(|()| begin_one(&mut buffer)).map(|_| ())
            }
            Op::Seal => buffer
                .end_backfills()
                .and_then(|_| buffer.end_requests())
                .and_then(|_| begin_one(&mut buffer))
                .and_then(|_| self.world.seal(&mut buffer))
                .map(|_| ()),
            Op::Deliver => self.world.deliver(&mut buffer),
            Op::Release => self.world.release(&mut buffer),
            Op::Trim => buffer.trim(3, &|_| false).map(|_| ()),
            Op::NewEpoch => buffer.new_epoch("fork", self.world.now).map(|_| ()),
            // The bucket has another object by that name: what this one holds isn't in the lake under it.
            Op::Supersede => {
                let due = buffer.due(self.world.now, 1);
                due.and_then(|due| {
                    let unsent =
                        due.first().filter(|e| !self.world.bucket.contains_key(&(e.epoch, e.number.get())));
                    unsent.map_or(Ok(()), |e| {
                        buffer.supersede(e.epoch, e.number, "taken", self.world.now).map(|_| ())
                    })
                })
            }
            Op::Quarantine => buffer.entries().and_then(|all| {
                let delivered = all.iter().find(|e| matches!(e.state, Progress::Delivered { .. }));
                delivered.map_or(Ok(()), |e| buffer.quarantine(e.epoch, e.number, "no"))
            }),
        };
        self.buffer = Some(buffer);
        out
    }

    fn finish(mut self, may_doubt: bool) {
        self.recover(&[]);
        let Some(mut buffer) = self.buffer.take() else { panic!("it was just opened") };
        let mut seen = BTreeSet::new();
        buffer
            .scan(Timestamp(i64::MIN), Timestamp(i64::MAX), |row| {
                let Value::Int(value) = row.value else { panic!("{row:?}") };
                assert!(seen.insert(value), "windows see {value} twice");
            })
            .unwrap();
        if buffer.desired().0.revision < self.asked.len() as u64 {
            buffer.take_desired(&document(&self.asked)).unwrap();
        }
        while begin_one(&mut buffer).unwrap().is_some() {}
        while self.world.seal(&mut buffer).unwrap().is_some() {}
        buffer.end_backfills().unwrap();
        buffer.backfill(all_until(i64::from(u16::MAX))).unwrap();
        let lake = self.world.drain(&mut buffer);
        assert!(buffer.end_backfills().is_ok() && buffer.backfill(all_until(100)).unwrap() == 0);
        self.world.release(&mut buffer).unwrap();
        buffer.end_requests().unwrap();
        for one in buffer.desired_status().iter().flat_map(|status| &status.backfills) {
            assert_eq!((one.state.as_str(), one.waiting), ("done", 0), "{one:?}");
            assert!(one.given_up <= one.asked, "{one:?}");
        }
        let values: BTreeSet<i64> = lake.iter().map(|r| r.0).collect();
        assert_eq!(values.len(), lake.len(), "a reading is in the lake twice");
        let lost: Vec<_> = self.acknowledged.difference(&values).collect();
        let gaps = buffer.gaps_to_seal().unwrap();
        let said: u64 = gaps.iter().filter_map(|gap| gap.readings).sum();
        // What is in the lake without having been acknowledged may have been given up as well.
        let more = values.difference(&self.acknowledged).count() as u64;
        assert!(
            (lost.len() as u64..=lost.len() as u64 + self.unanswered - more.min(self.unanswered))
                .contains(&said),
            "acknowledged, but not in the lake: {lost:?}; {said} in gaps: {gaps:?}"
        );
        if !may_doubt {
            assert!(lake.iter().all(|r| r.1), "no epoch ended, and yet there is doubt");
            assert_eq!(buffer.ordinal(), 0);
        }
        // The chain of each epoch has no branch and no unexplained hole.
        for bytes in self.world.bucket.values() {
            let (manifest, _): Segment = serde_json::from_slice(bytes).unwrap();
            manifest.counters.check().unwrap();
            if let Some(previous) = manifest.previous
                && let Some(before) = self.world.bucket.get(&(manifest.epoch, previous.number.get()))
            {
                assert_eq!(Digest::of(before), previous.digest);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_acknowledged_reaches_the_lake_once_wherever_we_die(
        ops in prop::collection::vec((any_op(), prop::option::weighted(0.35, 0usize..14)), 1..14),
        deaths in prop::collection::vec(0usize..24, 0..3),
    ) {
        let mut run = Run::new();
        let mut may_doubt = false;
        for (op, dies) in ops {
            may_doubt |= matches!(op, Op::NewEpoch | Op::Supersede);
            if let Some(points) = dies {
                run.world.script.die_after(points);
            }
            let out = run.step(op);
            run.world.script.live();
            match (out, &run.buffer) {
                (Ok(()), Some(_)) => {}
                (Ok(()), None) => run.recover(&[]),
                (Err(_), _) => run.recover(&deaths),
            }
        }
        run.finish(may_doubt);
    }
}

/// Each operation dies at each of its points in turn: nothing is left to chance.
#[test]
fn each_operation_may_die_at_each_of_its_points() {
    let story = [
        Op::Append(5),
        Op::Append(26),
        Op::Seal,
        Op::Append(3),
        Op::GiveUp(2),
        Op::Seal,
        Op::Deliver,
        Op::Release,
        Op::Trim,
        Op::AppendKept(4),
        Op::Seal,
        Op::Backfill(30),
        Op::Ask(100),
        Op::Seal,
        Op::Supersede,
        Op::Append(2),
        Op::NewEpoch,
        Op::Seal,
        Op::Stop,
    ];
    let mut died = BTreeSet::new();
    for at in 0..story.len() {
        for points in 0.. {
            let mut run = Run::new();
            let mut dead = false;
            for (i, op) in story.into_iter().enumerate() {
                if i == at {
                    run.world.script.die_after(points);
                }
                let out = run.step(op);
                if i == at && out.is_err() {
                    dead = true;
                    died.insert(*run.world.script.seen.lock().unwrap().last().unwrap());
                }
                run.world.script.live();
                if out.is_err() || run.buffer.is_none() {
                    run.recover(&[]);
                }
            }
            run.finish(true);
            if !dead {
                break;
            }
        }
    }
    for point in
        ["append: after", "give up: before", "give up: after", "seal: file renamed", "supersede: after"]
    {
        assert!(died.contains(point), "no run died at {point}: {died:?}");
    }
}

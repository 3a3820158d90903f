//! Kill anywhere, for real: rounds of faults against running processes, and what the tables hold after each.
//!
//! A round publishes numbered messages while agent, receiver, broker and S3 server are killed, stopped and cut off at
//! moments drawn from a seed. Then the faults end, everything drains, and the table is compared, by number, with what
//! the proxy saw acknowledged. What comes in: a seed, and which rounds. What goes out: a line of counts a round, as JSON
//! in a log, from which an interrupted campaign goes on. What survives a crash of the campaign itself: that log.
//! Deliberately absent: exact repetition. The moments are drawn again from the same seed, but what a kill hits is up
//! to the machine.

pub mod schedule;
pub mod sensor;
pub mod victim;
pub mod counts;
pub mod record;
pub mod round;

//! What a process has cost so far, as the kernel counts it. Edge: `/proc`.

use std::fs;

use anyhow::Context;

/// Ticks of processor time in a second: fixed for programs on Linux, whatever the kernel's own is.
const TICKS: f64 = 100.0;

/// Counted since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Seconds of processor, its own and the kernel's for it.
    pub(crate) cpu_seconds: f64,
    /// Bytes that it caused to be written to a device.
    pub(crate) written: u64,
}

impl Cost {
    /// Of the process with this id.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
        };
        parse(&read("stat")?, &read("io")?).with_context(|| format!("/proc/{pid} is laid out differently"))
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

fn parse(stat: &str, io: &str) -> Option<Cost> {
    // The name stands in brackets and may hold anything; user and system time are the 12th and 13th word behind it.
    let words: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |at: usize| words.get(at)?.parse::<u64>().ok();
    let counted =
        |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(Cost {
        cpu_seconds: (ticks(11)? + ticks(12)?) as f64 / TICKS,
        written: counted("write_bytes:")?.saturating_sub(counted("cancelled_write_bytes:")?),
    })
}

/// Bytes of memory: the process's share (PSS) now, and the most that it had resident.
pub(crate) fn memory(pid: u32) -> anyhow::Result<(u64, u64)> {
    let line = |file: &str, name: &str| -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).context("the process is gone")?;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        Ok(found.with_context(|| format!("/proc/{pid}/{file} has no {name}"))? << 10)
    };
    Ok((line("smaps_rollup", "Pss:")?, line("status", "VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_behind_a_name_that_looks_like_more_of_the_line() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 3 4 20 0 2 0 99 1 2";
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(parse(stat, io), Some(Cost { cpu_seconds: 2.0, written: 4096 }));
        assert_eq!(parse("7 (a) S", io), None);
    }
}

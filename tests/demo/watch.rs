//! Looks at tables, agents and proxies once a second, and decides when everything sent is registered.
//!
//! [`Settling`] decides; the rest looks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tributary_tests::lake::{Newest, State, Tables, Windowed};
use tributary_tests::mqtt::{NumberSet, Proxy};

use crate::config::holding;
use crate::count::Counts;
use crate::home::Ports;
use crate::progress::{self, AgentCounters};

/// How long the tables must stand still before readings that are in no window count as too late for any.
const QUIET: Duration = Duration::from_secs(15);
/// How long nothing at all may move before it is said so, and `--exit` gives up.
const STALLED: Duration = Duration::from_secs(300);

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    tables: Tables,
    ports: Ports,
    proxies: Arc<Vec<Proxy>>,
    before: NumberSet,
    readings: Option<State>,
    aggregates: Option<State>,
    rejects: Option<State>,
    agents: Option<AgentCounters>,
    settling: Settling,
    /// The state that was counted last, so that an unchanged table isn't read again.
    counted: Option<(Signature, Counts, Windowed, u64)>,
}

/// The commits that three tables stand at.
type Signature = [Option<String>; 3];

/// What is seen at one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Messages acknowledged: distinct numbers over all starts, or PUBACKs where messages have no numbers.
    pub(crate) acknowledged: u64,
    /// What the agents say, once all have answered.
    pub(crate) agents: Option<AgentCounters>,
    /// Rows of `readings`.
    pub(crate) registered: u64,
    /// Whether nothing has moved for five minutes.
    pub(crate) stalled: bool,
}

impl Watch {
    /// Watches `tables`, the proxies and the agents' status pages; `before` is what was acknowledged in earlier starts.
    pub(crate) fn new(tables: Tables, ports: Ports, proxies: Arc<Vec<Proxy>>, before: NumberSet) -> Self {
        Self {
            tables,
            ports,
            proxies,
            before,
            readings: None,
            aggregates: None,
            rejects: None,
            agents: None,
            settling: Settling::new(Instant::now()),
            counted: None,
        }
    }

    /// All numbers acknowledged so far, over all starts.
    pub(crate) fn acknowledged(&self) -> NumberSet {
        acknowledged(&self.before, &self.proxies)
    }

    /// Looks at everything once.
    ///
    /// # Errors
    /// When catalog or bucket can't be read at the moment; the next look may succeed.
    pub(crate) async fn look(&mut self) -> anyhow::Result<Seen> {
        let answers = join_all(self.ports.gateways.iter().map(|&(_, status)| progress::ask(status))).await;
        if answers.iter().all(Option::is_some) {
            let counters = answers.iter().flatten().map(AgentCounters::from_status);
            self.agents = counters.reduce(AgentCounters::plus);
        }
        for (name, state) in [
            ("readings", &mut self.readings),
            ("aggregates", &mut self.aggregates),
            ("rejects", &mut self.rejects),
        ] {
            let known = state.as_ref().map(|state| state.location.clone());
            if self.tables.location(name)? != known {
                *state = self.tables.load(name).await?;
            }
        }
        let acknowledged = match self.acknowledged().len() {
            0 => self.proxies.iter().map(|proxy| proxy.counts().answered).sum(),
            numbers => numbers,
        };
        let now = Instant::now();
        self.settling.note(now, self.signature(), acknowledged, self.agents);
        Ok(Seen {
            acknowledged,
            agents: self.agents,
            registered: self.readings.as_ref().map_or(0, State::rows),
            stalled: self.settling.is_stalled(now),
        })
    }

    /// Counts the tables as they were at the last look against `sent` messages. The second value tells whether all
    /// of them and the windows that hold them are registered; up to `beyond_horizon` readings may be in none.
    ///
    /// # Errors
    /// When a table can't be read at the moment.
    pub(crate) async fn count(&mut self, sent: u64, beyond_horizon: u64) -> anyhow::Result<(Counts, bool)> {
        let signature = self.signature();
        if self.counted.as_ref().is_none_or(|(counted, ..)| *counted != signature) {
            let tally = match &self.readings {
                Some(state) => self.tables.tally(state).await?,
                None => Default::default(),
            };
            let rejected = match &self.rejects {
                Some(state) => self.tables.rejected(state).await?,
                None => 0,
            };
            let counts = Counts::compare(sent, self.acknowledged().len(), &tally, rejected);
            let names = holding();
            let windowed = match &self.aggregates {
                Some(state) if counts.is_accounted() => self.tables.windowed(state, &names).await?,
                _ => Newest::of(&names).sum(),
            };
            self.counted = Some((signature, counts, windowed, tally.numeric));
        }
        let Some((_, counts, windowed, numeric)) = &self.counted else {
            return Ok((Counts::default(), false));
        };
        let quiet = self.settling.is_quiet(Instant::now());
        let windows =
            windowed.is_complete(*numeric) || (quiet && windowed.may_be_complete(*numeric, beyond_horizon));
        Ok((*counts, counts.is_accounted() && windows))
    }

    /// Whether the tables may hold everything, from their row counts alone: reading them through is dear.
    pub(crate) fn is_worth_counting(&self, sent: u64) -> bool {
        let readings = self.readings.as_ref().map_or(0, State::rows);
        readings >= sent || self.rejects.as_ref().map_or(0, State::rows) > 0
    }

    fn signature(&self) -> Signature {
        [&self.readings, &self.aggregates, &self.rejects]
            .map(|state| state.as_ref().map(|state| state.location.clone()))
    }
}

/// The numbers in `before` and those that the proxies saw acknowledged.
pub(crate) fn acknowledged(before: &NumberSet, proxies: &[Proxy]) -> NumberSet {
    let mut all = before.clone();
    for proxy in proxies {
        all.extend(&proxy.acknowledged_numbers());
    }
    all
}

/// Since when the tables, and everything, stand still.
#[derive(Debug)]
struct Settling {
    seen: (Signature, u64, Option<AgentCounters>),
    tables_since: Instant,
    all_since: Instant,
}

impl Settling {
    fn new(now: Instant) -> Self {
        Self { seen: Default::default(), tables_since: now, all_since: now }
    }

    fn note(&mut self, now: Instant, tables: Signature, acknowledged: u64, agents: Option<AgentCounters>) {
        if self.seen.0 != tables {
            self.tables_since = now;
        }
        let seen = (tables, acknowledged, agents);
        if self.seen != seen {
            self.all_since = now;
            self.seen = seen;
        }
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.duration_since(self.tables_since) >= QUIET
    }

    fn is_stalled(&self, now: Instant) -> bool {
        now.duration_since(self.all_since) >= STALLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_quiet_and_everything_stalls_only_after_standing_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let tables = |name: &str| [Some(name.to_owned()), None, None];
        let agents = Some(AgentCounters::default());
        let mut settling = Settling::new(start);
        settling.note(at(100), tables("a"), 5, agents);
        assert!(!settling.is_quiet(at(114)) && settling.is_quiet(at(115)));
        settling.note(at(120), tables("a"), 6, agents);
        assert!(settling.is_quiet(at(120)), "acknowledgements don't move the tables");
        assert!(!settling.is_stalled(at(419)) && settling.is_stalled(at(420)));
        settling.note(at(420), tables("a"), 6, Some(AgentCounters { sealed: 1, ..AgentCounters::default() }));
        assert!(!settling.is_stalled(at(421)));
        settling.note(at(430), tables("b"), 6, agents);
        assert!(!settling.is_quiet(at(431)));
    }
}

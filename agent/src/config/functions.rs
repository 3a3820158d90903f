//! Which statistics of a window are filled in.

use std::fmt;
use std::str::FromStr;

/// One statistic, by the name that the configuration has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// Column `value_min`.
    Min,
    /// Column `value_max`.
    Max,
    /// Column `value_mean`.
    Mean,
    /// Column `value_sum`.
    Sum,
    /// Column `value_stddev`.
    Stddev,
    /// Columns `value_first` and `first_ts`.
    First,
    /// Columns `value_last` and `last_ts`.
    Last,
    /// Column `value_p50`.
    P50,
    /// Column `value_p95`.
    P95,
    /// Column `value_p99`.
    P99,
    /// Column `time_weighted_mean`.
    TimeWeightedMean,
    /// Column `value_increase`; only where it is chosen.
    Increase,
    /// Column `value_rate`; only where it is chosen.
    Rate,
    /// Column `value_changes`; only where it is chosen.
    Changes,
}

impl Function {
    /// All of them, in the order of their columns.
    pub const ALL: [Function; 14] = [
        Function::Min,
        Function::Max,
        Function::Mean,
        Function::Sum,
        Function::Stddev,
        Function::First,
        Function::Last,
        Function::P50,
        Function::P95,
        Function::P99,
        Function::TimeWeightedMean,
        Function::Increase,
        Function::Rate,
        Function::Changes,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Function::Min => "min",
            Function::Max => "max",
            Function::Mean => "mean",
            Function::Sum => "sum",
            Function::Stddev => "stddev",
            Function::First => "first",
            Function::Last => "last",
            Function::P50 => "p50",
            Function::P95 => "p95",
            Function::P99 => "p99",
            Function::TimeWeightedMean => "time_weighted_mean",
            Function::Increase => "increase",
            Function::Rate => "rate",
            Function::Changes => "changes",
        }
    }

    /// Its column in `aggregates`; of the first and the last reading, that of the value.
    pub fn column(self) -> String {
        match self {
            Function::TimeWeightedMean => self.name().to_owned(),
            _ => format!("value_{}", self.name()),
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl FromStr for Function {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            format!("got {text:?}, expected one of {}", known.join(", "))
        })
    }
}

/// A set of [`Function`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Functions(u16);

impl Functions {
    /// Those that are filled in where nothing is chosen: they mean something for every series. The others are of use for
    /// counters and states.
    pub const USUAL: Functions = Functions(Function::Increase.bit() - 1);

    /// Those that mean something for texts.
    pub const OF_TEXTS: Functions = Functions(Function::Last.bit() | Function::Changes.bit());

    /// Whether `function` is in the set.
    pub const fn has(self, function: Function) -> bool {
        self.0 & function.bit() != 0
    }

    /// Those that both have.
    #[must_use]
    pub const fn and(self, other: Functions) -> Functions {
        Functions(self.0 & other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub const fn or(self, other: Functions) -> Functions {
        Functions(self.0 | other.0)
    }
}

impl FromIterator<Function> for Functions {
    fn from_iter<I: IntoIterator<Item = Function>>(functions: I) -> Self {
        Self(functions.into_iter().fold(0, |bits, f| bits | f.bit()))
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Function::ALL.iter().filter(|x| self.has(**x)).map(|x| x.name())).finish()
    }
}

#[cfg(test)]
mod tests {
    use tributary_contract::table::Table;

    use super::*;

    #[test]
    fn each_function_has_a_column_and_is_read_by_its_name_and_no_other() {
        for f in Function::ALL {
            assert!(Table::Aggregates.arrow_schema().field_with_name(&f.column()).is_ok(), "{f:?}");
            assert_eq!(f.name().parse(), Ok(f));
            let alone: Functions = [f].into_iter().collect();
            assert_eq!(Function::ALL.iter().filter(|g| alone.has(**g)).count(), 1);
        }
        let usual = Function::ALL.into_iter().filter(|f| Functions::USUAL.has(*f));
        assert_eq!(usual.collect::<Vec<_>>(), Function::ALL[..11]);
        let both = Functions::USUAL.or([Function::Rate].into_iter().collect());
        assert!(both.has(Function::Rate) && both.has(Function::Min) && !both.has(Function::Changes));
        assert!("median".parse::<Function>().unwrap_err().contains("p50"));
    }
}

//! Figures: medians with their spread, printed as a table or as JSON lines.

use std::io::Write as _;

use anyhow::Context;
use serde::Serialize;

/// One figure of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    figure: String,
    /// Median of the repetitions.
    value: f64,
    unit: &'static str,
    /// What it is of; of a ratio, what it is compared with.
    against: &'static str,
    /// From the smallest to the greatest of the repetitions.
    spread: f64,
}

impl Figure {
    /// None where nothing was measured.
    pub(crate) fn of(
        figure: String,
        values: &[f64],
        unit: &'static str,
        against: &'static str,
    ) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted.first()?, sorted.last()?);
        let middle = |at: usize| sorted.get(at).copied().unwrap_or_default();
        let value = (middle((sorted.len() - 1) / 2) + middle(sorted.len() / 2)) / 2.0;
        Some(Self { figure, value, unit, against, spread: most - least })
    }
}

/// All figures of a run, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds what was measured.
    pub(crate) fn add(&mut self, figure: Option<Figure>) {
        self.0.extend(figure);
    }

    /// Prints them to standard output.
    ///
    /// # Errors
    /// When nobody reads.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut output = std::io::stdout().lock();
        let mut write = || -> anyhow::Result<()> {
            if !json {
                writeln!(
                    output,
                    "{:<56} {:>12} {:>10}  {:<6} of or against",
                    "figure", "median", "spread", "unit"
                )?;
            }
            for figure in &self.0 {
                if json {
                    writeln!(output, "{}", serde_json::to_string(figure)?)?;
                } else {
                    let Figure { figure, value, unit, against, spread } = figure;
                    writeln!(output, "{figure:<56} {value:>12.3} {spread:>10.3}  {unit:<6} {against}")?;
                }
            }
            Ok(())
        };
        write().context("can't write to standard output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_what_could_be_measured() {
        let of = |values: &[f64]| Figure::of("f".into(), values, "×", "x").map(|f| (f.value, f.spread));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((2.0, 2.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 3.0)));
        assert_eq!(of(&[1.0, f64::NAN]), Some((1.0, 0.0)));
        assert_eq!(of(&[]), None);
    }
}

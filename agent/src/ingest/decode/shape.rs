//! What a source's settings make of the readings that its decoder found: kept or dropped, counted, scaled, renamed.
//!
//! Globs and names are those of the decoder; renaming comes last.

use super::Found;
use super::pattern::glob;
use crate::config::Decoding;
use crate::reading::Value;

/// Applies `settings` to `found`.
pub(super) fn apply(settings: &Decoding, mut found: Vec<Found>) -> Vec<Found> {
    if settings.keep.is_empty() && settings.drop.is_empty() && is_plain(settings) {
        return found;
    }
    let any = |globs: &[String], metric: &str| globs.iter().any(|pattern| glob(pattern, metric));
    found.retain(|f| {
        let metric = f.metric.as_deref().unwrap_or("");
        (settings.keep.is_empty() || any(&settings.keep, metric)) && !any(&settings.drop, metric)
    });
    for f in &mut found {
        let metric = f.metric.clone().unwrap_or_default();
        if let Value::Text(text) = &f.value
            && let Some(number) = settings.states.get(text.trim())
        {
            f.value = number_of(*number);
        }
        if let Some((_, (factor, offset))) = settings.scale.iter().find(|(pattern, _)| glob(pattern, &metric))
            && let (Value::Int(_) | Value::Float(_) | Value::Great(_), Some(number)) =
                (&f.value, f.value.numeric())
        {
            let scaled = number * factor + offset;
            if scaled.is_finite() {
                f.value = Value::Float(tidy(scaled));
            }
        }
        if let Some((_, unit)) = settings.units.iter().find(|(pattern, _)| glob(pattern, &metric)) {
            f.unit = Some(unit.clone());
        }
        if let Some(name) = settings.rename.get(&metric) {
            f.metric = Some(name.clone());
        }
    }
    found
}

fn is_plain(settings: &Decoding) -> bool {
    settings.rename.is_empty()
        && settings.scale.is_empty()
        && settings.units.is_empty()
        && settings.states.is_empty()
}

fn number_of(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        Value::Int(number as i64)
    } else {
        Value::Float(number)
    }
}

/// The number of at most 15 digits nearby, so that 213 × 0.1 is 21.3.
fn tidy(number: f64) -> f64 {
    format!("{number:.14e}").parse().unwrap_or(number)
}

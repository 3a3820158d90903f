//! What one kind of window is: its name, which readings it takes, how it lies in time, what it tells.

use std::sync::Arc;

use super::align::Grid;
use crate::buffer::row::SeriesEntry;
use crate::config::{Functions, Window};
use crate::ingest::decode::pattern::glob;

/// A definition that is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: Arc<str>,
    /// As it is configured.
    pub window: Window,
    /// How its windows lie in time.
    pub grid: Grid,
}

impl Definition {
    /// Those that are configured, in their order.
    pub fn all(windows: &[Window]) -> Arc<[Self]> {
        let of = |w: &Window| Self { name: Arc::from(w.name.as_str()), window: w.clone(), grid: Grid::of(w) };
        windows.iter().map(of).collect()
    }

    /// Whether readings of that series and source enter its windows.
    pub fn takes(&self, entry: &SeriesEntry) -> bool {
        let of = |globs: &[String], text: &str| globs.is_empty() || globs.iter().any(|g| glob(g, text));
        let Window { sources, devices, metrics, .. } = &self.window;
        of(sources, &entry.source) && of(devices, &entry.device) && of(metrics, &entry.metric)
    }

    /// Which statistics of that metric are filled in.
    pub fn functions(&self, metric: &str) -> Functions {
        let matching = self.window.functions.iter().filter(|(g, _)| glob(g, metric));
        matching.max_by_key(|(g, _)| g.len()).map_or(Functions::USUAL, |(_, functions)| *functions)
    }
}

#[cfg(test)]
mod tests {
    use tributary_contract::id::Namespace;
    use tributary_contract::series::SeriesId;
    use tributary_contract::time::Timestamp;

    use super::*;
    use crate::config::{Function, MINUTE};

    fn entry(source: &str, device: &str, metric: &str) -> SeriesEntry {
        SeriesEntry {
            key: 0,
            id: SeriesId(1),
            namespace: Namespace::default(),
            source: source.into(),
            device: device.into(),
            metric: metric.into(),
            tags: Default::default(),
            unit: None,
            value_type: "double",
            first_ts: Timestamp(0),
            last_ts: Timestamp(0),
        }
    }

    #[test]
    fn a_reading_enters_where_its_source_device_and_metric_all_match() {
        let globs = |list: &[&str]| list.iter().map(|g| (*g).to_owned()).collect();
        let window = Window {
            sources: globs(&["plant"]),
            metrics: globs(&["temp*", "energy"]),
            ..Window::tumbling("w", MINUTE)
        };
        let d = &Definition::all(&[window])[0];
        assert!(d.takes(&entry("plant", "d", "temp_in")) && d.takes(&entry("plant", "x", "energy")));
        assert!(!d.takes(&entry("plant", "d", "humidity")) && !d.takes(&entry("office", "d", "energy")));
        assert!(Definition::all(&[Window::tumbling("w", MINUTE)])[0].takes(&entry("a", "b", "c")));
    }

    #[test]
    fn the_longest_glob_says_which_statistics_are_filled_in() {
        let set = |list: &[Function]| list.iter().copied().collect::<Functions>();
        let (few, one) = (set(&[Function::Min, Function::Max]), set(&[Function::Last]));
        let functions = vec![("*".to_owned(), few), ("door*".to_owned(), one)];
        let d = &Definition::all(&[Window { functions, ..Window::tumbling("w", MINUTE) }])[0];
        assert_eq!((d.functions("temp"), d.functions("door_3")), (few, one));
        assert_eq!(Definition::all(&[Window::tumbling("w", MINUTE)])[0].functions("temp"), Functions::USUAL);
    }
}

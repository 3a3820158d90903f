//! What one kind of window is: its name, how it lies in time, what it tells.

use std::sync::Arc;

use super::align::Grid;
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

    /// Which statistics of that metric are filled in.
    pub fn functions(&self, metric: &str) -> Functions {
        self.chosen(metric).unwrap_or(Functions::USUAL)
    }

    /// The same of its texts; none where nothing that means something for texts was chosen: then they enter no window.
    pub fn functions_of_texts(&self, metric: &str) -> Functions {
        self.chosen(metric).map_or(Functions::default(), |chosen| chosen.and(Functions::OF_TEXTS))
    }

    fn chosen(&self, metric: &str) -> Option<Functions> {
        let matching = self.window.functions.iter().filter(|(g, _)| glob(g, metric));
        matching.max_by_key(|(g, _)| g.len()).map(|(_, functions)| *functions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Function, MINUTE};

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
